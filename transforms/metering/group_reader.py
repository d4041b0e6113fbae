"""Group reader: turns consecutive ranges of one capture group into flows, fragments, accounts and rejects."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, DROPPED_COLUMNS, REJECTS, DropReason, RejectReason
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.capture_digest import CaptureLeaves, join_leaves
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.captures.record_clock import steps_back, timed_records
from flowloom.transforms.captures.records import Records, RecordScanner
from flowloom.transforms.flows.flow_shards import FlowShards
from flowloom.transforms.flows.meter import TAKE_FLOWS, WHOLE, FlowMeter, RangePlace
from flowloom.transforms.flows.open_meter import open_meter
from flowloom.transforms.flows.packet_windows import PacketWindows
from flowloom.transforms.io.ahead import ahead
from flowloom.transforms.metering.open_flows import most_open_in_ranges
from flowloom.transforms.metering.packet_order import PacketOrder
from flowloom.transforms.packets.decoder import NO_CLOCK, PacketDecoder, PacketPlaces
from flowloom.transforms.packets.ip_fragments import IpFragmentTable

Places = TypeVar("Places")


@dataclasses.dataclass
class StageSeconds:
    """Wall-clock seconds spent in each stage of reading."""

    read: float = 0.0
    decode: float = 0.0
    meter: float = 0.0


class GroupReader:
    """Reader of flows from ranges of one capture group; damage ends the reading of a capture, never of the group.

    Args:
      ranges: ranges to read, in the order of the group; the whole group, unless `place` says otherwise.
      group: the group's content-based name, at least 16 hexadecimal digits.
      definition: the flow definition.
      place: place of the ranges, as one piece, in their group.
      earlier: earlier ranges that may have first IP fragments of datagrams; read only when a first fragment is missing.
      earlier_clock_ns: the latest time before the first of `earlier`; None if nothing lies before it.
      prompt: whether each flow is given as soon as it ends, not in batches.
      ahead_bytes: how many bytes of decoded packets another thread may be ahead of the meter; None for one thread.
      shards: number of threads that meter the only capture of a group; such a reader also gives up.
      gives_up: whether a range stops metering once it is `crowded`; only for callers that then discard its results.

    Attributes:
      seconds: time spent in each stage so far.
      leaves: digests of the leaves of captures that this reader does not read from start to end.
    """

    def __init__(
        self,
        ranges: Sequence[CaptureRange],
        group: str,
        definition: FlowDefinition,
        *,
        place: RangePlace = WHOLE,
        earlier: Sequence[CaptureRange] = (),
        earlier_clock_ns: int | None = None,
        gives_up: bool = False,
        prompt: bool = False,
        ahead_bytes: int | None = None,
        shards: int = 1,
    ):
        self.seconds = StageSeconds()
        self.leaves: list[CaptureLeaves] = []
        self._ranges = ranges
        self._group = group
        self._definition = definition
        self._ahead_bytes = ahead_bytes
        self._prompt = prompt
        self._meter = open_meter(definition, group, place)
        # packet windows have no shards, because keys are forgotten together
        self._shards = FlowShards(definition, group, shards) if shards > 1 and definition.decision == "flow" else None
        bounded = self._shards is not None or (gives_up and place != WHOLE)
        self._most_open = most_open_in_ranges(definition) if bounded else None
        self._order = PacketOrder(definition.reorder_ns) if definition.reorder_ns else None
        self._clock_ns = NO_CLOCK if place.prior_clock_ns is None else place.prior_clock_ns
        self._ip_fragments: IpFragmentTable | None = None
        if definition.fragments == "join":
            self._ip_fragments = IpFragmentTable(
                (lambda: first_fragments(earlier, definition, earlier_clock_ns)) if earlier else None,
                clock_known=place.position == 0 or place.prior_clock_ns is not None,
            )
        self._captures: list[dict[str, Any]] = []
        self._rejects: list[dict[str, Any]] = []

    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yields complete flows as `schemas.rows.FLOWS`, in batches of at most `TAKE_FLOWS`.

        Those of a whole capture come in the order in which they end (`transforms/flows/meter.py`), but for `prompt`.
        """
        with contextlib.closing(self._shards) if self._shards else contextlib.nullcontext():
            yield from self._flows()

    def _flows(self) -> Iterator[pa.RecordBatch]:
        meter = self._metering
        for part in self._ranges:
            with self._decoded(part) as chunks:
                for packets in chunks:
                    if self.crowded:
                        continue
                    begun = time.perf_counter()
                    meter.update(packets, part.origin)
                    self.seconds.meter += time.perf_counter() - begun
                    if self._shards and self.crowded:
                        return
                    while meter.finished if self._prompt else meter.ready >= TAKE_FLOWS:
                        yield from self._take()
        if self.crowded:
            return
        meter.finish(self.clock_ns)
        while meter.finished and not self.crowded:
            yield from self._take()

    @property
    def _metering(self) -> FlowMeter | FlowShards | PacketWindows:
        """The meter, or its shards."""
        return self._shards or self._meter

    def _decoded(self, part: CaptureRange) -> contextlib.AbstractContextManager[Iterator[pa.RecordBatch]]:
        """Returns the packets of one range, on request decoded by a thread of its own."""
        if self._ahead_bytes is None:
            return contextlib.nullcontext(self._ordered(self.packets(part)))
        return ahead(lambda: self._ordered(self.packets(part)), self._ahead_bytes)

    def _ordered(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yields the packets of a capture in the order that the definition wants (`reorder_s`)."""
        if self._order is None:
            yield from batches
            return
        for packets in batches:
            yield self._order.add(packets)
        yield self._order.flush()

    def packets(self, part: CaptureRange) -> Iterator[pa.RecordBatch]:
        """Yields the packets of one range as `schemas.rows.PACKETS`, and counts its records for the account."""
        for packets, _ in self._read(part, _decode):
            yield packets

    def located_packets(self, part: CaptureRange) -> Iterator[tuple[pa.RecordBatch, PacketPlaces]]:
        """Yields packets and their places in the capture; both are valid until the next pair."""
        yield from self._read(part, PacketDecoder.decode_located)

    def _read(
        self, part: CaptureRange, decode: Callable[[PacketDecoder, Records], tuple[pa.RecordBatch, Places]]
    ) -> Iterator[tuple[pa.RecordBatch, Places]]:
        try:
            capture, scanner = part.open(digest=True)
        except CaptureError as damage:
            self._reject(part.uri, damage)
            return
        decoder = PacketDecoder.of(self._definition, self._ip_fragments, part.first_record, self._clock_ns)
        row = _account(part.uri, self._group, capture, scanner)
        links: set[int] = set()
        stopped = None
        before_ns = part.latest_ns
        with contextlib.closing(capture):
            try:
                for records in self._timed(timed_records(scanner, self._definition.idle_ns)):
                    begun = time.perf_counter()
                    row["clock_jumps"] += len(records.jumps)
                    if len(times_ns := records.times_ns()):
                        row["steps_back"] += steps_back(times_ns, before_ns, self._definition.idle_ns)
                        before_ns = int(times_ns[-1])
                        earliest, latest = int(times_ns.min()), int(times_ns.max())
                        row["first_ns"] = earliest if row["first_ns"] is None else min(row["first_ns"], earliest)
                        row["last_ns"] = latest if row["last_ns"] is None else max(row["last_ns"], latest)
                    links.update(np.unique(records.link_type).tolist())
                    packets, places = decode(decoder, records)
                    self._clock_ns = decoder.clock_ns
                    row["metered"] += packets.num_rows
                    self.seconds.decode += time.perf_counter() - begun
                    yield packets, places
            except CaptureError as error:
                stopped = error
            try:
                row["digest"] = self._digest(part, capture)
            except CaptureError as error:
                stopped = error if error.reason == RejectReason.CHANGED else stopped or error
        if stopped:
            self._reject(part.uri, stopped)
            row["rejects"] = 1
        row["bytes"] = capture.size
        row["records"] = decoder.records
        row["metered"] -= int(decoder.dropped[DropReason.ICMP_ERROR])
        row["metered_cut"] = decoder.cut
        row["link_types"] = sorted(links)
        row |= {reason.column: int(decoder.dropped[reason]) for reason in DropReason}
        self._captures.append(row)

    def fragments(self) -> list[pa.RecordBatch]:
        """Returns fragments of flows that other ranges may continue (see `FlowMeter.take_fragments`)."""
        return [] if self.crowded else self._meter.take_fragments()

    def captures(self) -> pa.RecordBatch:
        """Returns one row per range that could be opened (`schemas.accounting.CAPTURES`)."""
        return batch(self._captures, CAPTURES)

    def rejects(self) -> pa.RecordBatch:
        """Returns one row per place where reading stopped (`schemas.accounting.REJECTS`)."""
        return batch(self._rejects, REJECTS)

    @property
    def flows_short(self) -> int:
        """Number of flows below the definition's `min_packets`."""
        return self._metering.flows_short

    @property
    def clock_ns(self) -> int | None:
        """Latest time of all records so far, earlier ranges included; None before the first record with a time."""
        return None if self._clock_ns == NO_CLOCK else self._clock_ns

    @property
    def most_open(self) -> int:
        """Greatest number of flows that were open at once; those that were idle too long may count."""
        return self._metering.most_open

    @property
    def crowded(self) -> bool:
        """True if a reader that gives up has too many open flows for a group in ranges, or for shards.

        The packets of a range are then counted but not metered, and its open flows and fragments are dropped. Shards
        stop at once; the flows that they gave are the first ones of the capture in any case.
        """
        return self._most_open is not None and self._metering.most_open > self._most_open

    @property
    def ended_early(self) -> int:
        """Number of flows that ended for lack of resources."""
        return self._metering.ended_early

    def _timed(self, chunks: Iterator[Records]) -> Iterator[Records]:
        """Yields the chunks, and adds the time that they take to the stage of reading."""
        while True:
            begun = time.perf_counter()
            records = next(chunks, None)
            self.seconds.read += time.perf_counter() - begun
            if records is None:
                return
            yield records

    def _digest(self, part: CaptureRange, capture: CaptureBytes) -> str:
        """Returns the digest of a capture that was read from start to end; of another range it keeps the leaves."""
        begun = time.perf_counter()
        leaves = capture.leaves()
        self.seconds.read += time.perf_counter() - begun
        if part.start == 0 and part.stop is None:
            return join_leaves([leaves], {part.uri: capture.size}).get(part.uri, "")
        self.leaves.append(leaves)
        return ""

    def _take(self) -> Iterator[pa.RecordBatch]:
        begun = time.perf_counter()
        flows = self._metering.take()
        self.seconds.meter += time.perf_counter() - begun
        if flows.num_rows:  # empty when only fragments ended
            yield flows

    def _reject(self, uri: str, damage: CaptureError) -> None:
        self._rejects.append(
            {"uri": uri, "offset": damage.offset, "reason": str(damage.reason), "detail": damage.detail}
        )


def _decode(decoder: PacketDecoder, records: Records) -> tuple[pa.RecordBatch, None]:
    return decoder.decode(records), None


def first_fragments(
    ranges: Sequence[CaptureRange], definition: FlowDefinition, clock_ns: int | None = None
) -> IpFragmentTable:
    """Returns the first IP fragments of datagrams that are still incomplete after these ranges.

    Args:
      definition: its tunnels are looked into.
      clock_ns: the latest time before the first range; None if nothing lies before it.
    """
    table = IpFragmentTable()
    clock = NO_CLOCK if clock_ns is None else clock_ns
    for part in ranges:
        try:
            capture, scanner = part.open()
        except CaptureError:
            continue
        decoder = PacketDecoder.of(definition, table, part.first_record, clock)
        try:
            for records in timed_records(scanner, definition.idle_ns):
                decoder.decode(records)
        except CaptureError:
            continue
        finally:
            clock = decoder.clock_ns
            capture.close()
    table.clock_ns = clock
    return table


def dropped_by_reason(capture: Mapping[str, int]) -> dict[str, int]:
    """Returns the non-zero drop counts of a row of the captures table, by the reason's label."""
    return {
        reason.label: capture[column]
        for reason, column in zip(DropReason, DROPPED_COLUMNS, strict=True)
        if capture[column]
    }


def _account(uri: str, group: str, capture: CaptureBytes, scanner: RecordScanner) -> dict[str, Any]:
    """Returns a row of the captures table for a range before its first record is read."""
    return {
        "uri": uri,
        "digest": "",
        "sha256": None,
        "group": group,
        "bytes": capture.size,
        "format": scanner.format,
        "compression": capture.compression,
        "metered": 0,
        "metered_cut": 0,
        "rejects": 0,
        "first_ns": None,
        "last_ns": None,
        "clock_jumps": 0,
        "steps_back": 0,
    }
