"""Shards: a hash of the flow id gives the shard of a row; one worker writes a shard."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.manifest import Output
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.dataset.dataset_card import shard_path
from flowloom.schemas.file_digests import file_sha256
from flowloom.schemas.parquet_files import parquet_writer
from flowloom.transforms.arrays.columns import view, view_or
from flowloom.transforms.arrays.digests import content_hash, keyed_hash, row_digests, sort_digests
from flowloom.transforms.arrays.moments import Moments, sequence_moments
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.arrays.take import gathered, rearranged
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_batches, spill_bytes
from flowloom.transforms.splits.byte_rules import count_bytes
from flowloom.transforms.splits.task_overlap import TaskPair, count_pairs

PACKET_ROW_GROUP = 4_096
"""Maximum rows of a row group of the packets view, whose rows are as large as a dozen flows each."""

NO_START = np.iinfo(np.int64).min
"""Placeholder for a start that a published file lacks; it sorts before all others."""

ShardKey = tuple[View, str, str, int]
"""View, stripe (empty: all tasks), split, and number of the shard."""


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """A shard and its counts, to be merged over all shards.

    Attributes:
      labels: by task, rows of each label value, then rows with unknown labels.
      moments: moments of each channel in train rows of flows.
    """

    shard: Shard
    labels: dict[str, tuple[int, ...]]
    moments: dict[str, Moments]
    digests: bytes
    """Sorted row digests, 16 bytes each."""
    pairs: dict[TaskPair, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)
    """Rows by the labels of each pair of tasks (see `count_pairs`)."""
    leaks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)
    """Counts of bytes by task in train rows of the packets view (see `count_bytes`)."""


@dataclasses.dataclass(frozen=True)
class SpilledShard:
    """A shard with its digests, 16 bytes a row, in a spill file, outside of the runner."""

    written: WrittenShard
    path: str


def spill_digests(shard: WrittenShard, job: str) -> SpilledShard:
    """Moves the digests of a shard into a new file below a job's folder."""
    return SpilledShard(dataclasses.replace(shard, digests=b""), spill_bytes(shard.digests, job))


def read_digests(spilled: SpilledShard) -> WrittenShard:
    """Returns a shard with its digests."""
    with open(spilled.path, "rb") as file:
        return dataclasses.replace(spilled.written, digests=file.read())


def shard_numbers(rows: pa.RecordBatch, shards: int) -> np.ndarray:
    """Returns the shard number of each row, below the number of shards of a stripe and split; int64 [rows]."""
    return (keyed_hash(rows["flow_id"], "shard") % np.uint64(shards)).astype(np.int64)


def split_rows(
    stripe: str, rows: pa.RecordBatch, shards: int, view_name: View = "flows"
) -> Iterator[tuple[ShardKey, pa.RecordBatch]]:
    """Yields the rows of each split and shard without the split column; `flow_id` alone gives the shard."""
    split = view(rows[SPLIT_COLUMN]).astype(np.int64)
    place = split * shards + shard_numbers(rows, shards)
    order = np.argsort(place, kind="stable")
    sorted_rows = rearranged(rows.drop_columns([SPLIT_COLUMN]), order)
    places, starts = np.unique(place[order], return_index=True)
    stops = [*starts[1:].tolist(), rows.num_rows]
    for at, start, stop in zip(places.tolist(), starts.tolist(), stops, strict=True):
        yield (view_name, stripe, SPLITS[at // shards], at % shards), sorted_rows.slice(start, stop - start)


def row_order(batches: Sequence[pa.RecordBatch], digests: np.ndarray, view_name: View = "flows") -> np.ndarray:
    """Returns the positions of rows through all batches in a total order: by flow id, and last by digest.

    The order is total because rows of equal digests [rows, 2] are equal. Flows are sorted by start before the id, those
    without a start first; packets are sorted by record after the id.
    """
    ids = np.concatenate([view(rows["flow_id"]) for rows in batches]).byteswap()
    keys = [digests[:, 1], digests[:, 0], ids[:, 1], ids[:, 0]]
    if view_name == "flows":
        keys.append(np.concatenate([view_or(rows["start"], NO_START) for rows in batches]))
    elif view_name == "packets":
        keys.insert(2, np.concatenate([view_or(rows["record"], 0) for rows in batches]))
    return np.lexsort(keys)


def count_labels(rows: pa.RecordBatch, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Returns int64 counts by task: rows of each label value, then rows with unknown labels."""
    counts = {}
    for task in tasks:
        if label_column(task.name) in rows.schema.names:
            codes = rows[label_column(task.name)]
            known = np.bincount(view(pc.drop_null(codes)), minlength=len(task.vocabulary))
            counts[task.name] = np.append(known, codes.null_count)
    return counts


def write_rows(batches: Sequence[pa.RecordBatch], order: np.ndarray, path: str, row_group_rows: int) -> tuple[int, ...]:
    """Writes the rows at the positions `order` as a Parquet file, and returns the rows of its row groups.

    The bytes of the file depend on the rows alone. One row group is in memory at a time.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    groups = []
    with parquet_writer(path, batches[0].schema) as writer:
        for at in range(0, len(order), row_group_rows):
            rows = gathered(batches, order[at : at + row_group_rows])
            writer.write_batch(rows, row_group_size=row_group_rows)
            groups.append(rows.num_rows)
    return tuple(groups)


def write_shard(
    key: ShardKey, batches: Sequence[pa.RecordBatch], folder: str, tasks: Sequence[Task], output: Output
) -> WrittenShard:
    """Writes the rows of one shard, given in any order, and returns the shard with its counts.

    With batches in mapped files, one row group and about 100 bytes of every row are in memory.
    """
    view_name, stripe, split, number = key
    context = json.dumps([view_name, stripe, split])
    digests = np.concatenate([row_digests(rows, context) for rows in batches])
    path = shard_path(view_name, stripe or None, split, number, output.shards)
    group_rows = output.row_group_rows if view_name != "packets" else min(output.row_group_rows, PACKET_ROW_GROUP)
    row_groups = write_rows(batches, row_order(batches, digests, view_name), f"{folder}/{path}", group_rows)
    shard = Shard(
        path=path,
        view=view_name,
        split=split,
        task=stripe or None,
        rows=sum(row_groups),
        row_groups=row_groups,
        sha256=file_sha256(f"{folder}/{path}"),
    )
    trained = split == SPLITS[0]
    counts = sum_by_key(count_labels(rows, tasks) for rows in batches)
    labels = {task: tuple(rows.tolist()) for task, rows in counts.items()}
    moments = sum_by_key(sequence_moments(rows) for rows in batches if trained and view_name == "flows")
    leaks = sum_by_key(count_bytes(rows, tasks) for rows in batches if trained and view_name == "packets")
    pairs = sum_by_key(count_pairs(rows, tasks) for rows in batches)
    return WrittenShard(shard, labels, moments, sort_digests([digests]).tobytes(), pairs, leaks)


def spill_rows(
    stripes: Iterable[tuple[str, pa.RecordBatch]], shards: int, job: str, view_name: View = "flows"
) -> list[tuple[ShardKey, Spilled]]:
    """Spills rows by shard below a job's folder, and returns shard keys and places."""
    buffer = SpillBuffer[ShardKey](job)
    places = []
    for stripe, rows in stripes:
        places += buffer.add(split_rows(stripe, rows, shards, view_name))
    return places + buffer.flush()


def write_spilled_shards(
    places: Iterable[tuple[ShardKey, Spilled]], folder: str, tasks: Sequence[Task], output: Output
) -> list[SpilledShard]:
    """Writes spilled rows as shards, in the order of their keys."""
    by_shard: dict[ShardKey, list[Spilled]] = {}
    for key, place in places:
        by_shard.setdefault(key, []).append(place)
    written = (write_shard(key, read_batches(by_shard[key]), folder, tasks, output) for key in sorted(by_shard))
    return [spill_digests(shard, folder) for shard in written]


def shards_hash(shards: Iterable[WrittenShard], tasks: Sequence[Task]) -> str:
    """Returns the content hash of a dataset, over its tasks and all its rows, for any number of shards."""
    meaning = json.dumps([task.model_dump(mode="json") for task in tasks], sort_keys=True)
    return content_hash((np.frombuffer(shard.digests, np.uint64).reshape(-1, 2) for shard in shards), meaning)
