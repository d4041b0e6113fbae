"""Weaving: rows of one flow in several stripes or datasets become one row, shard by shard, and are laid out anew.

Shards are told by a hash of the flow id, so shard i of one stripe has the flows of shard i of any other with as many
shards. Where the numbers differ rows go through files to their new shards.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.schemas.arrow.rows import label_column, labelled
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.dataset.dataset_card import DatasetCard, shard_place
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import column, concatenated, view
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.dataset.layouts import lay_out
from flowloom.transforms.dataset.shards import ShardKey, ShelvedShard, shard_numbers, shelve, split_rows, write_shard
from flowloom.transforms.io.spill import Spilled, read_spilled
from flowloom.transforms.io.staging import file_sha256
from flowloom.transforms.labels.label_flows import count_unlabelled
from flowloom.transforms.weave.weave_plans import UNKNOWN, WeavePlan

BATCH_ROWS = 16_384
"""Rows read at a time of a shard whose rows go to new shards."""


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """A shard of a dataset on disk."""

    path: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of one shard of what becomes: of which dataset (by position), stripe (None: all tasks) and split."""

    dataset: int
    task: str | None
    split: str
    place: StoredShard | Spilled


@dataclasses.dataclass(frozen=True)
class JoinCounts:
    """What came together in one shard, or in several.

    Attributes:
      flows: of each dataset, int64 [datasets].
      labelled, conflicts: flows that a dataset has a label of, and those of which one before it has another, int64
        [datasets, tasks].
      united: flows of all datasets.
      unlabelled: those without a label of any task.
      unlike: how many flows have rows that contradict each other, by what they do it in, and the first of them.
    """

    flows: np.ndarray
    labelled: np.ndarray
    conflicts: np.ndarray
    united: int = 0
    unlabelled: int = 0
    unlike: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def none(cls, plan: WeavePlan) -> "JoinCounts":
        """Return the counts of no rows."""
        by_task = np.zeros((len(plan.datasets), len(plan.tasks)), np.int64)
        return cls(np.zeros(len(plan.datasets), np.int64), by_task, by_task)

    def __add__(self, other: "JoinCounts") -> "JoinCounts":
        unlike = dict(self.unlike)
        for what, (rows, first) in other.unlike.items():
            known = unlike.get(what, (0, first))
            unlike[what] = (known[0] + rows, min(known[1], first))
        return JoinCounts(
            self.flows + other.flows,
            self.labelled + other.labelled,
            self.conflicts + other.conflicts,
            self.united + other.united,
            self.unlabelled + other.unlabelled,
            unlike,
        )


def unite_rows(parts: Sequence[tuple[Part, pa.RecordBatch]], plan: WeavePlan) -> tuple[pa.RecordBatch, JoinCounts]:
    """Join the rows of each flow to one with the labels of all tasks and its split, in ascending order of ids.

    Args:
      parts: stored rows of one shard, in any order; a flow is in each of them at most once.

    Returns:
      a batch with the columns of Aurora's shards and the split, and what was counted.
    """
    parts = sorted((each for each in parts if each[1].num_rows), key=lambda each: each[0].dataset)
    stored = plan.stored.schema("flows", ())
    rows = concatenated([rows.select(stored.names) for _, rows in parts], stored)
    sizes = [rows.num_rows for _, rows in parts]
    dataset = np.repeat([part.dataset for part, _ in parts], sizes).astype(np.int64)
    split = np.repeat([SPLITS.index(part.split) for part, _ in parts], sizes).astype(np.int8)
    ids = view(rows["flow_id"])
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: the rows of a flow stay in order of their datasets
    ids, dataset, split = ids[order], dataset[order], split[order]
    again = (ids[1:] == ids[:-1]).all(axis=1)
    first = np.append(True, ~again)[: len(ids)]
    number = np.cumsum(first) - 1
    flow = _Flows(np.flatnonzero(first), number)

    datasets = len(plan.datasets)
    new = first | np.append(True, dataset[1:] != dataset[:-1])[: len(ids)]
    said = np.zeros((2, datasets, len(plan.tasks)), np.int64)
    united = rearranged(rows, order[first])
    for at, task in enumerate(plan.tasks):
        codes = _codes(parts, plan, task.name)[order]
        chosen = flow.first_known(codes)
        disputed = (codes >= 0) & (codes != chosen[number])
        said[:, :, at] = [np.bincount(dataset[rows], minlength=datasets) for rows in (codes >= 0, disputed)]
        if plan.fills(task):
            chosen[chosen < 0] = 0
        if plan.rules.on_conflict == "unknown":
            chosen[number[disputed]] = UNKNOWN
        united = united.append_column(pa.field(label_column(task.name), pa.int32()), _label_column(chosen))

    digests = row_digests(rows, "")[order]
    unlike = {
        "split": again & (split[1:] != split[:-1]),
        "packets": again & (digests[1:] != digests[:-1]).any(axis=1),
    }
    counts = JoinCounts(
        flows=np.bincount(dataset[new], minlength=datasets),
        labelled=said[0],
        conflicts=said[1],
        united=united.num_rows,
        unlabelled=count_unlabelled(united, plan.tasks),
        unlike={what: _described(at, dataset, split, ids, plan) for what, at in unlike.items() if at.any()},
    )
    splits = column(split[first], pa.int8())
    return united.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), splits), counts


@dataclasses.dataclass(frozen=True)
class _Flows:
    """Where the rows of each flow start among sorted rows, and the flow's number of each row."""

    starts: np.ndarray
    number: np.ndarray

    def first_known(self, codes: np.ndarray) -> np.ndarray:
        """Return the first code of each flow that is not below 0, else `UNKNOWN`; int32 [flows]."""
        chosen = np.full(len(self.starts), UNKNOWN, np.int32)
        known = np.flatnonzero(codes >= 0)[::-1]  # of several values for one place the last one stays
        chosen[self.number[known]] = codes[known]
        return chosen


def _codes(parts: Sequence[tuple[Part, pa.RecordBatch]], plan: WeavePlan, task: str) -> np.ndarray:
    """Return the new label numbers of a task for all rows, below 0 where unknown."""
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
    """Return how many neighbours are marked, and a phrase about the first by id."""
    place = int(np.argmax(at))
    ends = [f"{SPLITS[split[each]]} in {plan.datasets[dataset[each]]!r}" for each in (place, place + 1)]
    return int(at.sum()), f"flow {ids[place].tobytes().hex()}, {' and '.join(ends)}"


def read_part(part: Part, plan: WeavePlan) -> Iterator[pa.RecordBatch]:
    """Yield a part's stored rows in batches.

    Raises:
      FlowloomError: if its file is not the one that the card of its dataset lists.
    """
    if isinstance(part.place, Spilled):
        yield read_spilled([part.place])
        return
    names = [part.task] if part.task else list(plan.recodings[part.dataset])
    schema = labelled(plan.stored.schema("flows", ()), names)
    try:
        if file_sha256(part.place.path) != part.place.sha256:
            raise FlowloomError(
                f"{part.place.path} is not the shard that its card lists: its SHA-256 differs; see what "
                "`flowloom verify` says of the dataset"
            )
        number, shards = shard_place(part.place.path)
        with pq.ParquetFile(part.place.path) as file:
            for stored in file.iter_batches(BATCH_ROWS, use_threads=False):
                rows = stored.cast(schema)  # Parquet gives the items of a list another name, which a digest would see
                if (shard_numbers(rows, shards) != number).any():
                    raise FlowloomError(
                        f"{part.place.path} has flows of other shards, so that rows of one flow cannot be found; "
                        "build the dataset again"
                    )
                yield rows
    except OSError as error:
        raise FlowloomError(f"{part.place.path} cannot be read ({error}); see what `flowloom verify` says") from None


def dataset_parts(position: int, root: Path, card: DatasetCard) -> Iterator[tuple[int, Part]]:
    """Yield the shards of a dataset that is the one at `position`, with their numbers."""
    for shard in card.shards:
        stored = StoredShard(str(root / shard.path), shard.sha256)
        yield shard_place(shard.path)[0], Part(position, shard.task, shard.split, stored)


def unsharded_rows(part: Part, plan: WeavePlan) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield (dataset and stripe, rows with their split) of a part, for `SpillRows`."""
    for rows in read_part(part, plan):
        split = column(np.full(rows.num_rows, SPLITS.index(part.split), np.int8), pa.int8())
        divided = rows.append_column(pa.field(SPLIT_COLUMN, pa.int8(), nullable=False), split)
        yield f"{part.dataset}/{part.task or ''}", divided


def spilled_part(key: ShardKey, place: Spilled) -> tuple[int, Part]:
    """Return a part, and the number of its new shard, from what `SpillRows` gives of `unsharded_rows`."""
    _, stripe, split, number = key
    dataset, _, task = stripe.partition("/")
    return number, Part(int(dataset), task or None, split, place)


def weave_shard(parts: Iterable[Part], plan: WeavePlan, folder: str) -> Iterator[JoinCounts | ShelvedShard]:
    """Unite all parts of one shard, lay out their rows and write them to every stripe and split.

    Raises:
      FlowloomError: if a file of a dataset is not the one that its card lists.
    """
    united, counts = unite_rows([(part, rows) for part in parts for rows in read_part(part, plan)], plan)
    yield counts
    for stripe, rows in lay_out(united, plan.tasks, plan.rules.layout, plan.stored):
        for key, placed in split_rows(stripe, rows, plan.output.shards):
            yield shelve(write_shard(key, [placed], folder, plan.tasks, plan.output), folder)
