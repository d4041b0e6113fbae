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

A flow's own SYN is its first packet, if that is a SYN: same direction and same initial sequence number. Simultaneous
open (two SYNs that cross) therefore gives two flows.
"""

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.definition import EndReason, FlowDefinition
from flowloom.schemas.rows import FLOWS, SEQUENCES
from flowloom.transforms.columns import column, integer_dtype, list_column, text_column, view

TAKE_FLOWS = 1 << 14
"""Flows of a batch at most: one row group."""

BLOCK = 8
"""Sequence entries of a pool block."""

_FLOW = np.dtype(
    [
        ("low_0", np.uint64),  # endpoints in canonical order: low address and port, high address and port
        ("low_1", np.uint64),
        ("high_0", np.uint64),
        ("high_1", np.uint64),
        ("low_port", np.uint16),
        ("high_port", np.uint16),
        ("vlan", np.uint16),
        ("protocol", np.uint8),
        ("ip_version", np.uint8),
        ("key_vlan", np.uint16),
        ("forward_is_low", np.uint8),
        ("syn", np.uint8),  # the first packet is a SYN: the flow's own, with `isn`, from the low side if `syn_low`
        ("syn_low", np.uint8),
        ("closing", np.uint8),  # flags seen: FIN from the low side 1, FIN from the high side 2, RST 4
        ("end_reason", np.uint8),
        ("tag", np.uint32),
        ("isn", np.uint32),
        ("first_block", np.int32),
        ("last_block", np.int32),
        ("entries", np.int32),
        ("start_ns", np.int64),
        ("latest_ns", np.int64),
        ("start_clock_ns", np.int64),
        ("clock_ns", np.int64),
        ("packets_fwd", np.uint64),
        ("packets_bwd", np.uint64),
        ("bytes_fwd", np.uint64),
        ("bytes_bwd", np.uint64),
        ("out_of_order", np.uint64),
        ("duplicates", np.uint64),
        ("previous_ns", np.int64),
        ("previous_ip_id", np.uint32),
        ("previous_bytes", np.uint32),
    ],
    align=True,
)

_ENTRY = np.dtype(
    [
        ("time_ns", np.int64),
        ("size", np.uint16),
        ("payload", np.uint16),
        ("window", np.uint16),
        ("flags", np.uint8),
        ("ttl", np.uint8),
        ("direction", np.int8),
    ]
)

_IDLE, _ACTIVE, _END, _FORCED = (
    int(EndReason.IDLE_TIMEOUT),
    int(EndReason.ACTIVE_TIMEOUT),
    int(EndReason.END_DETECTED),
    int(EndReason.FORCED_END),
)
_SIZES = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}
_NEVER = np.iinfo(np.int64).max
_PACKET_COLUMNS = (
    "time_ns", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "vlan", "ip_bytes",
    "payload_bytes", "ip_id", "ttl", "tcp_flags", "tcp_window", "tcp_seq",
)  # fmt: skip


class FlowMeter:
    """Meters the packets of one capture group, chunk by chunk, into finished flows.

    Memory is bounded by the open flows times k, and by `finished` flows that were not yet taken.

    Args:
      definition: what counts as one flow.
      group: the capture group's content-based name, 16 hexadecimal digits or more; part of every flow id.
    """

    def __init__(self, definition: FlowDefinition, group: str):
        self.flows_short = 0
        self._definition = definition
        self._group = group
        self._seed = np.uint64(int(group[:16], 16))
        idle = np.full(256, round(definition.idle_s * 1e9), np.int64)
        if definition.idle_udp_s is not None:
            idle[17] = round(definition.idle_udp_s * 1e9)
        self._idle_ns = idle
        self._active_ns = _NEVER if definition.active_s is None else round(definition.active_s * 1e9)
        self._clock = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).min], np.int64)  # now, at the last sweep
        # [open slots used, free flows, free blocks, finished flows]
        self._counts = np.zeros(4, np.int64)
        self._slots = np.zeros(1 << 12, np.uint64)
        self._flows = np.zeros(0, _FLOW)
        self._free_flows = np.zeros(0, np.int32)
        self._finished = np.zeros(0, np.int32)
        self._pool = np.zeros(0, _ENTRY)
        self._next = np.zeros(0, np.int32)
        self._free_blocks = np.zeros(0, np.int32)

    def update(self, packets: pa.RecordBatch) -> None:
        """Meter packets (`schemas.rows.PACKETS`) that follow all packets metered before."""
        if not packets.num_rows:
            return
        self._make_room(packets.num_rows)
        columns = [view(packets.column(name)) for name in _PACKET_COLUMNS]
        size = view(packets.column(_SIZES[self._definition.size]))
        _meter(
            *columns, size,
            self._definition.k, self._idle_ns, self._active_ns, self._definition.tcp_close == "lifecycle",
            self._definition.zero_payload == "skip", self._definition.orient == "syn", self._definition.vlan_in_key,
            self._clock, self._counts, self._slots, self._flows, self._free_flows, self._finished,
            self._pool, self._next, self._free_blocks,
        )  # fmt: skip
        # sweeping more often would scan the open flows in vain, less often would keep dead ones
        if int(self._clock[0]) - int(self._clock[1]) > int(self._idle_ns.min()) // 4:
            self._sweep(ending=False)

    def finish(self) -> None:
        """End all flows that are still open; the capture group has no further packets."""
        self._sweep(ending=True)
        waiting = self._finished[: self._counts[3]]
        waiting[:] = waiting[np.argsort(self._flows["start_ns"][waiting], kind="stable")]

    @property
    def finished(self) -> int:
        """Flows that ended and were not yet taken."""
        return int(self._counts[3])

    def take(self) -> pa.RecordBatch:
        """Return up to `TAKE_FLOWS` of the finished flows as `schemas.rows.FLOWS`, and forget them.

        Within the batch flows are ordered by start and id, so that no accident of the table shows.
        """
        waiting = self.finished
        chosen = self._finished[: min(waiting, TAKE_FLOWS)].copy()
        packets = self._flows["packets_fwd"][chosen] + self._flows["packets_bwd"][chosen]
        long_enough = packets >= self._definition.min_packets
        self.flows_short += int(np.count_nonzero(~long_enough))
        batch = _flow_rows(self._flows[chosen[long_enough]], self._pool, self._next, self._group, self._seed)
        _release(chosen, self._counts, self._flows, self._free_flows, self._next, self._free_blocks)
        self._finished[: waiting - len(chosen)] = self._finished[len(chosen) : waiting].copy()
        self._counts[3] = waiting - len(chosen)
        return batch

    def _sweep(self, *, ending: bool) -> None:
        _sweep(
            ending, self._idle_ns, self._active_ns, self._clock, self._counts, self._slots, self._flows, self._finished
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


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(word):
    """Spread a word's bits (the finalizer of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


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


@numba.njit(nogil=True, cache=True, inline="always")
def _closed(closing):
    """Whether the TCP connection was closed: RST, or FIN from both sides."""
    return closing & 4 != 0 or closing & 3 == 3


@numba.njit(nogil=True, cache=True)
def _meter(
    time_ns, src, dst, src_port, dst_port, protocol, ip_version, vlan, ip_bytes,
    payload, ip_id, ttl, tcp_flags, tcp_window, tcp_seq, size,
    k, idle_ns, active_ns, lifecycle, skip_empty, orient_syn, vlan_in_key,
    clock_state, counts, slots, flows, free_flows, finished, pool, next_block, free_blocks,
):  # fmt: skip
    clock = clock_state[0]
    mask = np.uint64(len(slots) - 1)
    for i in range(len(time_ns)):
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
        ends = (np.uint64(low_port) << np.uint64(48)) | (np.uint64(high_port) << np.uint64(32))
        ends |= (np.uint64(key_vlan) << np.uint64(16)) | np.uint64(number)
        word = _mix(low_0 * np.uint64(0x9E3779B97F4A7C15) + low_1)
        word = _mix(word + high_0 * np.uint64(0xD6E8FEB86659FD93) + high_1)
        word = _mix(word + ends)
        tag = np.uint32(word >> np.uint64(32))

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
                ):  # fmt: skip
                    index = candidate
                    break
            at = (at + np.uint64(1)) & mask

        opens = lifecycle and number == 6 and (flags & 0x12) == 0x02
        if index >= 0:
            f = flows[index]
            reason = 0
            if clock - f.clock_ns > idle_ns[number]:
                reason = _IDLE
            elif clock - f.start_clock_ns > active_ns:
                reason = _ACTIVE
            elif opens and not (f.syn and f.isn == tcp_seq[i] and (f.syn_low == 1) == from_low):
                reason = _END
            if reason:
                f.end_reason = _END if _closed(f.closing) else reason
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
            # a SYN-ACK answers: forward is the other side
            reverse = orient_syn and number == 6 and (flags & 0x12) == 0x12
            f.forward_is_low = from_low != reverse
            f.syn, f.syn_low, f.isn = opens, from_low, tcp_seq[i] if opens else 0
            f.closing, f.tag = 0, tag
            f.first_block, f.last_block, f.entries = -1, -1, 0
            f.start_ns, f.latest_ns, f.start_clock_ns = now, now, clock
            f.packets_fwd, f.packets_bwd, f.bytes_fwd, f.bytes_bwd = 0, 0, 0, 0
            f.out_of_order, f.duplicates = 0, 0
        else:
            f = flows[index]
            f.out_of_order += np.uint64(now < f.previous_ns)
            f.duplicates += np.uint64(
                now == f.previous_ns and ip_id[i] == f.previous_ip_id and ip_bytes[i] == f.previous_bytes
            )

        forward = from_low == (f.forward_is_low == 1)
        f.clock_ns = clock
        f.latest_ns = max(f.latest_ns, now)
        f.previous_ns, f.previous_ip_id, f.previous_bytes = now, ip_id[i], ip_bytes[i]
        if forward:
            f.packets_fwd += np.uint64(1)
            f.bytes_fwd += np.uint64(size[i])
        else:
            f.packets_bwd += np.uint64(1)
            f.bytes_bwd += np.uint64(size[i])
        if lifecycle and number == 6 and (flags & 0x05):
            if flags & 0x01:
                f.closing |= np.uint8(1 if from_low else 2)
            f.closing |= flags & np.uint8(0x04)

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
            entry.direction = 1 if forward else -1
            f.entries += 1
    clock_state[0] = clock


@numba.njit(nogil=True, cache=True)
def _sweep(ending, idle_ns, active_ns, clock_state, counts, slots, flows, finished):
    """Finish the open flows that no later packet can join; with `ending`, all of them."""
    clock = clock_state[0]
    clock_state[1] = clock
    first = counts[3]
    for at in range(len(slots)):
        if slots[at]:
            index = np.int64(slots[at] & np.uint64(0xFFFFFFFF)) - 1
            f = flows[index]
            if ending or clock - f.clock_ns > idle_ns[f.protocol]:
                if _closed(f.closing):
                    f.end_reason = _END
                else:
                    f.end_reason = _IDLE if clock - f.clock_ns > idle_ns[f.protocol] else _FORCED
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


# rows --------------------------------------------------------------------------------------------


def _flow_rows(
    flows: np.ndarray, pool: np.ndarray, next_block: np.ndarray, group: str, seed: np.uint64
) -> pa.RecordBatch:
    """Return flow records and their chains of blocks as `schemas.rows.FLOWS`."""
    rows = len(flows)
    ids, src, dst = (np.empty((rows, 2), np.uint64) for _ in range(3))
    src_port, dst_port = (np.empty(rows, np.uint16) for _ in range(2))
    _identify(flows, seed, ids, src, dst, src_port, dst_port)
    order = np.lexsort((ids[:, 1], ids[:, 0], flows["start_ns"]))
    flows = flows[order]
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(flows["entries"], out=offsets[1:])
    sequences = {name: np.empty(offsets[-1], integer_dtype(kind)) for name, kind in SEQUENCES.items()}
    _unchain(flows, pool, next_block, offsets, *sequences.values())
    values = {
        "flow_id": ids[order],
        "start": flows["start_ns"],
        "duration_ns": flows["latest_ns"] - flows["start_ns"],
        "src_ip": src[order],
        "dst_ip": dst[order],
        "src_port": src_port[order],
        "dst_port": dst_port[order],
    }
    arrays = []
    for field in FLOWS:
        if field.name == "group":
            arrays.append(text_column([group] * rows))
        elif field.name in sequences:
            arrays.append(list_column(offsets, sequences[field.name], field.type))
        else:
            fixed = values[field.name] if field.name in values else flows[field.name]
            arrays.append(column(fixed, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=FLOWS)


@numba.njit(nogil=True, cache=True)
def _identify(flows, seed, ids, src, dst, src_port, dst_port):
    """Write endpoints by direction, and flow ids: 128-bit hashes of group, directed key, start and initial SYN."""
    for i in range(len(flows)):
        f = flows[i]
        if f.forward_is_low:
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1] = f.low_0, f.low_1, f.high_0, f.high_1
            src_port[i], dst_port[i] = f.low_port, f.high_port
        else:
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1] = f.high_0, f.high_1, f.low_0, f.low_1
            src_port[i], dst_port[i] = f.high_port, f.low_port
        ports = (np.uint64(src_port[i]) << np.uint64(16)) | np.uint64(dst_port[i])
        rest = (np.uint64(f.protocol) << np.uint64(48)) | (np.uint64(f.key_vlan) << np.uint64(32)) | ports
        origin = (np.uint64(f.isn) << np.uint64(1)) | np.uint64(f.syn)
        one, two = seed, seed ^ np.uint64(0x9E3779B97F4A7C15)
        for word in (src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], rest, np.uint64(f.start_ns), origin):
            one = _mix(one + word) + two
            two = _mix(two ^ word) + one
        ids[i, 0] = _mix(one)
        ids[i, 1] = _mix(two)


@numba.njit(nogil=True, cache=True)
def _unchain(flows, pool, next_block, offsets, size, direction, gap_ns, flags, window, ttl, payload):
    """Write each flow's entries as lists; gaps are to the entry before, 0 for the first and where out of order."""
    for i in range(len(flows)):
        block = np.int64(flows[i].first_block)
        at = offsets[i]
        left = flows[i].entries
        previous = np.int64(0)
        while left > 0:
            for position in range(min(left, BLOCK)):
                entry = pool[block * BLOCK + position]
                size[at] = entry.size
                direction[at] = entry.direction
                gap_ns[at] = max(entry.time_ns - previous, 0) if at > offsets[i] else 0
                flags[at] = entry.flags
                window[at] = entry.window
                ttl[at] = entry.ttl
                payload[at] = entry.payload
                previous = entry.time_ns
                at += 1
            left -= BLOCK
            block = np.int64(next_block[block])
