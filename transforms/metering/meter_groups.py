"""Metering: readings become flow batches, and each one account of what became of its records."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.capture_files import CaptureError, capture_sha256
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.flows.flow_fragments import fragment_partitions, join_fragments, join_numbered_fragments
from flowloom.transforms.flows.meter import WHOLE
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_spilled, spill_batches
from flowloom.transforms.metering.group_reader import GroupReading
from flowloom.transforms.metering.join_packets import PacketCounts, RangePackets
from flowloom.transforms.metering.meter_cache import KeptReading
from flowloom.transforms.metering.packet_reader import PacketReading
from flowloom.transforms.metering.scheduling import DigestTask, ReadingTask

MAX_PARTITIONS = 16
"""Parts into which the fragments of a group are divided for joining, where it has at least so many ranges."""

Partition = tuple[str, int]
"""A group and one of its partitions."""


@dataclasses.dataclass(frozen=True)
class GroupAccount:
    """What became of one group, or a part of it.

    Attributes:
      flows, flows_short: flows in the dataset, and those too short for it.
      captures, rejects: rows of the tables of the same names; one capture may have several, one for each range.
    """

    group: str
    flows: int
    flows_short: int
    captures: pa.RecordBatch
    rejects: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class CaptureDigest:
    """The SHA-256 in hex of all bytes of a capture."""

    uri: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RangeFragments:
    """The fragments that one range has of one partition, if any, and its latest time (see `FlowMeter.clock_ns`)."""

    position: int
    clock_ns: int | None
    spilled: Spilled | None


NumberedPackets = tuple[str, RangePackets]
"""A group, and packet rows or flow numbers of it."""


def meter_reading(
    task: ReadingTask, definition: FlowDefinition, job: str, packet_view: PacketView | None = None
) -> Iterator[pa.RecordBatch | tuple[Partition, RangeFragments] | NumberedPackets | PacketCounts | GroupAccount]:
    """Yield a task's flows (`schemas.rows.FLOWS`) in bounded batches, its fragments, and its account at the end.

    Args:
      job: the folder that fragments and packet rows are spilled to.
      packet_view: what a row of the packets view is, if there are to be any, in the same pass.
    """
    how: dict[str, Any] = {"sha256": task.sha256, "place": task.place, "earlier": task.earlier}
    reading: GroupReading
    flows = 0
    if packet_view is None:
        reading = GroupReading(task.ranges, task.group, definition, **how)
        for rows in reading.flows():
            flows += rows.num_rows
            yield rows
    else:
        reading = numbered = PacketReading(task.ranges, task.group, definition, packet_view, **how)
        buffer = SpillBuffer[None](job, joined=False)
        packets: list[tuple[None, Spilled]] = []
        for name, rows in numbered.views():
            if name == "packets":
                packets += buffer.add([(None, rows)])
            else:
                flows += rows.num_rows
                yield rows
        packets += buffer.flush()
        numbers = numbered.numbers()
        kept = tuple(spill_batches([numbers], job)) if numbers.num_rows else ()
        yield task.group, RangePackets(task.place.position, tuple(place for _, place in packets), kept)
        yield PacketCounts(0, tuple(numbered.dropped.tolist()))
    if task.place != WHOLE:
        yield from _fragments(reading, task.group, task.place.position, task.of, job)
    yield GroupAccount(task.group, flows, reading.flows_short, reading.captures(), reading.rejects())


def recall_reading(
    kept: KeptReading, job: str
) -> Iterator[pa.RecordBatch | tuple[Partition, RangeFragments] | GroupAccount]:
    """Yield of a kept reading what `meter_reading` yields of its captures."""
    flows = 0
    for rows in kept.flows():
        flows += rows.num_rows
        yield rows
    yield from _fragments(kept, kept.group, kept.position, kept.of, job)
    yield GroupAccount(kept.group, flows, kept.flows_short, kept.captures(), kept.rejects())


def _fragments(
    reading: GroupReading | KeptReading, group: str, position: int, of: int, job: str
) -> Iterator[tuple[Partition, RangeFragments]]:
    """Yield what a range has of each partition, its rows spilled."""
    partitions = min(of, MAX_PARTITIONS)
    parts = dict(fragment_partitions(reading.fragments(), partitions))
    places = dict(zip(parts, spill_batches(list(parts.values()), job), strict=True)) if parts else {}
    for number in range(partitions):
        yield (group, number), RangeFragments(position, reading.clock_ns, places.get(number))


def digest_capture(task: DigestTask) -> CaptureDigest | pa.RecordBatch:
    """Return a capture's digest; or the reject row of one that can no longer be read."""
    try:
        return CaptureDigest(task.uri, capture_sha256(task.uri))
    except CaptureError as error:
        return reject_rows([(task.uri, error.offset, error.reason, error.detail)])


def running_clocks(clocks: Iterable[tuple[int, int | None]]) -> list[int]:
    """Return the latest time up to the end of each range, from (position, clock) in any order."""
    before = np.iinfo(np.int64).min
    return np.maximum.accumulate([before if clock is None else clock for _, clock in sorted(clocks)]).tolist()


def join_partition(
    partition: Partition, parts: Iterable[RangeFragments], definition: FlowDefinition, *, numbered: bool
) -> Iterator[pa.RecordBatch | GroupAccount]:
    """Yield the flows that the fragments of all ranges of one partition form (`schemas.rows.FLOWS`), and their account.

    Args:
      numbered: whether a batch between them tells which fragment each flow has (`schemas.rows.FLOW_NUMBERS`).
    """
    group, _ = partition
    parts = list(parts)
    places = [part.spilled for part in parts if part.spilled]
    if not places:
        return
    clocks_ns = running_clocks((part.position, part.clock_ns) for part in parts)
    if numbered:
        flows, short, numbers = join_numbered_fragments(read_spilled(places), clocks_ns, definition, group)
        yield flows
        yield numbers
    else:
        flows, short = join_fragments(read_spilled(places), clocks_ns, definition, group)
        yield flows
    yield GroupAccount(group, flows.num_rows, short, batch([], CAPTURES), batch([], REJECTS))
