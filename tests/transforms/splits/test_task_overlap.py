"""Overlap of tasks: comparison with a plain count, and measures of extreme tables."""

import collections

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.splits.task_overlap import count_pairs, cramers_v, task_overlap

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("a", "b", "c")),
    Task(name="attack", kind="binary"),
    Task(name="pace", kind="multiclass", vocabulary=("x", "y")),
)
labels = st.tuples(*(st.one_of(st.none(), st.integers(0, len(task.vocabulary) - 1)) for task in TASKS))


def rows(of: list) -> pa.RecordBatch:
    columns = list(zip(*of, strict=True)) or [()] * len(TASKS)
    arrays = [pa.array(column, pa.int32()) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, [f"label_{task.name}" for task in TASKS])


@given(st.lists(labels, max_size=40), st.integers(0, 40))
def test_tables_equal_plain_counts_for_any_parts(of, cut):
    merged = sum_by_key([count_pairs(rows(of[:cut]), TASKS), count_pairs(rows(of[cut:]), TASKS)])
    assert list(merged) == [("app", "attack"), ("app", "pace"), ("attack", "pace")]
    for (one, other), pair in {("app", "attack"): (0, 1), ("app", "pace"): (0, 2), ("attack", "pace"): (1, 2)}.items():
        expected = collections.Counter((row[pair[0]], row[pair[1]]) for row in of)
        for place, count in np.ndenumerate(merged[one, other]):
            assert count == expected[place]
        found = task_overlap((one, other), "train", merged[one, other])
        if found.cramers_v is not None:
            assert 0 <= found.cramers_v <= 1
            assert found.commonest <= found.determined <= 1


def test_stripes_have_no_pairs():
    assert count_pairs(rows([(0, 1, 1)]).select(["label_app"]), TASKS) == {}


def test_determined_and_independent_tasks():
    assert cramers_v(np.array([[9, 0, 0], [0, 4, 0], [0, 0, 1]])) == 1
    assert cramers_v(np.outer([1, 2, 3], [5, 7])) == pytest.approx(0, abs=1e-12)
    assert cramers_v(np.array([[3, 4]])) is None
    # for 2 x 2 tables, V is |phi|, Pearson's correlation of the two labels
    table = np.array([[10, 3], [2, 7]])
    one, other = np.repeat([0, 0, 1, 1], table.ravel()), np.repeat([0, 1, 0, 1], table.ravel())
    assert cramers_v(table) == pytest.approx(abs(np.corrcoef(one, other)[0, 1]))
    found = task_overlap(("app", "attack"), "test", np.array([[10, 3], [2, 7], [0, 0]]))
    assert (found.determined, found.commonest) == (17 / 22, 13 / 22)
