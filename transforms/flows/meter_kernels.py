"""Kernels of the flow meter: a hash table of open flows, and the steps that each packet takes through it.

The table is open addressing with linear probing and backward-shift deletion; a slot is tag << 32 | flow + 1, 0 where
empty. Kernels allocate nothing in the table: the caller makes room for every packet to open a flow and take a block.
"""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import EndReason
from flowloom.transforms.arrays.kernels import Number, borrowed, mix, prefetch, step
from flowloom.transforms.flows.flow_state import BLOCK, closed
from flowloom.transforms.flows.packet_steps import MeteredColumns, flow_key, write_entry, write_key

_IDLE, _ACTIVE, _END, _FORCED = (
    int(EndReason.IDLE_TIMEOUT),
    int(EndReason.ACTIVE_TIMEOUT),
    int(EndReason.END_DETECTED),
    int(EndReason.FORCED_END),
)
_FIN, _SYN, _RST, _SYN_ACK = 0x01, 0x02, 0x04, 0x12

METER_STATE = np.dtype(
    [
        ("clock_ns", np.int64),  # the latest time so far
        ("swept_ns", np.int64),  # the clock at the last sweep
        ("before_ns", np.int64),  # the latest time in the ranges before this one
        ("open", np.int64),  # flows in the table
        ("free_flows", np.int64),
        ("free_blocks", np.int64),
        ("finished", np.int64),  # flows that ended and were not yet taken
        ("begun", np.int64),  # flows begun so far: the serial of the next one
    ]
)
"""Clock and counters of a meter, one record."""


class MeterOptions(NamedTuple):
    """Options of the kernels, from the flow definition and the place of the range; times in nanoseconds.

    `continues`: an earlier range exists. `clock_unknown`: its latest time is not known.
    """

    k: int
    idle_ns: np.ndarray
    active_ns: int
    lifecycle: bool
    first_fin: bool
    skip_empty: bool
    orient_syn: bool
    vlan_in_key: bool
    tunnel_in_key: bool
    continues: bool
    last: bool
    clock_unknown: bool


class MeterTable(NamedTuple):
    """Open and finished flows: slots of the table, records, and the numbers of free and of finished records."""

    slots: np.ndarray
    flows: np.ndarray
    free: np.ndarray
    finished: np.ndarray


class EntryPool(NamedTuple):
    """Sequence entries in blocks, the next block of the same flow (-1: none), and the numbers of free blocks."""

    entries: np.ndarray
    next_block: np.ndarray
    free: np.ndarray


class _Arrival(NamedTuple):
    """Properties of a packet that do not depend on its flow.

    `opens`: a SYN without ACK, which may cut. `restarts`: a packet that cannot follow the first FIN.
    """

    clock_ns: Number
    from_low: bool
    opens: bool
    restarts: bool


@numba.njit(nogil=True, cache=True)
def meter_packets(packets, options, state, table, pool, serials):
    """Adds packets to their flows, finish the flows that they cut, and write the serial of each packet's flow."""
    packets, options = MeteredColumns(*borrowed(packets)), MeterOptions(*borrowed(options))
    table, pool = MeterTable(*borrowed(table)), EntryPool(*borrowed(pool))
    tags = _tags(packets, options.vlan_in_key, options.tunnel_in_key)
    clock = state.clock_ns
    for i in range(len(serials)):
        _look_ahead(i, tags, table, pool)
        clock = max(clock, packets.time_ns[i])
        from_low, key = flow_key(packets, i, options.vlan_in_key, options.tunnel_in_key)
        arrival = _arrival(packets, i, clock, from_low, options)
        slot, index = _find(key, tags[i], table)
        # as far as the clock tells, the key may have been busy in an earlier range until now
        open_before = options.continues and (
            options.clock_unknown or clock - state.before_ns <= options.idle_ns[key.protocol]
        )
        if index < 0:
            state.open += 1
        else:
            reason = _cut_reason(table.flows[index], packets, i, arrival, options)
            if reason:
                open_before = _cut(table.flows[index], reason, arrival, open_before)
                table.finished[state.finished] = index
                state.finished += 1
                index = np.int64(-1)
        if index < 0:
            index = _take_free(slot, tags[i], state, table)
            _begin(table.flows[index], packets, i, key, arrival, open_before, options, state)
        else:
            _count_repeats(table.flows[index], packets, i)
        flow = table.flows[index]
        serials[i] = flow.serial
        _count(flow, packets, i, arrival, options)
        if flow.entries < options.k and not (options.skip_empty and packets.payload_bytes[i] == 0):
            write_entry(_next_entry(flow, state, pool), packets, i, from_low)
    state.clock_ns = clock


@numba.njit(nogil=True)
def _tags(packets, vlan_in_key, tunnel_in_key):
    """Returns the upper half of each packet's key hash, the same for both directions."""
    src, dst = packets.src_ip, packets.dst_ip
    tags = np.empty(len(src), np.uint32)
    for i in range(len(src)):
        src_port, dst_port = np.uint64(packets.src_port[i]), np.uint64(packets.dst_port[i])
        # sums and products of both sides are the same whichever side sent the packet
        one = mix(src[i, 0] * np.uint64(0x9E3779B97F4A7C15) + src[i, 1] + (src_port << np.uint64(20)))
        two = mix(dst[i, 0] * np.uint64(0x9E3779B97F4A7C15) + dst[i, 1] + (dst_port << np.uint64(20)))
        rest = np.uint64(packets.protocol[i])
        if vlan_in_key:
            rest |= np.uint64(packets.vlan[i]) << np.uint64(8)
        if tunnel_in_key:
            rest |= np.uint64(packets.tunnel_id[i]) << np.uint64(24)
        tags[i] = np.uint32(mix(one + two + rest) >> np.uint64(32))
    return tags


@step
def _flow_at(slot):
    """Returns the flow that a slot holds, -1 for an empty slot."""
    return np.int64(slot & np.uint64(0xFFFFFFFF)) - 1


@step
def _slot_of(tag, index):
    """Returns the slot value of a flow."""
    return (np.uint64(tag) << np.uint64(32)) | np.uint64(index + 1)


@step
def _look_ahead(i, tags, table, pool):
    """Prefetches what the next packets touch: their slot, then their flow, then the last block of their flow.

    With many open flows each of these is a cache miss; prefetched in time, the misses overlap (docs/performance.md).
    """
    mask = np.uint64(len(table.slots) - 1)
    if i + 24 < len(tags):
        prefetch(table.slots, np.int64(np.uint64(tags[i + 24]) & mask), 0)
    if i + 12 < len(tags):
        flow = _flow_at(table.slots[np.uint64(tags[i + 12]) & mask])
        if flow >= 0:
            for line in range(0, 4 * 64, 64):
                prefetch(table.flows, flow, line)
    if i + 6 < len(tags):
        flow = _flow_at(table.slots[np.uint64(tags[i + 6]) & mask])
        if flow >= 0 and table.flows[flow].entries > 0:
            block = np.int64(table.flows[flow].last_block) * BLOCK
            for line in range(0, 3 * 64, 64):
                prefetch(pool.entries, block, line)


@step
def _arrival(packets, i, clock, from_low, options):
    flags, tcp = packets.tcp_flags[i], packets.protocol[i] == 6
    opens = options.lifecycle and tcp and (flags & _SYN_ACK) == _SYN
    restarts = options.first_fin and tcp and (
        (flags & _SYN) != 0 or (packets.payload_bytes[i] > 0 and (flags & _FIN) == 0)
    )  # fmt: skip
    return _Arrival(clock, from_low, opens, restarts)


@step
def _find(key, tag, table):
    """Returns the slot of a key and its open flow, or the empty slot where it belongs and -1."""
    mask = np.uint64(len(table.slots) - 1)
    at = np.uint64(tag) & mask
    while table.slots[at]:
        slot = table.slots[at]
        if np.uint32(slot >> np.uint64(32)) == tag:
            index = _flow_at(slot)
            f = table.flows[index]
            if (
                f.low_1 == key.low_1 and f.high_1 == key.high_1 and f.low_port == key.low_port
                and f.high_port == key.high_port and f.low_0 == key.low_0 and f.high_0 == key.high_0
                and f.protocol == key.protocol and f.key_vlan == key.vlan and f.key_tunnel == key.tunnel_id
            ):  # fmt: skip
                return at, index
        at = (at + np.uint64(1)) & mask
    return at, np.int64(-1)


@step
def _cut_reason(flow, packets, i, arrival, options):
    """Returns the reason why packet `i` cannot belong to the open flow of its key, 0 if it can."""
    if arrival.clock_ns - flow.clock_ns > options.idle_ns[flow.protocol]:
        return _IDLE
    if arrival.clock_ns - flow.start_clock_ns > options.active_ns:
        return _ACTIVE
    if arrival.opens:
        own = flow.syn and flow.isn == packets.tcp_seq[i] and (flow.syn_low == 1) == arrival.from_low
        return 0 if own else _END
    if arrival.restarts and (closed(flow.closing) or (flow.open_before and not flow.fresh)):
        return _END
    return 0


@step
def _cut(flow, reason, arrival, open_before):
    """Ends a flow at a packet; returns whether the packet may nevertheless continue a flow of an earlier range."""
    if reason == _END:  # the cut stands, unless an earlier range decides: by the flow's own SYN or its FIN
        open_before = flow.open_before == 1 and flow.syn == 0 and not (arrival.restarts and closed(flow.closing))
    flow.end_reason = _END if closed(flow.closing) else reason
    flow.open_after = open_before
    return open_before


@step
def _take_free(slot, tag, state, table):
    """Puts a free record into a slot and returns its number."""
    state.free_flows -= 1
    index = np.int64(table.free[state.free_flows])
    table.slots[slot] = _slot_of(tag, index)
    table.flows[index].tag = tag
    return index


@step
def _begin(flow, packets, i, key, arrival, open_before, options, state):
    """Writes a flow whose first packet is `i`, before that packet is counted."""
    write_key(flow, key, packets, i)
    # a SYN-ACK answers: forward is the other side
    reverse = options.orient_syn and key.protocol == 6 and (packets.tcp_flags[i] & _SYN_ACK) == _SYN_ACK
    flow.forward_is_low = arrival.from_low != reverse
    flow.syn, flow.syn_low = arrival.opens, arrival.from_low
    flow.isn = packets.tcp_seq[i] if arrival.opens else 0
    flow.fresh, flow.closing, flow.serial = arrival.restarts, 0, state.begun
    state.begun += 1
    flow.open_before, flow.open_after = open_before, 0
    flow.first_block, flow.last_block, flow.entries = -1, -1, 0
    now = packets.time_ns[i]
    flow.start_ns, flow.latest_ns, flow.start_clock_ns = now, now, arrival.clock_ns
    flow.packets_low, flow.packets_high, flow.bytes_low, flow.bytes_high = 0, 0, 0, 0
    flow.out_of_order, flow.duplicates = 0, 0
    flow.first_ip_id, flow.first_bytes = packets.ip_id[i], packets.ip_bytes[i]


@step
def _count_repeats(flow, packets, i):
    """Counts packet `i` if it is earlier than the packet before it in its flow, or a copy of that."""
    now = packets.time_ns[i]
    flow.out_of_order += np.uint64(now < flow.previous_ns)
    flow.duplicates += np.uint64(
        now == flow.previous_ns
        and packets.ip_id[i] == flow.previous_ip_id
        and packets.ip_bytes[i] == flow.previous_bytes
    )


@step
def _count(flow, packets, i, arrival, options):
    """Adds packet `i` to the counters of its flow, and its FIN and RST to the flow's closing flags."""
    now = packets.time_ns[i]
    flow.clock_ns = arrival.clock_ns
    flow.latest_ns = max(flow.latest_ns, now)
    flow.previous_ns, flow.previous_ip_id, flow.previous_bytes = now, packets.ip_id[i], packets.ip_bytes[i]
    if arrival.from_low:
        flow.packets_low += np.uint64(1)
        flow.bytes_low += np.uint64(packets.size[i])
    else:
        flow.packets_high += np.uint64(1)
        flow.bytes_high += np.uint64(packets.size[i])
    flags, tcp = packets.tcp_flags[i], packets.protocol[i] == 6
    if options.lifecycle and tcp and (flags & (_FIN | _RST)):
        if flags & _FIN:
            flow.closing |= np.uint8(1 if arrival.from_low else 2)
        flow.closing |= flags & np.uint8(_RST)
    elif options.first_fin and tcp and flags & _FIN:
        flow.closing = 3


@step
def _next_entry(flow, state, pool):
    """Returns the record of a flow's next entry, in a new block if the last one is full."""
    position = flow.entries % BLOCK
    if position == 0:
        state.free_blocks -= 1
        block = pool.free[state.free_blocks]
        pool.next_block[block] = -1
        if flow.entries == 0:
            flow.first_block = block
        else:
            pool.next_block[flow.last_block] = block
        flow.last_block = block
    flow.entries += 1
    return pool.entries[np.int64(flow.last_block) * BLOCK + position]


@numba.njit(nogil=True, cache=True)
def sweep(ending, options, state, table):
    """Finishes the open flows that no later packet of the range can join; with `ending`, all of them."""
    options, table = MeterOptions(*borrowed(options)), MeterTable(*borrowed(table))
    clock = state.clock_ns
    state.swept_ns = clock
    first = state.finished
    for slot in table.slots:
        if slot:
            index = _flow_at(slot)
            flow = table.flows[index]
            idle = clock - flow.clock_ns > options.idle_ns[flow.protocol]
            if ending or idle:
                if closed(flow.closing):
                    flow.end_reason = _END
                else:
                    flow.end_reason = _IDLE if idle else _FORCED
                flow.open_after = options.clock_unknown or not (idle or options.last)
                table.finished[state.finished] = index
                state.finished += 1
    if ending:
        table.slots[:] = 0
        state.open = 0
    else:
        for i in range(first, state.finished):
            _remove(table.slots, table.flows[table.finished[i]].tag, np.int64(table.finished[i]))
            state.open -= 1


@numba.njit(nogil=True, cache=True)
def _remove(slots, tag, index):
    """Takes a flow out of the table."""
    mask = np.uint64(len(slots) - 1)
    wanted = _slot_of(tag, index)
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
def rehash(old, new):
    """Copies the slots of a table into a larger, empty one."""
    mask = np.uint64(len(new) - 1)
    for slot in old:
        if slot:
            at = (slot >> np.uint64(32)) & mask
            while new[at]:
                at = (at + np.uint64(1)) & mask
            new[at] = slot


@numba.njit(nogil=True, cache=True)
def pick(flows, chosen):
    """Returns copies of records, faster than NumPy, which copies field by field."""
    picked = np.empty(len(chosen), flows.dtype)
    for i in range(len(chosen)):
        picked[i] = flows[chosen[i]]
    return picked


@numba.njit(nogil=True, cache=True)
def release(chosen, state, table, pool):
    """Frees the records and blocks of taken flows."""
    table, pool = MeterTable(*borrowed(table)), EntryPool(*borrowed(pool))
    for index in chosen:
        block = table.flows[index].first_block
        while block >= 0:
            pool.free[state.free_blocks] = block
            state.free_blocks += 1
            block = pool.next_block[block]
        table.free[state.free_flows] = index
        state.free_flows += 1
