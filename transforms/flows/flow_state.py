"""Flow records: the state of flows in memory, and the rows made of it (`FLOWS`, or `FRAGMENTS` for pieces)."""

from collections.abc import Mapping
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS, FRAGMENTS, HEAD, SEQUENCES, TAIL
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import column, integer_dtype, list_column, nullable_column, repeated_text, view
from flowloom.transforms.arrays.icmp_messages import ICMP, ICMPV6, message_fields
from flowloom.transforms.arrays.kernels import borrowed, mix
from flowloom.transforms.flows.recent_packets import HEADS, TAILS, Ends

BLOCK = 8
"""Sequence entries of a pool block."""

FLOW = np.dtype(
    [
        ("low_0", np.uint64),  # endpoints in canonical order: low address and port, high address and port
        ("low_1", np.uint64),
        ("high_0", np.uint64),
        ("high_1", np.uint64),
        ("low_port", np.uint16),
        ("high_port", np.uint16),
        ("vlan", np.uint16),
        ("key_vlan", np.uint16),
        ("tunnel_id", np.uint32),
        ("key_tunnel", np.uint32),
        ("protocol", np.uint8),
        ("ip_version", np.uint8),
        ("forward_is_low", np.uint8),
        ("begins", np.uint8),  # the turn of the first packet
        ("tested", np.uint8),  # turns that no FIN of an earlier range can cut off any more (`tcp_close: fin`)
        ("syn", np.uint8),  # sides with an own SYN, whose sequence numbers are `isn_low` and `isn_high`
        ("answer", np.uint8),  # side of the first packet if that is a SYN-ACK, which answers a SYN with `answered_isn`
        ("opening", np.uint8),  # 1 while all packets have the flag SYN
        ("closing", np.uint8),  # sides with a FIN; 4 if it is closed, by RST or (`tcp_close: fin`) by the first FIN
        ("end_reason", np.uint8),
        ("open_before", np.uint8),  # 1 if it may continue a flow of an earlier range, or be continued in a later one
        ("open_after", np.uint8),
        ("isn_low", np.uint32),
        ("isn_high", np.uint32),
        ("answered_isn", np.uint32),
        ("icmp", np.uint32),  # message of the first packet
        ("tag", np.uint32),
        ("first_block", np.int32),
        ("last_block", np.int32),
        ("entries", np.int32),
        ("serial", np.int64),
        ("origin", np.uint64),  # of the first packet's capture, and the packet's record in it
        ("record", np.uint64),
        ("first_ns", np.int64),  # time of the first packet, the earliest and the latest time
        ("start_ns", np.int64),
        ("latest_ns", np.int64),
        ("start_clock_ns", np.int64),
        ("clock_ns", np.int64),
        ("packets_low", np.uint64),
        ("packets_high", np.uint64),
        ("bytes_low", np.uint64),
        ("bytes_high", np.uint64),
        ("out_of_order", np.uint64),
        ("duplicates", np.uint64),
        ("icmp_errors", np.uint64),
        ("previous_ns", np.int64),  # time of the last packet
        ("newest_ns", np.int64),  # latest time and number of packets, those of the head and dropped ones included
        ("seen", np.uint64),
        ("ended_ns", np.int64),  # the clock at which it ended, and the record that ended it: the order of flows
        ("ended_at", np.uint64),
    ],
    align=True,
)
"""One flow, or one piece of it. Counters are by side of the key, so that they add up whoever spoke first.

Counters and times of a piece with `open_before` lack its first 8 packets (`transforms/flows/recent_packets.py`).
"""

LOW, HIGH, SYN_TURN = 1, 2, 4
"""Sides of a key as bits, and the bit of a SYN in a turn.

The turn of a packet says whether it may begin another flow of its key, and its side: with `tcp_close: lifecycle` a SYN
without ACK; with `fin` any SYN, and payload without FIN, which is a side alone; 0 for all others.
"""

ENTRY = np.dtype(
    [
        ("time_ns", np.int64),
        ("size", np.uint16),
        ("payload", np.uint16),
        ("window", np.uint16),
        ("flags", np.uint8),
        ("ttl", np.uint8),
        ("from_low", np.int8),
    ]
)
"""One of the first k packets of a flow."""

_HASHED = ("low_0", "low_1", "high_0", "high_1", "low_port", "high_port", "key_vlan", "protocol")


class Entries(NamedTuple):
    """Flat entry columns, one per name in `SEQUENCES`; until `flow_rows` `pkt_gap_ns` is a time, `pkt_dir` from_low."""

    pkt_size: np.ndarray
    pkt_dir: np.ndarray
    pkt_gap_ns: np.ndarray
    pkt_tcp_flags: np.ndarray
    pkt_tcp_window: np.ndarray
    pkt_ttl: np.ndarray
    pkt_payload: np.ndarray


def idle_timeouts_ns(definition: FlowDefinition) -> np.ndarray:
    """Returns the longest gap that cuts no flow, for each IP protocol number, int64 [256]."""
    idle = np.full(256, definition.idle_ns, np.int64)
    if definition.idle_udp_s is not None:
        idle[17] = round(definition.idle_udp_s * 1e9)
    return idle - definition.margin_ns


def active_timeout_ns(definition: FlowDefinition) -> int:
    """Returns the greatest age at which a flow is not cut."""
    if definition.active_s is None:
        return int(np.iinfo(np.int64).max)
    return round(definition.active_s * 1e9) - definition.margin_ns


def key_hashes(records: Mapping[str, np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns a uint64 hash of the key of each record; records are `FLOW` records, or fragment columns by name."""
    return _key_hashes(*(np.ascontiguousarray(records[name]) for name in _HASHED))


@numba.njit(nogil=True, cache=True)
def _key_hashes(low_0, low_1, high_0, high_1, low_port, high_port, key_vlan, protocol):
    hashes = np.empty(len(low_0), np.uint64)
    for i in range(len(low_0)):
        ends = (np.uint64(low_port[i]) << np.uint64(48)) | (np.uint64(high_port[i]) << np.uint64(32))
        ends |= (np.uint64(key_vlan[i]) << np.uint64(16)) | np.uint64(protocol[i])
        hashes[i] = mix(mix(mix(low_0[i] ^ mix(low_1[i])) + high_0[i] ^ mix(high_1[i])) + ends)
    return hashes


@numba.njit(nogil=True, cache=True, inline="always")
def closed(closing):
    """Returns whether a TCP connection was closed: RST, or FIN from both sides (`tcp_close: fin`: any FIN)."""
    return closing & 4 != 0 or closing & 3 == 3


@numba.njit(nogil=True, cache=True, inline="always")
def syn_is_own(flow, side, isn):
    """Returns whether a SYN of a side belongs to the connection of a flow, all of whose packets are known.

    It repeats the first SYN of its side, or is that: answered by the flow's first packet, or crossing the SYN of the
    other side while the connection opens (RFC 9293, figure 7).
    """
    if flow.syn & side:
        return isn == (flow.isn_low if side == LOW else flow.isn_high)
    if flow.answer == (LOW | HIGH) ^ side and flow.answered_isn == isn:
        return True
    return flow.syn != 0 and flow.opening != 0


def empty_entries(count: int) -> Entries:
    """Returns `count` entries, uninitialised."""
    return Entries(**{name: np.empty(count, integer_dtype(kind)) for name, kind in SEQUENCES.items()})


def entry_offsets(flows: np.ndarray) -> np.ndarray:
    """Returns int32 [rows + 1] positions of each flow's entries among all."""
    offsets = np.zeros(len(flows) + 1, np.int32)
    np.cumsum(flows["entries"], out=offsets[1:])
    return offsets


def gather_entries(flows: np.ndarray, pool: np.ndarray, next_block: np.ndarray) -> Entries:
    """Returns the entries of flows side by side, collected from their chains of blocks."""
    offsets = entry_offsets(flows)
    entries = empty_entries(int(offsets[-1]))
    _unchain(flows, pool, next_block, offsets, tuple(entries))
    return entries


def long_enough(flows: np.ndarray, min_packets: int) -> np.ndarray:
    """Returns a mask of the records with at least `min_packets` packets."""
    return flows["packets_low"] + flows["packets_high"] >= min_packets


def flow_rows(flows: np.ndarray, entries: Entries, group: str, definition: FlowDefinition) -> pa.RecordBatch:
    """Returns whole flows as `schemas.arrow.rows.FLOWS`; overwrites the entries.

    Args:
      flows: `FLOW` records.
      entries: their entries in the same order.
      group: the capture group's name, at least 16 hexadecimal digits.
      definition: the flow definition; it says whether ICMP errors were counted.
    """
    rows = len(flows)
    ids, src, dst = (np.empty((rows, 2), np.uint64) for _ in range(3))
    src_port, dst_port = (np.empty(rows, np.uint16) for _ in range(2))
    _identify(flows, np.uint64(int(group[:16], 16)), ids, src, dst, src_port, dst_port)
    offsets = entry_offsets(flows)
    _orient(flows, offsets, entries.pkt_dir, entries.pkt_gap_ns)
    low_is_forward = flows["forward_is_low"] == 1
    values = {
        "flow_id": ids,
        "start": flows["start_ns"],
        "duration_ns": flows["latest_ns"] - flows["start_ns"],
        "src_ip": src,
        "dst_ip": dst,
        "src_port": src_port,
        "dst_port": dst_port,
        "packets_fwd": np.where(low_is_forward, flows["packets_low"], flows["packets_high"]),
        "packets_bwd": np.where(low_is_forward, flows["packets_high"], flows["packets_low"]),
        "bytes_fwd": np.where(low_is_forward, flows["bytes_low"], flows["bytes_high"]),
        "bytes_bwd": np.where(low_is_forward, flows["bytes_high"], flows["bytes_low"]),
    }
    nullable = message_fields(flows["protocol"], flows["icmp"])
    nullable["icmp_errors"] = flows["icmp_errors"], np.full(rows, definition.icmp_errors != "count")
    arrays = []
    for field in FLOWS:
        if field.name == "group":
            arrays.append(repeated_text(group, rows))
        elif field.name in nullable:
            arrays.append(nullable_column(*nullable[field.name], field.type))
        elif field.name in SEQUENCES:
            arrays.append(list_column(offsets, getattr(entries, field.name), field.type))
        else:
            fixed = values[field.name] if field.name in values else flows[field.name]
            arrays.append(column(fixed, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS)


def fragment_rows(flows: np.ndarray, entries: Entries, ends: Ends, position: int) -> pa.RecordBatch:
    """Returns pieces of flows as `schemas.arrow.rows.FRAGMENTS`; `position` numbers their range in the group."""
    offsets = entry_offsets(flows)
    arrays = []
    for field in FRAGMENTS:
        if field.name == "range":
            arrays.append(column(np.full(len(flows), position, np.int32), field.type))
        elif field.name in _FRAGMENT_LISTS:
            arrays.append(list_column(offsets, getattr(entries, _FRAGMENT_LISTS[field.name]), field.type))
        elif field.name in HEAD:
            values = ends.heads[field.name.removeprefix("head_")]
            arrays.append(list_column(ends.head_offsets, np.ascontiguousarray(values), field.type))
        elif field.name in TAIL:
            values = ends.tails[field.name.removeprefix("tail_")]
            arrays.append(list_column(ends.tail_offsets, np.ascontiguousarray(values), field.type))
        else:
            arrays.append(column(flows[field.name], field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=FRAGMENTS)


def fragment_records(fragments: pa.RecordBatch) -> tuple[np.ndarray, Entries, Ends]:
    """Returns the `FLOW` records, entries and ends of fragments; the inverse of `fragment_rows`."""
    flows = np.zeros(fragments.num_rows, FLOW)
    entries: dict[str, np.ndarray] = {}
    for name in FRAGMENTS.names:
        if name in _FRAGMENT_LISTS:
            lists = fragments[name]
            entries[_FRAGMENT_LISTS[name]] = view(lists.flatten())
        elif name not in ("range", *HEAD, *TAIL):
            flows[name] = view(fragments[name])
    flows["entries"] = np.diff(view_offsets(lists))
    ends = Ends(*_end_records(fragments, HEAD, HEADS), *_end_records(fragments, TAIL, TAILS))
    return flows, Entries(**entries), ends


def _end_records(
    fragments: pa.RecordBatch, names: Mapping[str, pa.DataType], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the records of list columns, and the position of each fragment's first, from 0."""
    values = [view(fragments[name].flatten()) for name in names]
    records = np.empty(len(values[0]), dtype)
    for field, found in zip(dtype.names or (), values, strict=True):
        records[field] = found
    offsets = view_offsets(fragments[next(iter(names))])
    return records, offsets - offsets[0]


def view_offsets(lists: pa.ListArray) -> np.ndarray:
    """Returns a list array's int32 [rows + 1] offsets."""
    return np.frombuffer(lists.buffers()[1], np.int32)[lists.offset : lists.offset + len(lists) + 1]


_FRAGMENT_LISTS = {{"pkt_gap_ns": "pkt_time_ns", "pkt_dir": "pkt_from_low"}.get(name, name): name for name in SEQUENCES}


@numba.njit(nogil=True, cache=True)
def _identify(flows, seed, ids, src, dst, src_port, dst_port):
    """Writes endpoints by direction, and flow ids: 128-bit hashes of group, capture and record of the first packet.

    Both halves are one-to-one in the record, so that no two flows of a capture share an id.
    """
    for i in range(len(flows)):
        f = flows[i]
        if f.protocol == ICMP or f.protocol == ICMPV6:
            low_port, high_port = np.uint16(0), np.uint16(0)  # the key may have the message in their place
        else:
            low_port, high_port = f.low_port, f.high_port
        if f.forward_is_low:
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1] = f.low_0, f.low_1, f.high_0, f.high_1
            src_port[i], dst_port[i] = low_port, high_port
        else:
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1] = f.high_0, f.high_1, f.low_0, f.low_1
            src_port[i], dst_port[i] = high_port, low_port
        two = seed ^ np.uint64(0x9E3779B97F4A7C15)
        one = mix(seed + f.origin) + two
        two = mix(two ^ f.origin) + one
        ids[i, 0] = mix(one + f.record)
        ids[i, 1] = mix(two ^ f.record)


@numba.njit(nogil=True, cache=True)
def _unchain(flows, pool, next_block, offsets, entries):
    """Writes each flow's entries side by side."""
    entries = Entries(*borrowed(entries))
    for i in range(len(flows)):
        block = np.int64(flows[i].first_block)
        at = offsets[i]
        left = flows[i].entries
        while left > 0:
            for position in range(min(left, BLOCK)):
                entry = pool[block * BLOCK + position]
                entries.pkt_size[at] = entry.size
                entries.pkt_dir[at] = entry.from_low
                entries.pkt_gap_ns[at] = entry.time_ns
                entries.pkt_tcp_flags[at] = entry.flags
                entries.pkt_tcp_window[at] = entry.window
                entries.pkt_ttl[at] = entry.ttl
                entries.pkt_payload[at] = entry.payload
                at += 1
            left -= BLOCK
            block = np.int64(next_block[block])


@numba.njit(nogil=True, cache=True)
def _orient(flows, offsets, direction, gap_ns):
    """Turns sides into directions and times into gaps, in place: 0 for the first entry and where out of order."""
    for i in range(len(flows)):
        forward = np.int8(flows[i].forward_is_low)
        previous = np.int64(0)
        for at in range(offsets[i], offsets[i + 1]):
            direction[at] = 1 if direction[at] == forward else -1
            now = gap_ns[at]
            gap_ns[at] = max(now - previous, 0) if at > offsets[i] else 0
            previous = now
