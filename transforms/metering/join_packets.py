"""Packet joins: spilled rows of the packets view get the ids, labels and splits of their flows.

The rows stay in their spill files until their flows are complete. Two small tables of each group are joined first: one
maps the serials of its ranges to flows, the other has the labels and split of each flow
(docs/decisions/0006-packet-rows.md).
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOW_NUMBERS, LABEL_PREFIX
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.flows.identities import IdentityKey, rekey_ids
from flowloom.transforms.io.spill import Spilled, read_spilled, spill_batches
from flowloom.transforms.metering.packet_flow_ids import RangeFlows, attach_flows
from flowloom.transforms.packets.byte_rows import no_drops


@dataclasses.dataclass(frozen=True)
class RangePackets:
    """Spilled packet rows of one range of a group, and rows that map serials of any ranges to flows.

    Attributes:
      position: the range's position in its group.
      packets: spilled rows (`schemas.rows.numbered_packet_schema`).
      numbers: spilled rows (`schemas.rows.FLOW_NUMBERS`).
    """

    position: int
    packets: tuple[Spilled, ...]
    numbers: tuple[Spilled, ...]


@dataclasses.dataclass(frozen=True)
class PacketCounts:
    """Number of packets in the packets view, and number of dropped packets by `PacketDrop` code."""

    rows: int
    dropped: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RangeJoin:
    """Packet rows of one range, and its labelled flows by ascending serial; None if all were too short."""

    group: str
    packets: tuple[Spilled, ...]
    flows: Spilled | None


def mark_flows(flows: pa.RecordBatch, job: str) -> list[tuple[str, Spilled]]:
    """Spills the ids, labels and splits of a batch of flows, and returns (group, place) pairs."""
    names = [name for name in flows.schema.names if name.startswith(LABEL_PREFIX) or name == SPLIT_COLUMN]
    encoded = flows["group"].dictionary_encode()
    number = view(encoded.indices)
    order = np.argsort(number, kind="stable")
    marks = flows.select(["flow_id", *names]).take(column(order, pa.int64()))
    starts = np.searchsorted(number[order], np.arange(len(encoded.dictionary) + 1)).tolist()
    parts = [marks.slice(a, b - a) for a, b in itertools.pairwise(starts)]
    return list(zip(encoded.dictionary.to_pylist(), spill_batches(parts, job), strict=True)) if parts else []


def join_ranges(
    group: str, ranges: Iterable[RangePackets], marks: Iterable[Spilled], key: IdentityKey | None, job: str
) -> Iterator[RangeJoin]:
    """Yields the packet rows of each range of a group with the labels of their flows.

    Args:
      ranges: all ranges of the group, and the flow numbers of its joined fragments.
      marks: spilled marks of all flows of the group, by `mark_flows`.
      key: the key that flow ids were encrypted with; None if they were not.

    Raises:
      ValueError: if a flow has no mark.
    """
    known = list(ranges)
    places = [place for part in known for place in part.numbers]
    packets = [part for part in known if part.packets]
    if not packets:
        return
    if not places:  # all flows were too short
        yield from (RangeJoin(group, part.packets, None) for part in packets)
        return
    numbers = read_spilled(places)
    ids = numbers["flow_id"] if key is None else rekey_ids(numbers["flow_id"], key)
    flows = read_spilled(marks)
    marked = _ids(flows["flow_id"])
    order = np.argsort(marked)
    at = np.minimum(np.searchsorted(marked[order], _ids(ids)), len(marked) - 1)
    if (marked[order][at] != _ids(ids)).any():
        raise ValueError(f"group {group}: packets must belong to labelled flows, got packets of a flow without labels")
    flows = flows.take(column(order[at], pa.int64())).add_column(0, FLOW_NUMBERS.field("serial"), numbers["serial"])
    position, serial = view(numbers["range"]), view(numbers["serial"])
    found = []
    for part in packets:
        rows = np.flatnonzero(position == part.position)
        rows = rows[np.argsort(serial[rows], kind="stable")]
        found.append(flows.take(column(rows, pa.int64())))
    for part, place in zip(packets, spill_batches(found, job), strict=True):
        yield RangeJoin(group, part.packets, place)


def attach_labels(join: RangeJoin, dropped: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yields the packet rows of a range with the ids, labels and splits of their flows.

    Args:
      dropped: int64 counts by `PacketDrop` code, to which packets of short flows are added.
    """
    known = None if join.flows is None else read_spilled([join.flows])
    serials = np.empty(0, np.int64) if known is None else view(known["serial"])
    flows = RangeFlows(serials, pa.nulls(0, pa.binary(16)) if known is None else known["flow_id"])
    for place in join.packets:
        numbered = read_spilled([place])
        at = flows.find(view(numbered["serial"]))
        attached = attach_flows(numbered, flows, join.group, dropped)
        if known is not None and attached.num_rows:
            taken = known.drop_columns(["serial", "flow_id"]).take(column(at[at >= 0], pa.int64()))
            schema = pa.schema([*attached.schema, *taken.schema])
            yield pa.RecordBatch.from_arrays([*attached.columns, *taken.columns], schema=schema)


def join_packets(
    ranges: Iterable[tuple[str, RangePackets]], flows: Iterable[pa.RecordBatch], key: IdentityKey | None, job: str
) -> tuple[list[pa.RecordBatch], list[PacketCounts]]:
    """Returns packet rows of all groups with ids, labels and splits of their flows, and counts of each range.

    Args:
      ranges: groups, and the packet rows and flow numbers that metering spilled.
      flows: labelled flows of all groups.
      key: the key that flow ids were encrypted with; None if they were not.
      job: the folder for spill files.
    """
    marks: dict[str, list[Spilled]] = {}
    for batch in flows:
        for group, place in mark_flows(batch, job):
            marks.setdefault(group, []).append(place)
    parts: dict[str, list[RangePackets]] = {}
    for group, part in ranges:
        parts.setdefault(group, []).append(part)
    rows, counts = [], []
    for group, known in parts.items():
        for join in join_ranges(group, known, marks.get(group, []), key, job):
            dropped = no_drops()
            joined = list(attach_labels(join, dropped))
            rows += joined
            counts.append(PacketCounts(sum(batch.num_rows for batch in joined), tuple(dropped.tolist())))
    return rows, counts


def _ids(ids: pa.Array) -> np.ndarray:
    return np.ascontiguousarray(view(ids)).view("V16").ravel()
