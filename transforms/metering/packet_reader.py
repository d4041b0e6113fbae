"""Packet reader: turns ranges of a capture group into flows and rows of the packets view, in one pass."""

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
    """Group reader that also yields rows of the packets view.

    Args:
      ranges, group, definition, place, others: arguments of `GroupReader`.
      packet_view: the layout of a packet row.

    Attributes:
      dropped: int64 counts by `PacketDrop` code of metered packets without a row.
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
        """Yields ("flows", rows) and ("packets", rows) as soon as they are ready.

        The schemas are `schemas.rows.FLOWS` and `schemas.rows.numbered_packet_schema`.
        """
        meter = self._meter
        for part in self._ranges:
            for packets, places in self.located_packets(part):
                if self.crowded:
                    continue
                serials = meter.update(packets, part.origin)
                for rows in packet_rows(packets, places, serials, self._packet_view, self.dropped):
                    yield "packets", rows
                while meter.finished >= TAKE_FLOWS:
                    yield from self._numbered()
        if self.crowded:
            return
        meter.finish(self.clock_ns)
        while meter.finished:
            yield from self._numbered()

    def numbers(self) -> pa.RecordBatch:
        """Returns the flow id of each serial, for the flows yielded so far (`schemas.rows.FLOW_NUMBERS`)."""
        return concatenated(self._numbers, FLOW_NUMBERS)

    def _numbered(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        flows, serials = self._meter.take_numbered()
        self._numbers.append(flow_numbers(self._position, serials, flows))
        if flows.num_rows:
            yield "flows", flows
