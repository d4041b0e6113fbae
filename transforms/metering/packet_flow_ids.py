"""Packet flow ids: rows of the packets view get the final id of their flow, across ranges and files.

A range that misses a flow's beginning cannot know its id, which hashes the start. It does know which of its own flows a
packet belongs to: the meter numbers them. So packet rows travel with (range, serial), and a table of one row per flow
and range says afterwards which flow that is: of flows that are whole at once, of fragments when they have been joined.
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
      position: of the range in its group.
      serials, flows: what `FlowMeter.take_numbered` gives.
    """
    ranges = column(np.full(len(serials), position, np.int32), FLOW_NUMBERS.field("range").type)
    serial = column(serials, FLOW_NUMBERS.field("serial").type)
    return pa.RecordBatch.from_arrays([ranges, serial, flows["flow_id"]], schema=FLOW_NUMBERS)


@dataclasses.dataclass(frozen=True)
class RangeFlows:
    """The flows of one range by serial: ascending int64 serials, and their ids."""

    serials: np.ndarray
    flow_ids: pa.Array

    @classmethod
    def of(cls, numbers: pa.RecordBatch, position: int) -> Self:
        """Returns those of a range out of all its group has (`schemas.rows.FLOW_NUMBERS`, in any order)."""
        rows = np.flatnonzero(view(numbers["range"]) == position)
        serials = view(numbers["serial"])[rows]
        order = np.argsort(serials, kind="stable")
        return cls(serials[order], numbers["flow_id"].take(column(rows[order], pa.int64())))

    def find(self, serials: np.ndarray) -> np.ndarray:
        """Returns the position of each serial's flow among these as int64, -1 where it is none of them."""
        if not len(self.serials):
            return np.full(len(serials), -1)
        at = np.minimum(np.searchsorted(self.serials, serials), len(self.serials) - 1)
        return np.where(self.serials[at] == serials, at, -1)


def attach_flows(rows: pa.RecordBatch, flows: RangeFlows, group: str, dropped: np.ndarray) -> pa.RecordBatch:
    """Returns rows of the packets view with the ids of their flows (`schemas.rows.packet_schema`).

    Args:
      rows: `schemas.rows.numbered_packet_schema` of one range.
      flows: all flows of that range. Packets of others were too short for the dataset (`min_packets`).
      group: the group's name.
      dropped: int64 count by `PacketDrop` code; packets of short flows are added to it.
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
