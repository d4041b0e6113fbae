"""Merging of shards: rows of a flow from several stripes or datasets become one row, laid out again.

A hash of the flow id gives the shard of a row. So shard i of one stripe has the same flows as shard i of every other
stripe with the same number of shards. If the numbers differ, rows move to new shards through spill files.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import label_column, labelled
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.dataset.dataset_card import DatasetCard, shard_place
from flowloom.schemas.dataset.stored_files import RESTORE
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest
from flowloom.schemas.parquet_files import read_rows
from flowloom.transforms.arrays.columns import column, concatenated, view
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.dataset.layouts import lay_out
from flowloom.transforms.dataset.shards import (
    ShardKey,
    SpilledShard,
    shard_numbers,
    spill_digests,
    split_rows,
    write_shard,
)
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_spilled
from flowloom.transforms.labels.label_flows import count_unlabelled
from flowloom.transforms.weave.weave_plans import UNKNOWN, WeavePlan, shards_of

BATCH_ROWS = 16_384
"""Number of rows of a stored shard that are in memory at a time."""


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """A shard of a dataset on disk."""

    path: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of one new shard from one stored shard or spill file.

    Attributes:
      dataset: position of the dataset.
      task: the stripe of the rows; None for rows with the labels of all tasks.
    """

    dataset: int
    task: str | None
    split: str
    place: StoredShard | Spilled


@dataclasses.dataclass(frozen=True)
class MergeCounts:
    """Counts of merged flows, of one shard or several.

    Attributes:
      flows: flows of each dataset, int64 [datasets].
      labelled: flows with a label in each dataset, int64 [datasets, tasks].
      conflicts: flows with another label than in an earlier dataset, int64 [datasets, tasks].
      merged: flows of all datasets together.
      unlabelled: merged flows without a label of any task.
      contradictions: by property (split or packets), number of flows whose rows differ, and a phrase about the first.
    """

    flows: np.ndarray
    labelled: np.ndarray
    conflicts: np.ndarray
    merged: int = 0
    unlabelled: int = 0
    contradictions: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def none(cls, plan: WeavePlan) -> "MergeCounts":
        """Returns the counts of no rows."""
        by_task = np.zeros((len(plan.datasets), len(plan.tasks)), np.int64)
        return cls(np.zeros(len(plan.datasets), np.int64), by_task, by_task)

    def __add__(self, other: "MergeCounts") -> "MergeCounts":
        contradictions = dict(self.contradictions)
        for what, (rows, first) in other.contradictions.items():
            known = contradictions.get(what, (0, first))
            contradictions[what] = (known[0] + rows, min(known[1], first))
        return MergeCounts(
            self.flows + other.flows,
            self.labelled + other.labelled,
            self.conflicts + other.conflicts,
            self.merged + other.merged,
            self.unlabelled + other.unlabelled,
            contradictions,
        )


def merge_rows(parts: Sequence[tuple[Part, pa.RecordBatch]], plan: WeavePlan) -> tuple[pa.RecordBatch, MergeCounts]:
    """Merges the rows of each flow into one row with the labels of all tasks, in ascending order of ids.

    Args:
      parts: stored rows of one shard, in any order; each part has a flow at most once.

    Returns:
      A batch with the columns of a fused (Aurora) shard and the split, and its counts.
    """
    parts = sorted((each for each in parts if each[1].num_rows), key=lambda each: each[0].dataset)
    stored = plan.stored.schema("flows", ())
    rows = concatenated([rows.select(stored.names) for _, rows in parts], stored)
    sizes = [rows.num_rows for _, rows in parts]
    dataset = np.repeat([part.dataset for part, _ in parts], sizes).astype(np.int64)
    split = np.repeat([SPLITS.index(part.split) for part, _ in parts], sizes).astype(np.int8)
    ids = view(rows["flow_id"])
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable, so the rows of a flow stay in the order of their datasets
    ids, dataset, split = ids[order], dataset[order], split[order]
    again = (ids[1:] == ids[:-1]).all(axis=1)
    first = np.append(True, ~again)[: len(ids)]
    number = np.cumsum(first) - 1
    flow = _Flows(np.flatnonzero(first), number)

    datasets = len(plan.datasets)
    new = first | np.append(True, dataset[1:] != dataset[:-1])[: len(ids)]
    counted = np.zeros((2, datasets, len(plan.tasks)), np.int64)
    merged = rearranged(rows, order[first])
    for at, task in enumerate(plan.tasks):
        codes = _codes(parts, plan, task.name)[order]
        chosen = flow.first_known(codes)
        disputed = (codes >= 0) & (codes != chosen[number])
        counted[:, :, at] = [np.bincount(dataset[rows], minlength=datasets) for rows in (codes >= 0, disputed)]
        if plan.fills(task):
            chosen[chosen < 0] = 0
        if plan.rules.on_conflict == "unknown":
            chosen[number[disputed]] = UNKNOWN
        merged = merged.append_column(pa.field(label_column(task.name), pa.int32()), _label_column(chosen))

    digests = row_digests(rows, "")[order]
    contradictions = {
        "split": again & (split[1:] != split[:-1]),
        "packets": again & (digests[1:] != digests[:-1]).any(axis=1),
    }
    counts = MergeCounts(
        flows=np.bincount(dataset[new], minlength=datasets),
        labelled=counted[0],
        conflicts=counted[1],
        merged=merged.num_rows,
        unlabelled=count_unlabelled(merged, plan.tasks),
        contradictions={
            what: _described(at, dataset, split, ids, plan) for what, at in contradictions.items() if at.any()
        },
    )
    splits = column(split[first], pa.int8())
    return merged.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), splits), counts


@dataclasses.dataclass(frozen=True)
class _Flows:
    """Flows among sorted rows: the first row of each flow, and the number of the flow of each row."""

    starts: np.ndarray
    number: np.ndarray

    def first_known(self, codes: np.ndarray) -> np.ndarray:
        """Returns the first known code of each flow, or `UNKNOWN`; int32 [flows]."""
        chosen = np.full(len(self.starts), UNKNOWN, np.int32)
        known = np.flatnonzero(codes >= 0)[::-1]  # reversed, because the last of several assignments to a place stays
        chosen[self.number[known]] = codes[known]
        return chosen


def _codes(parts: Sequence[tuple[Part, pa.RecordBatch]], plan: WeavePlan, task: str) -> np.ndarray:
    """Returns the new label numbers of a task for all rows, below 0 where unknown."""
    found = [np.empty(0, np.int32)]
    for part, rows in parts:
        if label_column(task) not in rows.schema.names:
            found.append(np.full(rows.num_rows, UNKNOWN, np.int32))
            continue
        old = view(rows[label_column(task)].fill_null(UNKNOWN))
        found.append(np.append(plan.recodings[part.dataset][task], np.int32(UNKNOWN))[old])
    return np.concatenate(found)


def _label_column(codes: np.ndarray) -> pa.Array:
    known = pa.py_buffer(np.packbits(codes >= 0, bitorder="little"))
    return pa.Array.from_buffers(pa.int32(), len(codes), [known, pa.py_buffer(codes)])


def _described(
    at: np.ndarray, dataset: np.ndarray, split: np.ndarray, ids: np.ndarray, plan: WeavePlan
) -> tuple[int, str]:
    """Returns the number of marked rows, each compared with the next row, and a phrase about the first by id."""
    place = int(np.argmax(at))
    ends = [f"{SPLITS[split[each]]} in {plan.datasets[dataset[each]]!r}" for each in (place, place + 1)]
    return int(at.sum()), f"flow {ids[place].tobytes().hex()}, {' and '.join(ends)}"


def read_part(part: Part, plan: WeavePlan) -> Iterator[pa.RecordBatch]:
    """Yields the stored rows of a part in batches.

    Raises:
      FlowloomError: if the file differs from the one that the card of its dataset lists.
    """
    if isinstance(part.place, Spilled):
        yield read_spilled([part.place])
        return
    names = [part.task] if part.task else list(plan.recodings[part.dataset])
    schema = labelled(plan.stored.schema("flows", ()), names)
    check_digest(part.place.path, part.place.sha256, RESTORE)
    number, shards = shard_place(part.place.path)
    for stored in read_rows(part.place.path, BATCH_ROWS):
        rows = stored.cast(schema)  # Parquet renames the items of a list, which would change the digest
        if (shard_numbers(rows, shards) != number).any():
            raise FlowloomError(
                f"{part.place.path}: flows must be in the shard of their ids, got flows of other shards; build the "
                "dataset again"
            )
        yield rows


def dataset_parts(position: int, root: Path, card: DatasetCard) -> Iterator[tuple[int, Part]]:
    """Yields the shards of the dataset at `position`, with their numbers."""
    for shard in card.shards:
        stored = StoredShard(str(root / shard.path), shard.sha256)
        yield shard_place(shard.path)[0], Part(position, shard.task, shard.split, stored)


def unsharded_rows(part: Part, plan: WeavePlan) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yields (dataset/stripe, rows with their split) of a part whose rows need new shards."""
    for rows in read_part(part, plan):
        split = column(np.full(rows.num_rows, SPLITS.index(part.split), np.int8), pa.int8())
        rows = rows.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)
        yield f"{part.dataset}/{part.task or ''}", rows


def spilled_part(key: ShardKey, place: Spilled) -> tuple[int, Part]:
    """Returns the number of a new shard and a part of it, from spilled rows of `unsharded_rows`."""
    _, stripe, split, number = key
    dataset, _, task = stripe.partition("/")
    return number, Part(int(dataset), task or None, split, place)


def find_parts(
    datasets: Sequence[tuple[Path, DatasetCard]], plan: WeavePlan, job: str
) -> tuple[list[tuple[int, Part]], list[str]]:
    """Returns the parts of every new shard with its number, and the faults of shards that cannot be read.

    Args:
      datasets: folders and cards, in order of precedence.
      job: the folder for spilled rows.
    """
    parts, misplaced = place_parts(datasets, plan)
    buffer = SpillBuffer[ShardKey](job)
    places: list[tuple[ShardKey, Spilled]] = []
    faults = []
    for part in misplaced:
        try:
            for stripe, rows in unsharded_rows(part, plan):
                places += buffer.add(split_rows(stripe, rows, plan.output.shards))
        except FlowloomError as error:
            faults.append(str(error))
    places += buffer.flush()
    return [*parts, *itertools.starmap(spilled_part, places)], faults


def place_parts(
    datasets: Sequence[tuple[Path, DatasetCard]], plan: WeavePlan
) -> tuple[list[tuple[int, Part]], list[Part]]:
    """Returns whole shards with the numbers of their new shards, and the parts whose rows must move."""
    shards = plan.output.shards
    placed, misplaced = [], []
    for position, (folder, card) in enumerate(datasets):
        for number, part in dataset_parts(position, folder, card):
            if shards_of(card) % shards:
                misplaced.append(part)
            else:  # old is a multiple of new: the hash modulo old, modulo new, is the hash modulo new
                placed.append((number % shards, part))
    return placed, misplaced


def merge_shards(
    parts: Iterable[tuple[int, Part]], plan: WeavePlan, folder: str
) -> tuple[list[SpilledShard], list[MergeCounts], list[str]]:
    """Merges and writes all new shards; returns them, their counts, and the faults of unreadable parts."""
    by_shard: dict[int, list[Part]] = {}
    for number, part in parts:
        by_shard.setdefault(number, []).append(part)
    shards, counts, faults = [], [], []
    for number in sorted(by_shard):
        try:
            counted, written = merge_shard(by_shard[number], plan, folder)
        except FlowloomError as error:
            faults.append(str(error))
        else:
            counts.append(counted)
            shards += written
    return shards, counts, faults


def merge_shard(parts: Iterable[Part], plan: WeavePlan, folder: str) -> tuple[MergeCounts, list[SpilledShard]]:
    """Merges the rows of all parts of one shard, and writes them to every stripe and split.

    Raises:
      FlowloomError: if a file differs from the one that the card of its dataset lists.
    """
    merged, counts = merge_rows([(part, rows) for part in parts for rows in read_part(part, plan)], plan)
    written = [
        spill_digests(write_shard(key, [placed], folder, plan.tasks, plan.output), folder)
        for stripe, rows in lay_out(merged, plan.tasks, plan.rules.layout, plan.stored)
        for key, placed in split_rows(stripe, rows, plan.output.shards)
    ]
    return counts, written
