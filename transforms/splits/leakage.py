"""Leakage: exact counts of sequences and hosts that several flows share, within a split and across splits.

A sighting is one occurrence of a thing (a sequence, a host or a host pair) in a flow.
"""

import bisect
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import IDENTITY, label_column
from flowloom.schemas.corpus.manifest import Identity
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.card_parts import Leakage, Overlap
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.parquet_files import read_footer, read_rows
from flowloom.transforms.arrays.columns import filled, view
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.io.spill import spill_bytes
from flowloom.transforms.io.staging import temporary_folder

TRAIN = SPLITS.index("train")
SEQUENCE = ("pkt_size", "pkt_dir")
TIMED_SEQUENCE = (*SEQUENCE, "pkt_gap_ns")

PARTITION_ROWS = 1 << 17
"""Number of sightings that are sorted at a time, which takes about 70 MB."""
_PART_HALF = 1
"""The half of a thing's hash that determines its part."""
_BATCH_ROWS = 16_384
_UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class OverlapCounts:
    """Counts of `Overlap` as int64 by position in `SPLITS`; counts of different things add up."""

    distinct: np.ndarray
    distinct_in_train: np.ndarray
    flows: np.ndarray
    flows_repeated: np.ndarray
    flows_in_train: np.ndarray
    conflicts: np.ndarray
    """By task."""

    def __add__(self, other: "OverlapCounts") -> "OverlapCounts":
        names = [field.name for field in dataclasses.fields(self)]
        return OverlapCounts(*(getattr(self, name) + getattr(other, name) for name in names))

    def overlap(self) -> Overlap:
        """Returns the counts by the names of splits."""
        later = [split for split in range(len(SPLITS)) if split != TRAIN]
        return Overlap(
            distinct=_named(self.distinct, range(len(SPLITS))),
            distinct_in_train=_named(self.distinct_in_train, later),
            flows=_named(self.flows, range(len(SPLITS))),
            flows_repeated=_named(self.flows_repeated, range(len(SPLITS))),
            flows_in_train=_named(self.flows_in_train, later),
        )


@dataclasses.dataclass(frozen=True)
class SpilledSightings:
    """File of sightings of one kind, sorted by the last half of their hashes."""

    kind: str
    rows: int
    path: str


@dataclasses.dataclass(frozen=True)
class LeakagePart:
    """Sightings of one kind, from all files, whose hashes lie in one of `of` equal ranges."""

    kind: str
    paths: tuple[str, ...]
    number: int
    of: int


@dataclasses.dataclass(frozen=True)
class PartCounts:
    """Counts of one part of the sightings of a kind."""

    kind: str
    counts: OverlapCounts


def sighting_type(tasks: int) -> np.dtype:
    """Returns the record type of a sighting: hash of the thing, flow id, split, labels or -1."""
    fields = [("thing", "<u8", 2), ("flow", "<u8", 2), ("split", "i1"), ("labels", "<i4", (tasks,))]
    return np.dtype(fields)


def sight(rows: pa.RecordBatch, split: str, tasks: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the sightings in stored rows by kind, a field of `Leakage`; hosts only if there are addresses.

    Args:
      rows: flow ids, the columns of `TIMED_SEQUENCE`, addresses if there are any, and labels of any of the tasks.
      split: the split of all rows.
      tasks: names of all tasks of the dataset.
    """
    for kind, columns in (("sequences", SEQUENCE), ("timed_sequences", TIMED_SEQUENCE)):
        yield kind, _sightings(row_digests(rows.select(columns), kind), rows, split, tasks)
    if set(IDENTITY) <= set(rows.schema.names):
        rows = rows.filter(
            pc.and_(*(pc.is_valid(rows[name]) for name in IDENTITY))
        )  # published files may lack addresses
        ends = [row_digests(rows.select([name]).rename_columns(["host"]), "") for name in IDENTITY]
        yield "host_pairs", _sightings(ends[0] + ends[1], rows, split, tasks)  # a sum is equal in both directions
        for end in ends:
            yield "hosts", _sightings(end, rows, split, tasks)


def count_overlap(sightings: np.ndarray) -> OverlapCounts:
    """Counts all sightings of some things; other parts must not have sightings of the same things.

    Args:
      sightings: records of `sighting_type`, in any order; the same flow may occur with a thing more than once.
    """
    thing, flow, labels = sightings["thing"], sightings["flow"], sightings["labels"]
    order = np.lexsort((flow[:, 1], flow[:, 0], thing[:, 1], thing[:, 0]))
    thing, flow, labels, split = thing[order], flow[order], labels[order], sightings["split"][order]
    new_thing = np.append(True, (thing[1:] != thing[:-1]).any(axis=1))[: len(thing)]
    new_flow = new_thing | np.append(True, (flow[1:] != flow[:-1]).any(axis=1))[: len(thing)]
    number = np.cumsum(new_thing) - 1
    things = int(new_thing.sum())
    flows = np.bincount(number[new_flow] * len(SPLITS) + split[new_flow], minlength=things * len(SPLITS))
    flows = flows.reshape(things, len(SPLITS))
    trained = flows[:, TRAIN] > 0
    starts = np.flatnonzero(new_thing)
    return OverlapCounts(
        distinct=(flows > 0).sum(axis=0),
        distinct_in_train=(flows[trained] > 0).sum(axis=0),
        flows=flows.sum(axis=0),
        flows_repeated=np.maximum(flows - 1, 0).sum(axis=0),
        flows_in_train=flows[trained].sum(axis=0),
        conflicts=np.array([_conflicts(labels[:, task], starts, number) for task in range(labels.shape[1])], np.int64),
    )


def spill_sightings(
    batches: Iterable[pa.RecordBatch], split: str, tasks: Sequence[str], job: str
) -> Iterator[SpilledSightings]:
    """Writes the sightings of one split's rows into new files below a job's folder, about 131,000 rows each."""
    sightings = (rows.select(_sighting_columns(rows.schema.names, tasks)) for rows in batches)
    for rows in filled(sightings, PARTITION_ROWS):
        for kind, records in sight(rows, split, tasks):
            if len(records):
                ordered = records[np.argsort(records["thing"][:, _PART_HALF])]
                yield SpilledSightings(kind, len(records), spill_bytes(ordered.tobytes(), job))


def plan_parts(sightings: Iterable[SpilledSightings]) -> Iterator[LeakagePart]:
    """Yields parts of about `PARTITION_ROWS` sightings, to be counted one by one."""
    places: dict[str, list[SpilledSightings]] = {}
    for place in sightings:
        places.setdefault(place.kind, []).append(place)
    for kind, of_kind in places.items():
        parts = 1 + sum(place.rows for place in of_kind) // PARTITION_ROWS
        paths = tuple(place.path for place in of_kind)
        yield from (LeakagePart(kind, paths, number, parts) for number in range(parts))


def count_part(part: LeakagePart, tasks: Sequence[str]) -> PartCounts:
    """Counts the sightings of one part, from all files of its kind."""
    ends = [number * (1 << 64) // part.of for number in (part.number, part.number + 1)]
    pieces = []
    for path in part.paths:
        records = np.memmap(path, sighting_type(len(tasks)), "r")
        begin, end = (bisect.bisect_left(records["thing"][:, _PART_HALF], edge) for edge in ends)
        pieces.append(records[begin:end])
    return PartCounts(part.kind, count_overlap(np.concatenate(pieces)))


def leakage_of(parts: Iterable[PartCounts], tasks: Sequence[str], identity: Identity) -> Leakage:
    """Merges the counts of all parts, in any order; a kind without parts has zero counts."""
    found = sum_by_key({part.kind: part.counts} for part in parts)
    none = count_overlap(np.empty(0, sighting_type(len(tasks))))
    sequences = found.get("sequences", none)
    hosts = identity != "drop"
    return Leakage(
        sequences=sequences.overlap(),
        timed_sequences=found.get("timed_sequences", none).overlap(),
        conflicts=dict(zip(tasks, sequences.conflicts.tolist(), strict=True)),
        host_pairs=found.get("host_pairs", none).overlap() if hosts else None,
        hosts=found.get("hosts", none).overlap() if hosts else None,
    )


def measure_leakage(dataset: str | os.PathLike[str]) -> Leakage:
    """Measures the leakage of a dataset on disk, in bounded memory, through a temporary folder.

    Raises:
      FlowloomError: if there is no finished dataset.
    """
    card = read_card(dataset)
    tasks = [task.name for task in card.tasks]
    with temporary_folder(None, "flowloom-leakage") as job:
        sightings: list[SpilledSightings] = []
        for shard in (shard for shard in card.shards if shard.view == "flows"):
            path = shard_file(dataset, shard)
            stored, _ = read_footer(path)
            batches = read_rows(path, _BATCH_ROWS, _sighting_columns(stored.names, tasks))
            sightings += spill_sightings(batches, shard.split, tasks, job)
        counts = count_leakage(sightings, tasks)
    return leakage_of(counts, tasks, card.identity)


def _sighting_columns(columns: Iterable[str], tasks: Sequence[str]) -> list[str]:
    """Returns the columns that `sight` needs."""
    wanted = {"flow_id", *TIMED_SEQUENCE, *IDENTITY, *map(label_column, tasks)}
    return [name for name in columns if name in wanted]


def _sightings(things: np.ndarray, rows: pa.RecordBatch, split: str, tasks: Sequence[str]) -> np.ndarray:
    records = np.empty(rows.num_rows, sighting_type(len(tasks)))
    records["thing"], records["flow"], records["split"] = things, view(rows["flow_id"]), SPLITS.index(split)
    for at, task in enumerate(tasks):
        known = label_column(task) in rows.schema.names
        records["labels"][:, at] = view(rows[label_column(task)].fill_null(_UNKNOWN)) if known else _UNKNOWN
    return records


def _conflicts(labels: np.ndarray, starts: np.ndarray, number: np.ndarray) -> int:
    """Returns the number of labelled sightings of things that have several labels."""
    if not len(starts):
        return 0
    known = labels != _UNKNOWN
    highest = np.maximum.reduceat(labels, starts)
    lowest = np.minimum.reduceat(np.where(known, labels, np.iinfo(np.int32).max), starts)
    return int((known & (highest > lowest)[number]).sum())


def _named(counts: np.ndarray, splits: Iterable[int]) -> dict[str, Any]:
    return {SPLITS[split]: int(counts[split]) for split in splits}


def count_leakage(sightings: Iterable[SpilledSightings], tasks: Sequence[str]) -> list[PartCounts]:
    """Counts flows of several splits that share sequences or hosts, part by part."""
    return [count_part(part, tasks) for part in plan_parts(sightings)]
