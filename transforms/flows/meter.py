"""The meter: packets in captured order become bidirectional flows with their first-k sequences.

State per flow is O(k): counters in one record, sequence entries in blocks of a shared pool. Nothing here knows of files
or Beam. A flow is final at a cut (idle gap, active timeout, new TCP connection) or when the capture's clock shows that
no later packet can belong to it; so chunk sizes and the moments of sweeping never change a flow.

The clock is the running maximum of packet times. A packet's idle gap is the clock now less the clock at the flow's last
packet, which for ordered captures is the plain time between them.

TCP lifecycle (`tcp_close: lifecycle`), per flow:

    event                                       state of the flow    effect
    SYN without ACK, flow's own SYN repeated    any                  stays in the flow
    SYN without ACK, any other                  any                  flow ends (end detected), a new one starts
    RST                                         open                 closed: end reason `end detected`
    FIN forward and FIN backward seen           open                 closed: end reason `end detected`
    any other packet                            open or closed       stays in the flow until it is idle

First FIN (`tcp_close: fin`), per flow:

    event                                       state of the flow    effect
    FIN                                         open                 closed: end reason `end detected`
    SYN, or payload without FIN                 closed               flow ends (end detected), a new one starts
    any other packet: FIN, ACK, RST             open or closed       stays in the flow until it is idle

A range of a group, which is a stretch of a file or one of several files, is metered alone: flows that may continue one
of an earlier range, or be continued in a later one, come out as fragments, which `transforms/flows/flow_fragments.py`
joins. The rule is to cut too much, never too little: what an earlier range could add (a later clock, the flow's own
SYN) only removes cuts. Under `tcp_close: fin` an earlier range may hold the FIN; so a fragment that begins with packets
which can follow one is cut before the first that cannot.

A flow's own SYN is its first packet, if that is a SYN: same direction and same initial sequence number. Simultaneous
open (two SYNs that cross) therefore gives two flows.
"""

import dataclasses

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.arrays.kernels import mix, prefetch
from flowloom.transforms.flows.flow_state import (
    BLOCK,
    ENTRY,
    FLOW,
    Entries,
    closed,
    flow_rows,
    fragment_rows,
    gather_entries,
    idle_timeouts_ns,
    key_hashes,
    long_enough,
)

TAKE_FLOWS = 1 << 14
"""Flows of a batch at most: one row group."""

_IDLE, _ACTIVE, _END, _FORCED = (
    int(EndReason.IDLE_TIMEOUT),
    int(EndReason.ACTIVE_TIMEOUT),
    int(EndReason.END_DETECTED),
    int(EndReason.FORCED_END),
)
_SIZES = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}
_NEVER = np.iinfo(np.int64).max
_BEFORE = np.iinfo(np.int64).min
_PACKET_COLUMNS = (
    "time_ns", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "vlan", "tunnel_id",
    "ip_bytes", "payload_bytes", "ip_id", "ttl", "tcp_flags", "tcp_window", "tcp_seq",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RangePlace:
    """Where a range lies in its capture group.

    Attributes:
      position: its number in the group, from 0.
      last: whether nothing follows it.
      prior_clock_ns: the latest time in all ranges before it; None if that is not known, or nothing lies before.
    """

    position: int = 0
    last: bool = True
    prior_clock_ns: int | None = None


WHOLE = RangePlace()
"""The place of a capture group that is metered in one piece."""


class FlowMeter:
    """Meters the packets of one range of a capture group, chunk by chunk, into finished flows and fragments.

    Memory is bounded by the open flows times k, and by `finished` flows that were not yet taken.

    Args:
      definition: what counts as one flow; must be associative unless the range is the whole group.
      group: the capture group's content-based name, 16 hexadecimal digits or more; part of every flow id.
      place: where the range lies in its group.

    Attributes:
      flows_short: flows left out by the definition's `min_packets`.
    """

    def __init__(self, definition: FlowDefinition, group: str, place: RangePlace = WHOLE):
        if place != WHOLE and not definition.associative:
            raise ValueError(
                f"a range of a capture group needs an associative flow definition, got active_s={definition.active_s:g}"
            )
        self.flows_short = 0
        self._definition = definition
        self._group = group
        self._place = place
        self._fragments: list[pa.RecordBatch] = []
        self._idle_ns = idle_timeouts_ns(definition)
        self._active_ns = _NEVER if definition.active_s is None else round(definition.active_s * 1e9)
        self._blind = place.position > 0 and place.prior_clock_ns is None
        before = _BEFORE if place.prior_clock_ns is None else place.prior_clock_ns
        self._clock = np.array([before, _BEFORE, before], np.int64)  # now, at the last sweep, before the range
        # [open slots used, free flows, free blocks, finished flows, flows begun]
        self._counts = np.zeros(5, np.int64)
        self._slots = np.zeros(1 << 12, np.uint64)
        self._flows = np.zeros(0, FLOW)
        self._free_flows = np.zeros(0, np.int32)
        self._finished = np.zeros(0, np.int32)
        self._pool = np.zeros(0, ENTRY)
        self._next = np.zeros(0, np.int32)
        self._free_blocks = np.zeros(0, np.int32)

    def update(self, packets: pa.RecordBatch) -> np.ndarray:
        """Meter packets (`schemas.rows.PACKETS`) that follow all packets metered before.

        Returns:
          int64 serial of each packet's flow in this range; `take_numbered` and fragments tell which flow that is.
        """
        serials = np.empty(packets.num_rows, np.int64)
        if not packets.num_rows:
            return serials
        self._make_room(packets.num_rows)
        columns = [view(packets.column(name)) for name in _PACKET_COLUMNS]
        size = view(packets.column(_SIZES[self._definition.size]))
        _meter(
            *columns, size,
            self._definition.k, self._idle_ns, self._active_ns, self._definition.tcp_close == "lifecycle",
            self._definition.tcp_close == "fin", self._definition.zero_payload == "skip",
            self._definition.orient == "syn", self._definition.vlan_in_key, self._definition.tunnel_in_key,
            self._place.position > 0, self._blind, self._clock, self._counts, self._slots,
            self._flows, self._free_flows, self._finished, self._pool, self._next, self._free_blocks, serials,
        )  # fmt: skip
        # sweeping more often would scan the open flows in vain, less often would keep dead ones
        if int(self._clock[0]) - int(self._clock[1]) > int(self._idle_ns.min()) // 4:
            self._sweep(ending=False)
        return serials

    @property
    def clock_ns(self) -> int | None:
        """The latest time so far, including that before the range; None before the first packet."""
        return None if self._clock[0] == _BEFORE else int(self._clock[0])

    def finish(self) -> None:
        """End all flows that are still open; the range has no further packets."""
        self._sweep(ending=True)
        waiting = self._finished[: self._counts[3]]
        waiting[:] = waiting[np.argsort(self._flows["start_ns"][waiting], kind="stable")]

    @property
    def finished(self) -> int:
        """Flows that ended and were not yet taken."""
        return int(self._counts[3])

    def take(self) -> pa.RecordBatch:
        """Return up to `TAKE_FLOWS` of the finished flows as `schemas.rows.FLOWS`, and forget them.

        Within the batch flows are ordered by start, so that no accident of the table shows. Fragments are kept back.
        """
        flows, _ = self.take_numbered()
        return flows

    def take_numbered(self) -> tuple[pa.RecordBatch, np.ndarray]:
        """Return what `take` returns, and the int64 serial of each of these flows in its range."""
        waiting = self.finished
        chosen = self._finished[: min(waiting, TAKE_FLOWS)].copy()
        order = np.lexsort((self._flows["serial"][chosen], self._flows["start_ns"][chosen]))
        flows = _pick(self._flows, chosen[order])
        fragment = (flows["open_before"] | flows["open_after"]) == 1
        if fragment.any():
            pieces = flows[fragment]
            pieces = pieces[np.argsort(key_hashes(pieces), kind="stable")]
            self._fragments.append(fragment_rows(*self._with_entries(pieces), self._place.position))
            flows = flows[~fragment]
        enough = long_enough(flows, self._definition.min_packets)
        if not enough.all():
            self.flows_short += int(np.count_nonzero(~enough))
            flows = flows[enough]
        batch = flow_rows(*self._with_entries(flows), self._group)
        _release(chosen, self._counts, self._flows, self._free_flows, self._next, self._free_blocks)
        self._finished[: waiting - len(chosen)] = self._finished[len(chosen) : waiting].copy()
        self._counts[3] = waiting - len(chosen)
        return batch, flows["serial"]

    def take_fragments(self) -> list[pa.RecordBatch]:
        """Return the fragments among all flows taken so far, and forget them.

        Returns:
          batches of `schemas.rows.FRAGMENTS`, in each of them ordered by the hash of their keys.
        """
        fragments, self._fragments = self._fragments, []
        return fragments

    def _with_entries(self, flows: np.ndarray) -> tuple[np.ndarray, Entries]:
        return flows, gather_entries(flows, self._pool, self._next)

    def _sweep(self, *, ending: bool) -> None:
        _sweep(
            ending, self._place.last, self._blind, self._idle_ns, self._clock,
            self._counts, self._slots, self._flows, self._finished,
        )  # fmt: skip

    def _make_room(self, packets: int) -> None:
        """Let every one of `packets` open a flow and take a block: kernels never run out of either."""
        lacking = packets - int(self._counts[1])
        if lacking > 0:
            had = len(self._flows)
            added = max(lacking, had // 2)
            self._flows = _grown(self._flows, added)
            self._free_flows = _grown(self._free_flows, added)
            self._finished = _grown(self._finished, added)
            self._free_flows[self._counts[1] : self._counts[1] + added] = np.arange(
                had + added - 1, had - 1, -1, dtype=np.int32
            )
            self._counts[1] += added
        lacking = packets - int(self._counts[2])
        if lacking > 0:
            had = len(self._next)
            added = max(lacking, had // 2)
            self._pool = _grown(self._pool, added * BLOCK)
            self._next = _grown(self._next, added)
            self._free_blocks = _grown(self._free_blocks, added)
            self._free_blocks[self._counts[2] : self._counts[2] + added] = np.arange(
                had + added - 1, had - 1, -1, dtype=np.int32
            )
            self._counts[2] += added
        if (self._counts[0] + packets) * 2 > len(self._slots):
            capacity = len(self._slots)
            while (self._counts[0] + packets) * 2 > capacity:
                capacity *= 2
            slots = np.zeros(capacity, np.uint64)
            _rehash(self._slots, slots)
            self._slots = slots


def _grown(values: np.ndarray, added: int) -> np.ndarray:
    """Return the array with `added` zero rows behind it, in place where the allocator can."""
    values.resize(len(values) + added, refcheck=False)
    return values


# the table: open addressing, slot = tag << 32 | flow + 1, linear probing, backward-shift deletion -------------------


@numba.njit(nogil=True, cache=True)
def _rehash(old, new):
    mask = np.uint64(len(new) - 1)
    for slot in old:
        if slot:
            at = (slot >> np.uint64(32)) & mask
            while new[at]:
                at = (at + np.uint64(1)) & mask
            new[at] = slot


@numba.njit(nogil=True, cache=True)
def _unlink(slots, tag, flow):
    """Take a flow out of the table."""
    mask = np.uint64(len(slots) - 1)
    wanted = (np.uint64(tag) << np.uint64(32)) | np.uint64(flow + 1)
    hole = np.uint64(tag) & mask
    while slots[hole] != wanted:
        hole = (hole + np.uint64(1)) & mask
    at = hole
    while True:
        at = (at + np.uint64(1)) & mask
        slot = slots[at]
        if slot == 0:
            break
        home = (slot >> np.uint64(32)) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots[hole] = slot
            hole = at
    slots[hole] = 0


@numba.njit(nogil=True, cache=True)
def _tags(src, dst, src_port, dst_port, protocol, vlan, tunnel_id, vlan_in_key, tunnel_in_key):
    """Return the upper half of each packet's key hash, the same for both directions."""
    tags = np.empty(len(src), np.uint32)
    for i in range(len(src)):
        # sums and products of both sides do not tell who spoke
        one = mix(src[i, 0] * np.uint64(0x9E3779B97F4A7C15) + src[i, 1] + (np.uint64(src_port[i]) << np.uint64(20)))
        two = mix(dst[i, 0] * np.uint64(0x9E3779B97F4A7C15) + dst[i, 1] + (np.uint64(dst_port[i]) << np.uint64(20)))
        rest = np.uint64(protocol[i])
        if vlan_in_key:
            rest |= np.uint64(vlan[i]) << np.uint64(8)
        if tunnel_in_key:
            rest |= np.uint64(tunnel_id[i]) << np.uint64(24)
        tags[i] = np.uint32(mix(one + two + rest) >> np.uint64(32))
    return tags


@numba.njit(nogil=True, cache=True, inline="always")
def _look_ahead(i, tags, slots, flows, pool):
    """Ask for what the next packets will touch: their slot, then their flow, then their flow's last block.

    With many open flows each of these is a miss of its own; asked for in time, they overlap (docs/performance.md).
    """
    mask = np.uint64(len(slots) - 1)
    if i + 24 < len(tags):
        prefetch(slots, np.int64(np.uint64(tags[i + 24]) & mask), 0)
    if i + 12 < len(tags):
        flow = np.int64(slots[np.uint64(tags[i + 12]) & mask] & np.uint64(0xFFFFFFFF)) - 1
        if flow >= 0:
            for line in range(0, 4 * 64, 64):
                prefetch(flows, flow, line)
    if i + 6 < len(tags):
        flow = np.int64(slots[np.uint64(tags[i + 6]) & mask] & np.uint64(0xFFFFFFFF)) - 1
        if flow >= 0 and flows[flow].entries > 0:
            block = np.int64(flows[flow].last_block) * BLOCK
            for line in range(0, 3 * 64, 64):
                prefetch(pool, block, line)


@numba.njit(nogil=True, cache=True)
def _meter(
    time_ns, src, dst, src_port, dst_port, protocol, ip_version, vlan, tunnel_id, ip_bytes,
    payload, ip_id, ttl, tcp_flags, tcp_window, tcp_seq, size,
    k, idle_ns, active_ns, lifecycle, first_fin, skip_empty, orient_syn, vlan_in_key, tunnel_in_key, follows, blind,
    clock_state, counts, slots, flows, free_flows, finished, pool, next_block, free_blocks, serials,
):  # fmt: skip
    clock = clock_state[0]
    mask = np.uint64(len(slots) - 1)
    tags = _tags(src, dst, src_port, dst_port, protocol, vlan, tunnel_id, vlan_in_key, tunnel_in_key)
    for i in range(len(time_ns)):
        _look_ahead(i, tags, slots, flows, pool)
        now = time_ns[i]
        clock = max(clock, now)
        flags = tcp_flags[i]
        number = protocol[i]

        src_0, src_1, dst_0, dst_1 = src[i, 0], src[i, 1], dst[i, 0], dst[i, 1]
        if src_1 != dst_1:
            from_low = src_1 < dst_1
        elif src_0 != dst_0:
            from_low = src_0 < dst_0
        else:
            from_low = src_port[i] <= dst_port[i]
        if from_low:
            low_0, low_1, high_0, high_1 = src_0, src_1, dst_0, dst_1
            low_port, high_port = src_port[i], dst_port[i]
        else:
            low_0, low_1, high_0, high_1 = dst_0, dst_1, src_0, src_1
            low_port, high_port = dst_port[i], src_port[i]
        key_vlan = vlan[i] if vlan_in_key else np.uint16(0)
        key_tunnel = tunnel_id[i] if tunnel_in_key else np.uint32(0)
        tag = tags[i]

        at = np.uint64(tag) & mask
        index = np.int64(-1)
        while slots[at]:
            slot = slots[at]
            if np.uint32(slot >> np.uint64(32)) == tag:
                candidate = np.int64(slot & np.uint64(0xFFFFFFFF)) - 1
                f = flows[candidate]
                if (
                    f.low_1 == low_1 and f.high_1 == high_1 and f.low_port == low_port and f.high_port == high_port
                    and f.low_0 == low_0 and f.high_0 == high_0 and f.protocol == number and f.key_vlan == key_vlan
                    and f.key_tunnel == key_tunnel
                ):  # fmt: skip
                    index = candidate
                    break
            at = (at + np.uint64(1)) & mask

        opens = lifecycle and number == 6 and (flags & 0x12) == 0x02
        fresh = first_fin and number == 6 and ((flags & 0x02) != 0 or (payload[i] > 0 and (flags & 0x01) == 0))
        # as far as the clock tells, the key may have been busy in an earlier range until now
        open_before = follows and (blind or clock - clock_state[2] <= idle_ns[number])
        if index >= 0:
            f = flows[index]
            reason = 0
            if clock - f.clock_ns > idle_ns[number]:
                reason = _IDLE
            elif clock - f.start_clock_ns > active_ns:
                reason = _ACTIVE
            elif opens:
                if not (f.syn and f.isn == tcp_seq[i] and (f.syn_low == 1) == from_low):
                    reason = _END
            elif fresh and (closed(f.closing) or (f.open_before and not f.fresh)):
                reason = _END
            if reason:
                f.end_reason = _END if closed(f.closing) else reason
                if reason == _END:  # the cut stands, unless an earlier range decides: by the flow's own SYN or its FIN
                    open_before = f.open_before == 1 and f.syn == 0 and not (fresh and closed(f.closing))
                f.open_after = open_before
                finished[counts[3]] = index
                counts[3] += 1
                index = np.int64(-1)
        else:
            counts[0] += 1

        if index < 0:
            counts[1] -= 1
            index = np.int64(free_flows[counts[1]])
            slots[at] = (np.uint64(tag) << np.uint64(32)) | np.uint64(index + 1)
            f = flows[index]
            f.low_0, f.low_1, f.high_0, f.high_1 = low_0, low_1, high_0, high_1
            f.low_port, f.high_port = low_port, high_port
            f.protocol, f.ip_version, f.vlan, f.key_vlan = number, ip_version[i], vlan[i], key_vlan
            f.tunnel_id, f.key_tunnel = tunnel_id[i], key_tunnel
            # a SYN-ACK answers: forward is the other side
            reverse = orient_syn and number == 6 and (flags & 0x12) == 0x12
            f.forward_is_low = from_low != reverse
            f.syn, f.syn_low, f.isn = opens, from_low, tcp_seq[i] if opens else 0
            f.fresh, f.closing, f.tag, f.serial = fresh, 0, tag, counts[4]
            counts[4] += 1
            f.open_before, f.open_after = open_before, 0
            f.first_block, f.last_block, f.entries = -1, -1, 0
            f.start_ns, f.latest_ns, f.start_clock_ns = now, now, clock
            f.packets_low, f.packets_high, f.bytes_low, f.bytes_high = 0, 0, 0, 0
            f.out_of_order, f.duplicates = 0, 0
            f.first_ip_id, f.first_bytes = ip_id[i], ip_bytes[i]
        else:
            f = flows[index]
            f.out_of_order += np.uint64(now < f.previous_ns)
            f.duplicates += np.uint64(
                now == f.previous_ns and ip_id[i] == f.previous_ip_id and ip_bytes[i] == f.previous_bytes
            )

        serials[i] = f.serial
        f.clock_ns = clock
        f.latest_ns = max(f.latest_ns, now)
        f.previous_ns, f.previous_ip_id, f.previous_bytes = now, ip_id[i], ip_bytes[i]
        if from_low:
            f.packets_low += np.uint64(1)
            f.bytes_low += np.uint64(size[i])
        else:
            f.packets_high += np.uint64(1)
            f.bytes_high += np.uint64(size[i])
        if lifecycle and number == 6 and (flags & 0x05):
            if flags & 0x01:
                f.closing |= np.uint8(1 if from_low else 2)
            f.closing |= flags & np.uint8(0x04)
        elif first_fin and number == 6 and flags & 0x01:
            f.closing = 3

        if f.entries < k and not (skip_empty and payload[i] == 0):
            position = f.entries % BLOCK
            if position == 0:
                counts[2] -= 1
                block = free_blocks[counts[2]]
                next_block[block] = -1
                if f.entries == 0:
                    f.first_block = block
                else:
                    next_block[f.last_block] = block
                f.last_block = block
            entry = pool[np.int64(f.last_block) * BLOCK + position]
            entry.time_ns = now
            entry.size = min(size[i], np.uint32(0xFFFF))
            entry.payload = min(payload[i], np.uint32(0xFFFF))
            entry.window = tcp_window[i]
            entry.flags = flags
            entry.ttl = ttl[i]
            entry.from_low = from_low
            f.entries += 1
    clock_state[0] = clock


@numba.njit(nogil=True, cache=True)
def _sweep(ending, last, blind, idle_ns, clock_state, counts, slots, flows, finished):
    """Finish the open flows that no later packet of the range can join; with `ending`, all of them."""
    clock = clock_state[0]
    clock_state[1] = clock
    first = counts[3]
    for at in range(len(slots)):
        if slots[at]:
            index = np.int64(slots[at] & np.uint64(0xFFFFFFFF)) - 1
            f = flows[index]
            idle = clock - f.clock_ns > idle_ns[f.protocol]
            if ending or idle:
                if closed(f.closing):
                    f.end_reason = _END
                else:
                    f.end_reason = _IDLE if idle else _FORCED
                f.open_after = blind or not (idle or last)
                finished[counts[3]] = index
                counts[3] += 1
    if ending:
        slots[:] = 0
        counts[0] = 0
    else:
        for i in range(first, counts[3]):
            _unlink(slots, flows[finished[i]].tag, np.int64(finished[i]))
            counts[0] -= 1


@numba.njit(nogil=True, cache=True)
def _pick(flows, chosen):
    """Return copies of records; NumPy would copy them field by field."""
    picked = np.empty(len(chosen), flows.dtype)
    for i in range(len(chosen)):
        picked[i] = flows[chosen[i]]
    return picked


@numba.njit(nogil=True, cache=True)
def _release(chosen, counts, flows, free_flows, next_block, free_blocks):
    """Give the records and blocks of taken flows back."""
    for index in chosen:
        block = flows[index].first_block
        while block >= 0:
            free_blocks[counts[2]] = block
            counts[2] += 1
            block = next_block[block]
        free_flows[counts[1]] = index
        counts[1] += 1
