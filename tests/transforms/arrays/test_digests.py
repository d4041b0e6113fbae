"""A row's digest changes with any cell of it, and with nothing else."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import labelled
from flowloom.transforms.arrays.digests import content_hash, keyed_hash, row_digests

ROWS = 40
CELLS = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("small", pa.uint8()),
        pa.field("text", pa.string()),
        pa.field("blob", pa.binary(3)),
        pa.field("list", pa.list_(pa.field("item", pa.uint16(), nullable=False))),
    ]
)
cells = st.fixed_dictionaries(
    {
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "small": st.none() | st.integers(0, 255),
        "text": st.none() | st.text(max_size=20),
        "blob": st.none() | st.binary(min_size=3, max_size=3),
        "list": st.none() | st.lists(st.integers(0, 65_535), max_size=12),
    }
)


def flows(rows: int = ROWS) -> pa.RecordBatch:
    batch = synthetic_flows(rows)
    labels = pa.array([None if row % 3 == 0 else row % 5 for row in range(rows)], pa.int32())
    return pa.RecordBatch.from_arrays([*batch.columns, labels], schema=labelled(batch.schema, ["app"]))


@settings(deadline=None)
@given(st.permutations(range(ROWS)), st.lists(st.integers(0, ROWS), max_size=4), st.integers(1, 7))
def test_neither_order_nor_cuts_nor_shards_change_the_hash(order, cuts, shards):
    whole = flows()
    expected = content_hash([row_digests(whole, "train")], "tasks")
    edges = sorted({0, ROWS, *cuts})
    pieces = [whole.take(pa.array(order)).slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    assert content_hash([row_digests(piece, "train") for piece in pieces], "tasks") == expected
    number = keyed_hash(whole["flow_id"], "shard") % np.uint64(shards)
    in_shards = [whole.filter(pa.array((number == shard).tolist())) for shard in range(shards)]
    assert content_hash([row_digests(rows, "train") for rows in in_shards], "tasks") == expected


@settings(deadline=None, max_examples=300)
@given(cells, cells)
def test_rows_have_the_same_digest_exactly_when_all_cells_are_equal(one, other):
    batch = pa.RecordBatch.from_pylist([one, other, one], schema=CELLS)
    digests = row_digests(batch, "")
    assert np.array_equal(digests[0], digests[2])
    assert np.array_equal(digests[0], digests[1]) == (one == other)


@settings(deadline=None)
@given(st.lists(cells, min_size=1, max_size=20), st.data())
def test_a_slice_has_the_digests_of_its_rows(rows, data):
    batch = pa.RecordBatch.from_pylist(rows, schema=CELLS)
    start = data.draw(st.integers(0, len(rows) - 1))
    np.testing.assert_array_equal(row_digests(batch.slice(start), ""), row_digests(batch, "")[start:])


def test_every_column_counts():
    batch = flows()
    before = row_digests(batch, "")
    for at, field in enumerate(batch.schema):
        other = batch.columns[at].take(pa.array([1, 0, *range(2, ROWS)]))
        changed = row_digests(batch.set_column(at, field, other), "")
        differs = batch.columns[at][0] != batch.columns[at][1]
        assert np.array_equal(changed[0], before[0]) != differs, field.name
        np.testing.assert_array_equal(changed[2:], before[2:])


def test_context_names_and_types_count():
    batch = flows(3)
    digests = [
        row_digests(batch, "train"),
        row_digests(batch, "test"),
        row_digests(batch.rename_columns([*batch.schema.names[:-1], "label_other"]), "train"),
        row_digests(batch.select(batch.schema.names[:-1]), "train"),
    ]
    assert len({digest.tobytes() for digest in digests}) == len(digests)


def test_the_hash_depends_on_the_tasks():
    digests = [row_digests(flows(3), "train")]
    assert content_hash(digests, "a, b") != content_hash(digests, "b, a")


def test_a_batch_without_rows_has_no_digests():
    assert row_digests(flows().slice(0, 0), "").shape == (0, 2)


def test_a_type_that_cannot_be_digested_is_named():
    nested = pa.RecordBatch.from_pylist([{"pairs": {"a": 1}}])
    with pytest.raises(TypeError, match=r"column 'pairs' must be of fixed width.*struct"):
        row_digests(nested, "")


def test_keyed_hashes_are_uniform_and_independent():
    ids = synthetic_flows(20_000)["flow_id"]
    one, other = (keyed_hash(ids, key) % np.uint64(4) for key in ("shard", "split 7"))
    counts = np.bincount((one * np.uint64(4) + other).astype(np.int64), minlength=16)
    assert counts.min() > 1100
    assert counts.max() < 1400
