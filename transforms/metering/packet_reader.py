"""Packet reading: ranges of a capture group to flows and to rows of the packets view, in one pass."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOW_NUMBERS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.meter import TAKE_FLOWS, WHOLE, RangePlace
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.packet_flow_ids import flow_numbers
from flowloom.transforms.packets.byte_rows import no_drops, packet_rows


class PacketReader(GroupReader):
    """A `GroupReader` that gives the packets view beside the flows.

    Args:
      ranges, group, definition, place, others: as of `GroupReader`.
      packet_view: what a row of the packets view is.

    Attributes:
      dropped: int64 count by `PacketDrop` code of the metered packets that are no row.
    """

    def __init__(
        self,
        ranges: Sequence[CaptureRange],
        group: str,
        definition: FlowDefinition,
        packet_view: PacketView,
        *,
        place: RangePlace = WHOLE,
        **others: Any,
    ):
        super().__init__(ranges, group, definition, place=place, **others)
        self.dropped: np.ndarray = no_drops()
        self._position = place.position
        self._packet_view = packet_view
        self._numbers: list[pa.RecordBatch] = []

    def views(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield ("flows", rows) and ("packets", rows) as they are ready.

        The schemas are `schemas.rows.FLOWS` and `schemas.rows.numbered_packet_schema`.
        """
        meter = self._meter
        for part in self._ranges:
            for packets, places in self.located_packets(part):
                serials = meter.update(packets)
                for rows in packet_rows(packets, places, serials, self._packet_view, self.dropped):
                    yield "packets", rows
                while meter.finished >= TAKE_FLOWS:
                    yield from self._numbered()
        meter.finish()
        while meter.finished:
            yield from self._numbered()

    def numbers(self) -> pa.RecordBatch:
        """Return which flow each serial means, of the flows given so far (`schemas.rows.FLOW_NUMBERS`)."""
        return concatenated(self._numbers, FLOW_NUMBERS)

    def _numbered(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        flows, serials = self._meter.take_numbered()
        self._numbers.append(flow_numbers(self._position, serials, flows))
        if flows.num_rows:
            yield "flows", flows
