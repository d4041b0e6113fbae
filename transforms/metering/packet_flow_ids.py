"""Packet flow ids: rows of the packets view get the final ids of their flows, across ranges and files.

A flow id hashes the start of the flow, so a range that lacks the start cannot compute it. But the meter numbers the
flows of each range, so packet rows carry (range, serial). A table with one row per flow and range maps these numbers to
flow ids: for complete flows at once, for fragments after they are joined.
"""

import dataclasses
from typing import Self

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import FLOW_NUMBERS, packet_schema
from flowloom.transforms.arrays.columns import column, repeated_text, view


def flow_numbers(position: int, serials: np.ndarray, flows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the flow id of each serial of a range (`schemas.rows.FLOW_NUMBERS`).

    Args:
      position: the range's position in its group.
      serials, flows: results of `FlowMeter.take_numbered`.
    """
    ranges = column(np.full(len(serials), position, np.int32), FLOW_NUMBERS.field("range").type)
    serial = column(serials, FLOW_NUMBERS.field("serial").type)
    return pa.RecordBatch.from_arrays([ranges, serial, flows["flow_id"]], schema=FLOW_NUMBERS)


@dataclasses.dataclass(frozen=True)
class RangeFlows:
    """Flows of one range: ascending int64 serials, and flow ids."""

    serials: np.ndarray
    flow_ids: pa.Array

    @classmethod
    def of(cls, numbers: pa.RecordBatch, position: int) -> Self:
        """Returns the flows of one range from the numbers of its group (`schemas.rows.FLOW_NUMBERS`, in any order)."""
        rows = np.flatnonzero(view(numbers["range"]) == position)
        serials = view(numbers["serial"])[rows]
        order = np.argsort(serials, kind="stable")
        return cls(serials[order], numbers["flow_id"].take(column(rows[order], pa.int64())))

    def find(self, serials: np.ndarray) -> np.ndarray:
        """Returns the position of each serial among these flows, int64; -1 if it is not there."""
        if not len(self.serials):
            return np.full(len(serials), -1)
        at = np.minimum(np.searchsorted(self.serials, serials), len(self.serials) - 1)
        return np.where(self.serials[at] == serials, at, -1)


def attach_flows(rows: pa.RecordBatch, flows: RangeFlows, group: str, dropped: np.ndarray) -> pa.RecordBatch:
    """Returns rows of the packets view with the ids of their flows (`schemas.rows.packet_schema`).

    Args:
      rows: packet rows of one range (`schemas.rows.numbered_packet_schema`).
      flows: flows of that range. Packets of other flows are dropped: those flows are below `min_packets`.
      group: the group's name.
      dropped: int64 counts by `PacketDrop` code, to which packets of short flows are added.
    """
    at = flows.find(view(rows["serial"]))
    known = at >= 0
    if not known.all():
        dropped[PacketDrop.SHORT_FLOW] += np.count_nonzero(~known)
        rows, at = rows.take(column(np.flatnonzero(known), pa.int64())), at[known]
    schema = packet_schema(rows.schema.field("bytes").type.byte_width)
    flow_ids = flows.flow_ids.take(column(at, pa.int64()))
    times = rows["time_ns"].view(schema.field("time").type)
    arrays = [flow_ids, repeated_text(group, rows.num_rows), times, rows["record"], rows["bytes"]]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
