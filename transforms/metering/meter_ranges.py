"""Metering: turns tasks into batches of flows, fragments to join, packet rows and accounts."""

import abc
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import RowBuffer, batch
from flowloom.transforms.captures.capture_files import CaptureError, capture_sha256
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.flows.flow_fragments import fragment_partitions, join_fragments
from flowloom.transforms.flows.meter import TAKE_FLOWS, WHOLE
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_spilled, spill_batches
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount, Partition, RangeFragments
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.join_packets import PacketCounts, RangePackets
from flowloom.transforms.metering.meter_cache import CachedMetering
from flowloom.transforms.metering.packet_reader import PacketReader
from flowloom.transforms.metering.scheduling import MeterTask, Sha256Task

MAX_PARTITIONS = 64
"""Maximum number of partitions in which the fragments of one group are joined."""

ALL_RANGES = -1
"""Position of the flow numbers of joined flows, which belong to several ranges."""

GroupPackets = tuple[str, RangePackets]
"""A group, with packet rows or flow numbers of its ranges."""


class Metering(abc.ABC):
    """Results of one task; `flows` must be read to its end before the others are complete."""

    @abc.abstractmethod
    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yields complete flows in bounded batches (`schemas.rows.FLOWS`)."""

    @abc.abstractmethod
    def fragments(self) -> Iterator[tuple[Partition, RangeFragments]]:
        """Yields the spilled fragments of each partition of the group; nothing if the task is a whole group."""

    def packets(self) -> list[GroupPackets]:
        """Returns packet rows and flow numbers, spilled; empty without a packets view."""
        return []

    def counts(self) -> list[PacketCounts]:
        """Returns the number of dropped packets; empty without a packets view."""
        return []

    @abc.abstractmethod
    def account(self) -> GroupAccount:
        """Returns the account of the task's captures."""


class RangeMetering(Metering):
    """Metering of one task while its captures are read.

    Args:
      job: the folder for spilled fragments.
    """

    def __init__(self, task: MeterTask, definition: FlowDefinition, job: str | None):
        self._task = task
        self._job = job
        self._reader = self._open(definition)
        self._flows = 0

    def _open(self, definition: FlowDefinition) -> GroupReader:
        task = self._task
        return GroupReader(
            task.ranges, task.group, definition, place=task.place, earlier=task.earlier,
            earlier_clock_ns=task.earlier_clock_ns, gives_up=True,
        )  # fmt: skip

    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yields complete flows while reading the captures."""
        for rows in self._reader.flows():
            self._flows += rows.num_rows
            yield rows

    def fragments(self) -> Iterator[tuple[Partition, RangeFragments]]:
        """Yields the spilled fragments of each partition of the group; nothing if the task is a whole group."""
        task, reader = self._task, self._reader
        if task.place != WHOLE:
            where = (task.group, task.place.position, task.of)
            yield from _spilled_fragments(reader.fragments(), reader.clock_ns, *where, self._job)

    def account(self) -> GroupAccount:
        """Returns the account of the task's captures."""
        task, reader = self._task, self._reader
        return GroupAccount(
            task.group,
            self._flows,
            reader.flows_short,
            reader.captures(),
            reader.rejects(),
            {} if task.place == WHOLE else {task.place.position: reader.most_open},
            reader.ended_early,
            tuple(reader.leaves),
        )


class PacketMetering(RangeMetering):
    """Metering of one task with packet rows, in one pass.

    Args:
      packet_view: the layout of a packet row.
    """

    def __init__(self, task: MeterTask, definition: FlowDefinition, job: str | None, packet_view: PacketView):
        self._packet_view = packet_view
        self._places: list[tuple[None, Spilled]] = []
        super().__init__(task, definition, job)

    def _open(self, definition: FlowDefinition) -> PacketReader:
        task = self._task
        self._packet_reader = PacketReader(
            task.ranges,
            task.group,
            definition,
            self._packet_view,
            place=task.place,
            earlier=task.earlier,
            earlier_clock_ns=task.earlier_clock_ns,
            gives_up=True,
        )
        return self._packet_reader

    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yields complete flows in bounded batches, and spills the packet rows between them."""
        buffer = SpillBuffer[None](self._job, joined=False)
        for name, rows in self._packet_reader.views():
            if name == "packets":
                self._places += buffer.add([(None, rows)])
            else:
                self._flows += rows.num_rows
                yield rows
        self._places += buffer.flush()

    def packets(self) -> list[GroupPackets]:
        """Returns the places of packet rows and of the numbers of their flows."""
        numbers = self._packet_reader.numbers()
        spilled = tuple(spill_batches([numbers], self._job)) if numbers.num_rows else ()
        rows = tuple(place for _, place in self._places)
        return [(self._task.group, RangePackets(self._task.place.position, rows, spilled))]

    def counts(self) -> list[PacketCounts]:
        """Returns the number of packets that the view does not hold."""
        return [PacketCounts(0, tuple(self._packet_reader.dropped.tolist()))]


class CachedRanges(Metering):
    """Results of one task from the cache, equal to those of `RangeMetering`.

    Args:
      job: the folder for spilled fragments.
    """

    def __init__(self, cached: CachedMetering, job: str | None):
        self._cached = cached
        self._job = job
        self._flows = 0

    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yields complete flows from the cache."""
        for rows in self._cached.flows():
            self._flows += rows.num_rows
            yield rows

    def fragments(self) -> Iterator[tuple[Partition, RangeFragments]]:
        """Yields the spilled fragments of each partition of the group."""
        cached = self._cached
        where = (cached.group, cached.position, cached.of)
        yield from _spilled_fragments(cached.fragments(), cached.clock_ns, *where, self._job)

    def account(self) -> GroupAccount:
        """Returns the account of the cached captures."""
        cached = self._cached
        return GroupAccount(
            cached.group,
            self._flows,
            cached.flows_short,
            cached.captures(),
            cached.rejects(),
            {} if cached.whole else {cached.position: cached.most_open},
            cached.ended_early,
        )


@dataclasses.dataclass
class RangeResults:
    """Results of several tasks in memory, by the methods of `Metering`."""

    flows: list[pa.RecordBatch] = dataclasses.field(default_factory=list)
    fragments: list[tuple[Partition, RangeFragments]] = dataclasses.field(default_factory=list)
    packets: list[GroupPackets] = dataclasses.field(default_factory=list)
    counts: list[PacketCounts] = dataclasses.field(default_factory=list)
    accounts: list[GroupAccount] = dataclasses.field(default_factory=list)


def open_metering(
    task: MeterTask, definition: FlowDefinition, job: str | None, packet_view: PacketView | None = None
) -> RangeMetering:
    """Returns the metering of a task, with packet rows if there is a packets view."""
    if packet_view is None:
        return RangeMetering(task, definition, job)
    return PacketMetering(task, definition, job, packet_view)


def meter_ranges(
    tasks: Iterable[MeterTask], definition: FlowDefinition, job: str | None, packet_view: PacketView | None = None
) -> RangeResults:
    """Meters tasks in memory.

    Args:
      job: the folder for spilled fragments and packet rows.
      packet_view: the layout of a packet row; None for no packet rows.
    """
    return _results(open_metering(task, definition, job, packet_view) for task in tasks)


def read_cached_metering(cached: Iterable[CachedMetering], job: str | None) -> RangeResults:
    """Reads cached results in memory, equal to those of `meter_ranges`."""
    return _results(CachedRanges(each, job) for each in cached)


def _results(meterings: Iterable[Metering]) -> RangeResults:
    results, buffer = RangeResults(), RowBuffer(TAKE_FLOWS)
    for metering in meterings:
        for flows in metering.flows():
            results.flows += buffer.add(flows)
        results.fragments += metering.fragments()
        results.packets += metering.packets()
        results.counts += metering.counts()
        results.accounts.append(metering.account())
    results.flows += buffer.flush()
    return results


def _spilled_fragments(
    fragments: Sequence[pa.RecordBatch], clock_ns: int | None, group: str, position: int, of: int, job: str | None
) -> Iterator[tuple[Partition, RangeFragments]]:
    """Yields an element for each partition, also without rows, because the join needs the clock of every range."""
    partitions = min(of, MAX_PARTITIONS)
    parts = dict(fragment_partitions(fragments, partitions))
    places = dict(zip(parts, spill_batches(list(parts.values()), job), strict=True)) if parts else {}
    for number in range(partitions):
        yield (group, number), RangeFragments(position, clock_ns, places.get(number))


def sha256_captures(tasks: Iterable[Sha256Task]) -> tuple[list[CaptureSha256], list[pa.RecordBatch]]:
    """Returns the SHA-256 of captures, and reject rows of those that can no longer be read."""
    hashed, rejects = [], []
    for task in tasks:
        try:
            hashed.append(CaptureSha256(task.uri, capture_sha256(task.uri, task.stamp)))
        except CaptureError as error:
            rejects.append(reject_rows([(task.uri, error.offset, error.reason, error.detail)]))
    return hashed, rejects


@dataclasses.dataclass(frozen=True)
class JoinedPartition:
    """Flows joined from the fragments of one partition (`schemas.rows.FLOWS`), and their account.

    Attributes:
      numbers: the flow of each fragment (`schemas.rows.FLOW_NUMBERS`); None without a packets view.
    """

    flows: pa.RecordBatch
    numbers: pa.RecordBatch | None
    account: GroupAccount

    def packets(self, job: str | None) -> list[GroupPackets]:
        """Returns the spilled flow numbers; empty without any."""
        if self.numbers is None or not self.numbers.num_rows:
            return []
        return [(self.account.group, RangePackets(ALL_RANGES, (), tuple(spill_batches([self.numbers], job))))]


def join_partition(
    partition: Partition, parts: Iterable[RangeFragments], definition: FlowDefinition, *, numbered: bool
) -> JoinedPartition | None:
    """Joins the fragments of one partition of a group, from all its ranges; returns None without fragments.

    Args:
      numbered: whether packet rows need the flow of each fragment.
    """
    group, _ = partition
    parts = list(parts)
    places = [part.spilled for part in parts if part.spilled]
    if not places:
        return None
    clocks_ns = running_clocks((part.position, part.clock_ns) for part in parts)
    joined = join_fragments(read_spilled(places), clocks_ns, definition, group)
    account = GroupAccount(
        group,
        joined.flows.num_rows,
        joined.flows_short,
        batch([], CAPTURES),
        batch([], REJECTS),
        dict(enumerate(joined.carried.tolist())),
    )
    return JoinedPartition(joined.flows, joined.numbers if numbered else None, account)


def join_partitions(
    fragments: Iterable[tuple[Partition, RangeFragments]], definition: FlowDefinition, *, numbered: bool
) -> list[JoinedPartition]:
    """Joins the fragments of all partitions in memory, in the order of the partitions."""
    by_partition = itertools.groupby(sorted(fragments, key=lambda each: each[0]), key=lambda each: each[0])
    joined = (
        join_partition(partition, [part for _, part in parts], definition, numbered=numbered)
        for partition, parts in by_partition
    )
    return [each for each in joined if each is not None]


def running_clocks(clocks: Iterable[tuple[int, int | None]]) -> list[int]:
    """Returns the latest time up to the end of each range, from (position, clock) in any order."""
    before = np.iinfo(np.int64).min
    return np.maximum.accumulate([before if clock is None else clock for _, clock in sorted(clocks)]).tolist()
