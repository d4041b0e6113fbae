"""Duplicates: the first row of equal sequences stays, for any batches and partitions."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.dataset.dataset_ptransforms import DropDuplicates, FindDuplicates
from flowloom.transforms.dataset.duplicates import drop_duplicates, find_duplicates
from flowloom.transforms.dataset.layouts import LaidOut

cells = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30)


def rows_of(rows: list[tuple[int, int, int]]) -> pa.RecordBatch:
    """Returns rows of (sequence, split, start); ids ascend and gaps differ."""
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
    found = find_duplicates([(stripe, batch) for batch in batches], scope)
    left = [drop_duplicates(stripe, batch, found)[0] for batch in batches]
    return sorted(flow for rows in left for flow in rows["flow_id"].to_pylist())


@settings(deadline=None, max_examples=25)
@given(cells, st.integers(1, 30), st.sampled_from(["split", "all"]))
def test_the_first_row_of_each_sequence_stays(rows, size, scope):
    batch = rows_of(rows)
    parts = [batch.slice(at, size) for at in range(0, len(rows), size)][::-1]
    assert kept(parts, scope) == kept_by_dictionary(rows, scope)


def test_stripes_are_compared_separately():
    batch = rows_of([(0, 0, 0), (0, 0, 1)])
    found = {"app": batch["flow_id"][1].as_py()}
    assert drop_duplicates("app", batch, found) == (batch.slice(0, 1), LaidOut({"app": -1}, duplicates=1))
    assert drop_duplicates("attack", batch, found) == (batch, LaidOut({"attack": 0}))
    assert drop_duplicates("app", batch.slice(1), found)[0].num_rows == 0


@pytest.mark.parametrize("scope", ["split", "all"])
def test_the_transforms_keep_other_rows_and_count_duplicates(scope):
    cells = [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 2), (0, 0, 3)]
    rows = rows_of(cells)
    stripes = [("", rows.slice(0, 2)), ("", rows.slice(2, 2)), ("", rows.slice(4))]
    (found,) = stripes | FindDuplicates(scope)
    assert found == find_duplicates(stripes, scope)
    dropped = stripes | DropDuplicates(found)
    expected = [drop_duplicates(stripe, batch, found) for stripe, batch in stripes]
    assert dropped.rows == [("", batch) for batch, _ in expected if batch.num_rows]
    assert dropped.counts == [counts for _, counts in expected]
    left = sorted(flow for _, batch in dropped.rows for flow in batch["flow_id"].to_pylist())
    assert left == kept_by_dictionary(cells, scope)
