"""Row tables: equal rows are there once, classes have their limit, and flows stay whole unless asked otherwise."""

import numpy as np
import pyarrow as pa
import pytest
from stored_views import store_views

from flowloom.pipelines.reproduce.mtc.row_table import RowTable, first_of_equal
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset

TASKS = (
    Task(name="kind", kind="multiclass", vocabulary=("a", "b", "c")),
    Task(name="vpn", kind="multiclass", vocabulary=("no", "yes")),
)


def packets(flows, per_flow=3, length=8, seed=0):
    """Packets of flows: the second half repeats the bytes of the first, and every ninth flow has no kind."""
    generator = np.random.default_rng(seed)
    content = generator.integers(0, 256, (flows * per_flow, length)).astype(np.uint8)
    content[len(content) // 2 :] = content[: len(content) - len(content) // 2]
    of = np.repeat(np.arange(flows), per_flow)
    kinds = pa.array(np.where(of % 9 == 8, -1, of % 3).astype(np.int32), mask=of % 9 == 8)
    return pa.table(
        {
            "flow_id": pa.array([int(n).to_bytes(16, "big") for n in of], pa.binary(16)),
            "record": pa.array(np.arange(len(of))),
            "bytes": pa.array([row.tobytes() for row in content], pa.binary(length)),
            label_column("kind"): kinds,
            label_column("vpn"): pa.array((of % 2).astype(np.int32)),
        }
    )


@pytest.fixture
def stored(synthetic, tmp_path):
    card = Dataset.open(synthetic()).card
    rows = packets(60)
    tables = {("packets", split): rows[at::3] for at, split in enumerate(("train", "validation", "test"))}
    return store_views(tmp_path / "dataset", card, tables, tasks=TASKS)


def test_rows_of_all_splits_with_a_label_are_there_once(stored):
    whole, distinct = (RowTable.read(stored, "packets", distinct=each) for each in (False, True))
    assert len(whole.values) == 162  # 60 flows less 6 without a kind
    assert whole.equal == 0
    assert distinct.equal == len(whole.values) - len(distinct.values) > 0
    assert len({row.tobytes() for row in whole.values}) == len(distinct.values)
    assert len(set(whole.row_ids.to_pylist())) == 162
    assert len(set(whole.flow_ids.to_pylist())) == 54
    for task in TASKS:
        assert set(np.unique(whole.labels[task.name])) == set(range(len(task.vocabulary)))


def test_packets_of_a_flow_stay_in_one_split_unless_the_split_is_by_row(stored):
    table = RowTable.read(stored, "packets", distinct=False)
    ids = np.array([int.from_bytes(each, "big") for each in table.flow_ids.to_pylist()])
    for together in ("flow", "row"):
        split = table.split(0, 7, together)
        parts = (split.train, split.validation, split.test)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(ids)))
        shared = set(ids[split.train]) & set(ids[split.test])
        assert bool(shared) == (together == "row")
    assert not np.array_equal(table.split(0, 7).test, table.split(1, 7).test)


def test_a_limit_is_of_each_class_and_draws_the_same_rows_again(stored):
    table = RowTable.read(stored, "packets", distinct=False)
    few = table.limited(10, 7)
    assert np.bincount(few.labels["kind"]).tolist() == [10, 10, 10]
    assert set(few.row_ids.to_pylist()) <= set(table.limited(20, 7).row_ids.to_pylist())
    assert few.row_ids.equals(table.limited(10, 7).row_ids)


def test_features_come_in_the_order_of_the_card(synthetic, tmp_path):
    card = Dataset.open(synthetic()).card
    rows = packets(30).drop_columns(["bytes", "record"])
    rows = rows.append_column("x", pa.array(np.arange(90.0))).append_column("y", pa.array(np.arange(90.0) % 7))
    tables = {("tables", "train"): rows}
    root = store_views(tmp_path / "dataset", card, tables, tasks=TASKS, features=("y", "x"))
    table = RowTable.read(root, "tables")
    assert table.names == ("y", "x")
    np.testing.assert_array_equal(table.values[:, 0], table.values[:, 1] % 7)


def test_the_first_of_equal_rows_stays():
    assert first_of_equal(np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]])).tolist() == [0, 1, 3]


def test_a_dataset_without_such_rows_is_rejected(synthetic):
    with pytest.raises(FlowloomError, match="packets"):
        RowTable.read(synthetic(), "packets")
