"""Shards: their bytes depend on their rows alone, and every row is in exactly one shard."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS, labelled
from flowloom.schemas.corpus.manifest import Output
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.moments import sequence_moments
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.dataset.shards import (
    read_digests,
    row_order,
    shards_hash,
    spill_digests,
    split_rows,
    write_shard,
)

TASKS = (Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns")),)
KEY = ("flows", "", "train", 1)


def rows(count: int, seed: int = 0) -> pa.RecordBatch:
    labels = [None if at % 5 == 0 else at % 2 for at in range(count)]
    batch = synthetic_flows(count, seed)
    return batch.append_column(pa.field("label_app", pa.int32()), pa.array(labels, pa.int32()))


def labelled_flows(count: int) -> pa.RecordBatch:
    split = pa.array([at % 3 for at in range(count)], pa.int8())
    return rows(count).append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)


def sorted_table(table: pa.Table) -> pa.Table:
    return table.sort_by([("start", "ascending"), ("flow_id", "ascending")]).combine_chunks()


def test_every_row_goes_to_one_shard_of_its_split():
    batch = labelled_flows(300)
    pieces = list(split_rows("", batch, 4))
    keys = [key for key, _ in pieces]
    assert len(set(keys)) == len(keys) == 12
    for key, piece in pieces:
        expected = batch.filter(pa.array([at % 3 == SPLITS.index(key[2]) for at in range(300)]))
        assert set(piece["flow_id"].to_pylist()) <= set(expected["flow_id"].to_pylist())
    joined = pa.Table.from_batches([piece for _, piece in pieces])
    assert sorted_table(joined) == sorted_table(pa.table(batch.drop_columns([SPLIT_COLUMN])))


def test_a_row_gets_the_same_shard_in_any_batch():
    batch = labelled_flows(200)
    place = {flow: key for key, piece in split_rows("", batch, 5) for flow in piece["flow_id"].to_pylist()}
    for start in range(0, 200, 33):
        for key, piece in split_rows("", batch.slice(start, 33), 5):
            assert {place[flow] for flow in piece["flow_id"].to_pylist()} == {key}


def test_sorting_is_total_even_among_equal_ids():
    batch = rows(50)
    durations = pa.array(range(50), pa.int64())
    doubled = pa.concat_batches([batch, batch.set_column(3, batch.schema.field("duration_ns"), durations)])
    digests = np.arange(200, dtype=np.uint64).reshape(-1, 2)
    order = np.random.default_rng(0).permutation(100)
    shuffled = doubled.take(pa.array(order.tolist()))
    other = rearranged(shuffled, row_order([shuffled], digests[order]))
    assert rearranged(doubled, row_order([doubled], digests)).equals(other)
    starts = other["start"].cast(pa.int64()).to_pylist()
    assert starts == sorted(starts)


def test_order_and_batches_of_rows_do_not_change_a_byte(tmp_path):
    batch = rows(500)
    output = Output(shards=4, row_group_rows=200)
    written = []
    for turn in range(4):
        order = list(range(500))
        random.Random(turn).shuffle(order)
        shuffled = batch.take(pa.array(order))
        pieces = [shuffled.slice(at, 90 * turn) for at in range(0, 500, 90 * turn)] if turn else [shuffled]
        written.append(write_shard(KEY, pieces, str(tmp_path / str(turn)), TASKS, output))
    assert all(shard == written[0] for shard in written)
    files = {(tmp_path / str(turn) / written[0].shard.path).read_bytes() for turn in range(4)}
    assert len(files) == 1
    assert hashlib.sha256(files.pop()).hexdigest() == written[0].shard.sha256


def test_digests_are_spilled_to_a_file(tmp_path):
    written = write_shard(KEY, [rows(50)], str(tmp_path), TASKS, Output(shards=4))
    spilled = spill_digests(written, str(tmp_path))
    assert spilled.written.digests == b""
    assert read_digests(spilled) == written


def test_a_shard_has_counts_of_its_rows(tmp_path):
    batch = rows(500)
    written = write_shard(KEY, [batch], str(tmp_path), TASKS, Output(shards=4, row_group_rows=200))
    assert written.shard.path == "flows/split=train/part-00001-of-00004.parquet"
    assert (written.shard.rows, written.shard.row_groups, written.shard.task) == (500, (200, 200, 100), None)
    assert written.labels == {"app": (200, 200, 0, 100)}
    assert written.moments == sequence_moments(batch)
    assert len(written.digests) == 500 * 16
    file = pq.ParquetFile(tmp_path / written.shard.path)
    assert file.schema_arrow.equals(labelled(FLOWS, ["app"]))
    assert [file.metadata.row_group(at).num_rows for at in range(3)] == [200, 200, 100]
    assert sorted_table(file.read()) == sorted_table(pa.table(batch))
    assert [path.name for path in (tmp_path / "flows/split=train").iterdir()] == ["part-00001-of-00004.parquet"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_the_train_split_is_measured(tmp_path, split):
    written = write_shard(("flows", "app", split, 0), [rows(9)], str(tmp_path), TASKS, Output())
    assert written.moments == {}
    assert written.shard.path == f"flows/task=app/split={split}/part-00000-of-00008.parquet"


def test_the_content_hash_depends_on_splits_and_label_values_but_not_on_shards(tmp_path):
    batch = labelled_flows(200).set_column(len(FLOWS) + 1, SPLIT_COLUMN, pa.array([0] * 200, pa.int8()))

    def built(shards: int, split: str = "train") -> list:
        pieces = [((*key[:2], split, key[3]), piece) for key, piece in split_rows("", batch, shards)]
        folder = str(tmp_path / f"{shards}{split}")
        return [write_shard(key, [piece], folder, TASKS, Output(shards=shards)) for key, piece in pieces]

    expected = shards_hash(built(1), TASKS)
    assert shards_hash(built(7), TASKS) == expected
    assert shards_hash(built(1, "test"), TASKS) != expected
    assert shards_hash(built(1), [TASKS[0].model_copy(update={"vocabulary": ("ssh", "web", "dns")})]) != expected
