"""Rearranged rows equal Arrow's `take` for any columns, nulls and slices."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.transforms.arrays.take import gathered, rearranged


def labelled(count: int) -> pa.RecordBatch:
    codes = pa.array([None if at % 3 == 0 else at for at in range(count)], pa.int32())
    return synthetic_flows(count).append_column(pa.field("label_app", pa.int32()), codes)


@settings(deadline=None)  # the first call compiles
@given(
    count=st.integers(0, 40), data=st.data(), start=st.integers(0, 10), bits=st.sampled_from([pa.int8(), pa.uint64()])
)
def test_equal_to_take(count, data, start, bits):
    rows = labelled(count + start).slice(start)
    extra = pa.array([[at] * (at % 4) for at in range(count)], pa.list_(bits))
    rows = rows.append_column("extra", extra)
    order = data.draw(st.lists(st.integers(0, count - 1), max_size=60)) if count else []
    found = rearranged(rows, np.array(order, np.int64))
    found.validate(full=True)
    assert found.equals(rows.take(pa.array(order, pa.int64())))


def test_lists_with_nulls_are_arrows_to_take():
    rows = pa.record_batch({"x": pa.array([[1], None, [], [2, 3]], pa.list_(pa.int16()))})
    assert rearranged(rows, np.array([3, 1, 0], np.int64))["x"].to_pylist() == [[2, 3], None, [1]]


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=5), data=st.data())
def test_rows_gathered_from_batches_are_those_of_one(counts, data):
    count = sum(counts)
    whole = labelled(count)
    batches = [whole.slice(sum(counts[:at]), size) for at, size in enumerate(counts)]
    order = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=30)) if count else []
    found = gathered(batches, np.array(order, np.int64)) if order else whole.slice(0, 0)
    found.validate(full=True)
    assert found.equals(whole.take(pa.array(order, pa.int64())))


def test_a_place_outside_is_an_error():
    with pytest.raises(IndexError):
        rearranged(labelled(3), np.array([3], np.int64))
