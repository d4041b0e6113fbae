"""Profiles against a count packet by packet."""

import collections

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.feature_profile import PACKETS, PROFILE, PROFILED, bin_name
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.profile_counts import ProfileCounts, profile_dataset, read_profile

K = 6


def counted(batches, columns=tuple(SEQUENCES)):
    counts = ProfileCounts(columns, K)
    for batch in batches:
        counts.add(batch)
    return counts.profile()


def within(name, value):
    """Returns the number of the bin of a value, by a search through all bins."""
    for number in range(PROFILED[name][1]):
        low, _, high = bin_name(name, number, K).partition(" to ")
        if int(low) <= value <= int(high or low):
            return number
    raise AssertionError(f"{value} of {name} is in no bin")


@pytest.mark.parametrize("name", [*SEQUENCES, "protocol"])
def test_bins_equal_a_slow_count(name):
    flows = synthetic_flows(40, k=9)
    rows = flows[name].to_pylist()
    values = [value for row in rows for value in (row[:K] if isinstance(row, list) else [row])]
    expected = collections.Counter(within(name, value) for value in values)
    found = counted([flows]).counts[name]
    assert {number: count for number, count in enumerate(found) if count} == expected


def test_packets_are_counted_up_to_k():
    flows = synthetic_flows(60, k=9)
    lengths = [len(row) for row in flows["pkt_size"].to_pylist()]
    expected = [sum(length == n for length in lengths) for n in range(1, K + 1)]
    assert counted([flows]).counts[PACKETS] == (*expected, sum(length > K for length in lengths))


def test_batches_and_slices_count_like_the_whole():
    flows = synthetic_flows(50, k=9)
    assert counted([flows.slice(0, 13), flows.slice(13, 1), flows.slice(14)]) == counted([flows])


def test_lists_that_were_cut_count_as_longer_than_k():
    flows = synthetic_flows(30, k=K)
    many = flows.set_column(
        flows.schema.get_field_index("packets_fwd"), "packets_fwd", pa.array(np.full(30, 99, np.uint64))
    )
    assert counted([many]).counts[PACKETS][-1] == 30


def test_a_dataset_is_profiled_by_its_train_rows(synthetic):
    dataset = Dataset.open(synthetic())
    found = profile_dataset(dataset, ("pkt_size",), K)
    assert found.rows == dataset.card.splits["train"].rows
    assert set(found.counts) == {"pkt_size", "protocol", PACKETS}
    assert found.classes == dataset.card.splits["train"].classes


def test_a_damaged_profile_is_named(tmp_path):
    assert read_profile(tmp_path) is None
    (tmp_path / PROFILE).write_text('{"k": 3}')
    with pytest.raises(FlowloomError, match=r"profile.json is damaged"):
        read_profile(tmp_path)
