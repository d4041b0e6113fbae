"""Of equal sequences the first row stays, whatever the batches and partitions."""

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.dataset.dataset_ptransforms import DropDuplicates, FindDuplicates
from flowloom.transforms.dataset.duplicates import drop_duplicates, find_duplicates, merge_duplicates, part_rows

cells = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30)


def rows_of(rows: list[tuple[int, int, int]]) -> pa.RecordBatch:
    """Return rows of (sequence, split, start); ids ascend and gaps differ."""
    batch = synthetic_flows(len(rows))
    columns = {
        "flow_id": [number.to_bytes(16, "big") for number in range(len(rows))],
        "start": [row[2] for row in rows],
        "pkt_size": [[40, 40 + row[0]] for row in rows],
        "pkt_dir": [[1, -1]] * len(rows),
        "pkt_gap_ns": [[0, number] for number in range(len(rows))],
    }
    for name, values in columns.items():
        at = FLOWS.get_field_index(name)
        batch = batch.set_column(at, FLOWS.field(at), pa.array(values, FLOWS.field(at).type))
    split = pa.array([row[1] for row in rows], pa.int8())
    return batch.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)


def kept_by_dictionary(rows: list[tuple[int, int, int]], scope: str) -> list[bytes]:
    first = {}
    order = sorted(range(len(rows)), key=lambda at: (rows[at][1], rows[at][2], at))
    for at in order:
        first.setdefault((rows[at][0], rows[at][1] if scope == "split" else None), at)
    return [at.to_bytes(16, "big") for at in sorted(first.values())]


def kept(batches: list[pa.RecordBatch], scope: str, stripe: str = "") -> list[bytes]:
    parts: dict[tuple[str, int], list[bytes]] = {}
    for batch in batches:
        for key, packed in part_rows(stripe, batch):
            parts.setdefault(key, []).append(packed)
    found = merge_duplicates([{key[0]: find_duplicates(packed, scope)} for key, packed in parts.items()])
    left = [rows for batch in batches for _, rows in drop_duplicates((stripe, batch), found)]
    assert all(rows.num_rows for rows in left), "a shard cannot take a batch without rows"
    return sorted(flow for rows in left for flow in rows["flow_id"].to_pylist())


@settings(deadline=None, max_examples=25)
@given(cells, st.integers(1, 30), st.sampled_from(["split", "all"]))
def test_the_first_of_each_sequence_stays(rows, size, scope):
    batch = rows_of(rows)
    parts = [batch.slice(at, size) for at in range(0, len(rows), size)][::-1]
    assert kept(parts, scope) == kept_by_dictionary(rows, scope)


def test_stripes_are_looked_at_one_by_one():
    batch = rows_of([(0, 0, 0), (0, 0, 1)])
    found = {"app": batch["flow_id"][1].as_py()}
    assert list(drop_duplicates(("app", batch), found)) == [("app", batch.slice(0, 1))]
    assert list(drop_duplicates(("attack", batch), found)) == [("attack", batch)]
    assert list(drop_duplicates(("app", batch.slice(1)), found)) == []


@pytest.mark.parametrize("scope", ["split", "all"])
def test_the_transforms_keep_the_rest_and_count(scope):
    cells = [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 2)]
    rows = rows_of(cells)
    with beam.Pipeline("FnApiRunner") as pipeline:
        stripes = pipeline | beam.Create([("", rows.slice(0, 2)), ("", rows.slice(2))])
        found = stripes | DropDuplicates(stripes | FindDuplicates(scope))
        ids = found.rows | "Ids" >> beam.FlatMapTuple(lambda stripe, rows: rows["flow_id"].to_pylist())
        expected = kept_by_dictionary(cells, scope)
        assert_that(ids, equal_to(expected), label="Kept")
        dropped = found.counts | beam.Map(lambda counts: (counts.rows[""], counts.duplicates))
        totals = dropped | beam.CombineGlobally(lambda pairs: tuple(map(sum, zip((0, 0), *pairs, strict=False))))
        assert_that(totals, equal_to([(len(expected) - 4, 4 - len(expected))]), label="Counts")
