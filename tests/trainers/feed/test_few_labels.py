"""Few labels: each class keeps the requested number in any order of rows, and the feed masks the others."""

import collections
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.few_labels import few_labels, kept_flows
from flowloom.trainers.feed.flow_spec import FeatureSpec

codes = st.lists(st.integers(-1, 3), max_size=80)


def ids(count):
    return pa.array([hashlib.sha256(bytes([n])).digest()[:16] for n in range(count)], pa.binary(16))


@settings(deadline=None, max_examples=50)
@given(codes, st.integers(0, 9), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_each_class_keeps_the_requested_labels_in_any_order(labels, per_class, seed, random):
    labels = np.array(labels, np.int32)
    flow_ids = ids(len(labels))
    kept = few_labels(flow_ids, labels, per_class, seed)
    counts = collections.Counter(labels[labels >= 0].tolist())
    found = collections.Counter(labels[kept].tolist())
    assert found == {code: min(count, per_class) for code, count in counts.items() if per_class}
    more = few_labels(flow_ids, labels, per_class + 1, seed)
    assert (more | ~kept).all(), "one of more labels holds each of fewer"
    order = np.array(random.sample(range(len(labels)), len(labels)), np.int64)
    np.testing.assert_array_equal(
        few_labels(flow_ids.take(pa.array(order)), labels[order], per_class, seed), kept[order]
    )
    if len(labels):
        np.testing.assert_array_equal(few_labels(flow_ids[1:], labels[1:], 99, seed), labels[1:] >= 0)


def test_the_seed_chooses_the_flows_evenly():
    labels, flow_ids = np.zeros(100, np.int32), ids(100)
    chosen = np.stack([few_labels(flow_ids, labels, 10, seed) for seed in range(300)])
    assert len({tuple(row) for row in chosen}) == 300
    times = chosen.sum(axis=0)  # each flow is chosen 30 times of 300, give or take 5.2
    assert times.min() > 8
    assert times.max() < 56


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="per_class must be >= 0, got -1"):
        few_labels(ids(1), np.zeros(1, np.int32), -1, 0)
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        few_labels(ids(1), np.zeros(2, np.int32), 1, 0)


def feed(dataset, **fields):
    features = FeatureSpec.of(dataset.card, 6, ("size",), "fixed")
    return Feed(dataset, "train", features, 16, **{"seed": 1, "window_rows": 200, **fields})


def counted(feed, epoch=0):
    """Returns the labels of each task in an epoch with their counts, and the number of rows."""
    tensors = [feed.tensors(epoch, number)[2] for number in range(len(feed.windows(epoch)))]
    labels = np.concatenate(tensors)
    tasks = [task.name for task in feed.dataset.tasks]
    return {task: collections.Counter(labels[:, n].tolist()) for n, task in enumerate(tasks)}, len(labels)


@pytest.mark.parametrize(("layout", "striped"), [("aurora", False), ("aurora", True), ("rainbow", True)])
def test_a_feed_masks_all_others(synthetic, layout, striped):
    dataset = Dataset.open(synthetic(layout=layout))
    kept = kept_flows(dataset, {"app": 5}, seed=7)
    assert set(kept) == {"app"}
    whole, rows = counted(feed(dataset, striped=striped))
    few, few_rows = counted(feed(dataset, striped=striped, kept=kept))
    assert few_rows == rows
    assert {code: few["app"][code] for code in range(3)} == {0: 5, 1: 5, 2: 5}
    assert few["app"][-1] == rows - 15
    assert few["attack"] == whole["attack"]


def test_shards_do_not_change_the_choice(synthetic):
    one, other = (kept_flows(Dataset.open(synthetic(shards=n)), {"app": 5}, 7)["app"] for n in (1, 3))
    assert set(one.to_pylist()) == set(other.to_pylist())
    assert len(one) == 15


def test_flows_without_a_label_that_counts_can_be_dropped(synthetic):
    dataset = Dataset.open(synthetic()).restricted(["app"])
    of = feed(dataset, kept=kept_flows(dataset, {"app": 5}, 7), only_labelled=True)
    few, rows = counted(of)
    assert (few, rows) == ({"app": {0: 5, 1: 5, 2: 5}}, 15)
    assert len(of.stripes(0)) == sum(-(-window.rows // 16) for window in of.windows(0))
    streamed = [weights["app"].numpy() for _, _, weights in of.batches(epochs=2)]
    assert len(streamed) == 2 * len(of.stripes(0))
    assert np.concatenate(streamed).tolist() == [1.0] * 30


def test_a_split_without_a_label_that_counts_is_refused(synthetic):
    dataset = Dataset.open(synthetic()).restricted(["app"])
    with pytest.raises(FlowloomError, match="has no rows"):
        feed(dataset, kept={"app": pa.array([], pa.binary(16))}, only_labelled=True)
