"""Kernels of the flow meter: the steps that each packet takes through the table of open flows.

Kernels allocate nothing in the table: the caller makes room for every packet to open a flow and take a block.
"""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import EndReason
from flowloom.transforms.arrays.kernels import Number, borrowed, prefetch, step
from flowloom.transforms.flows.flow_ends import LAST_RECORD, MeterOptions, end_longest_idle, finish, idle_end
from flowloom.transforms.flows.flow_state import BLOCK, HIGH, LOW, SYN_TURN, closed, syn_is_own
from flowloom.transforms.flows.open_flow_table import (
    EntryPool,
    MeterTable,
    find,
    flow_at,
    free_record,
    next_entry,
    remove,
    take_free,
)
from flowloom.transforms.flows.packet_steps import MeteredColumns, flow_key, write_entry, write_key
from flowloom.transforms.flows.recent_packets import RECENT, is_copy, remember, signature

_IDLE, _ACTIVE, _END, _FORCED, _ = map(int, EndReason)
_FIN, _SYN, _RST, _SYN_ACK = 0x01, 0x02, 0x04, 0x12


class _Arrival(NamedTuple):
    """Properties of a packet that do not depend on its flow.

    `turn`: whether it may begin another flow of its key, see `SYN_TURN`.
    """

    clock_ns: Number
    record: Number
    from_low: bool
    turn: Number


@numba.njit(nogil=True, cache=True)
def meter_packets(packets, rows, tags, origin, options, state, table, pool, serials):
    """Adds the packets at `rows` to their flows, finishes the flows that they cut, and writes the serials of flows.

    Args:
      tags, serials: the tag of the key, and the serial of the flow, of each of these packets.
    """
    packets, options = MeteredColumns(*borrowed(packets)), MeterOptions(*borrowed(options))
    table, pool = MeterTable(*borrowed(table)), EntryPool(*borrowed(pool))
    for at in range(len(rows)):
        i, tag = rows[at], tags[at]
        _look_ahead(at, tags, table, pool)
        clock = packets.clock_ns[i]
        from_low, key = flow_key(packets, i, options)
        arrival = _arrival(packets, i, clock, from_low, options)
        slot, index = find(key, tag, table)
        # as far as the clock tells, the key may have been busy in an earlier range until now
        open_before = options.continues and (
            options.clock_unknown or clock - state.before_ns <= options.idle_ns[key.protocol]
        )
        known = index >= 0
        if packets.icmp_error[i]:
            serials[at] = -1
            if known and clock - table.flows[index].clock_ns <= options.idle_ns[key.protocol]:
                table.flows[index].icmp_errors += np.uint64(1)
            elif open_before:
                _add_orphan(packets, i, key, arrival, options, state, table)
            continue
        reason = _cut_reason(table.flows[index], packets, i, arrival, options) if known else 0
        tested = arrival.turn
        if reason:
            if reason == _END:
                tested |= table.flows[index].tested
            open_before = _cut(table.flows[index], reason, arrival, options, open_before)
            if reason == _IDLE:
                finish(index, idle_end(table.flows[index], options), LAST_RECORD, state, table)
            else:
                finish(index, clock, arrival.record, state, table)
        if not known or reason:
            if state.begun % options.eighth == 0 and state.open + options.eighth > options.max_open:
                if known:
                    remove(table.slots, tag, index)
                    state.open -= 1
                    known = False
                end_longest_idle(arrival, options, state, table)
                slot, _ = find(key, tag, table)
            state.open += not known  # a new flow of the same key takes over the slot
            index = take_free(slot, tag, state, table)
            _begin(table.flows[index], packets, i, key, arrival, open_before, options, state)
            table.flows[index].origin, table.flows[index].tested = origin, tested
        flow = table.flows[index]
        serials[at] = flow.serial
        _count_state(flow, packets, i, arrival, options)
        place = index * RECENT
        sign, now = signature(packets, i, from_low), packets.time_ns[i]
        copy = False
        if now - flow.newest_ns <= options.window_ns:  # seldom, so that most packets read none of the last ones
            copy = is_copy(table.tails, place, flow.seen, sign, now, options.window_ns)
        flow.newest_ns = max(flow.newest_ns, now)
        remember(table.tails, place, flow.seen, sign, now)
        listed = not (options.skip_empty and packets.payload_bytes[i] == 0)
        most = options.k
        if flow.open_before:
            most += RECENT
        if flow.open_before and flow.seen < RECENT:
            _write_head(table.heads[place + np.int64(flow.seen)], packets, i, sign, from_low, listed)
        else:
            flow.duplicates += np.uint64(copy)
            if copy and options.drops_copies:
                listed = False
            else:
                count_packet(flow, now, packets.size[i], from_low)
        flow.seen += np.uint64(1)
        if listed and flow.entries < most:
            write_entry(next_entry(flow, state, pool), packets, i, from_low)
    state.most_open = max(state.most_open, state.open)


@step
def _add_orphan(packets, i, key, arrival, options, state, table):
    """Adds a piece without packets: an ICMP error about a flow of an earlier range."""
    index = free_record(state, table)
    _begin(table.flows[index], packets, i, key, arrival, True, options, state)
    state.begun -= 1  # it is no flow, and comes before the next one
    flow = table.flows[index]
    flow.clock_ns, flow.icmp_errors, flow.end_reason = arrival.clock_ns, np.uint64(1), _FORCED
    flow.origin, flow.tested = 0, 0
    finish(index, arrival.clock_ns, arrival.record, state, table)


@step
def _look_ahead(i, tags, table, pool):
    """Prefetches what the next packets touch: their slot, then their flow, then the last block of their flow.

    With many open flows each of these is a cache miss; prefetched in time, the misses overlap (docs/performance.md).
    """
    mask = np.uint64(len(table.slots) - 1)
    if i + 24 < len(tags):
        prefetch(table.slots, np.int64(np.uint64(tags[i + 24]) & mask), 0)
    if i + 12 < len(tags):
        flow = flow_at(table.slots[np.uint64(tags[i + 12]) & mask])
        if flow >= 0:
            for line in range(0, 4 * 64, 64):
                prefetch(table.flows, flow, line)
    if i + 6 < len(tags):
        flow = flow_at(table.slots[np.uint64(tags[i + 6]) & mask])
        if flow >= 0:
            prefetch(table.tails, flow * RECENT + np.int64(table.flows[flow].seen) % RECENT, 0)
        if flow >= 0 and table.flows[flow].entries > 0:
            block = np.int64(table.flows[flow].last_block) * BLOCK
            for line in range(0, 3 * 64, 64):
                prefetch(pool.entries, block, line)


@step
def _arrival(packets, i, clock, from_low, options):
    flags, turn = packets.tcp_flags[i], 0
    if packets.protocol[i] == 6:
        side = LOW if from_low else HIGH
        if (options.lifecycle and (flags & _SYN_ACK) == _SYN) or (options.first_fin and flags & _SYN):
            turn = side | SYN_TURN
        elif options.first_fin and packets.payload_bytes[i] > 0 and (flags & _FIN) == 0:
            turn = side
    return _Arrival(clock, packets.record[i], from_low, turn)


@step
def _cut_reason(flow, packets, i, arrival, options):
    """Returns the reason why packet `i` cannot belong to the open flow of its key, 0 if it can."""
    if arrival.clock_ns - flow.clock_ns > options.idle_ns[flow.protocol]:
        return _IDLE
    if arrival.clock_ns - flow.start_clock_ns > options.active_ns:
        return _ACTIVE
    if arrival.turn == 0:
        return 0
    if options.lifecycle:
        return 0 if _syn_stays(flow, arrival.turn & (LOW | HIGH), packets.tcp_seq[i]) else _END
    return 0 if _stays_after_fin(flow, arrival.turn) else _END


@step
def _syn_stays(flow, side, isn):
    """Returns whether a SYN certainly belongs to a flow, though an earlier range may have packets of it."""
    if flow.open_before and not flow.syn & side:
        return False
    return syn_is_own(flow, side, isn)


@step
def _stays_after_fin(flow, turn):
    """Returns whether a packet certainly belongs to a flow, though an earlier range may have a FIN of it.

    What went past such a FIN once does so again: a FIN of an earlier range ends the flow at the first SYN, or at the
    first payload of the side that did not send it.
    """
    if turn & SYN_TURN:
        return flow.closing == 0 and not (flow.open_before and not flow.tested & SYN_TURN)
    if flow.closing:
        return flow.closing & turn != 0
    return not (flow.open_before and not flow.tested & (turn | SYN_TURN))


@step
def _cut(flow, reason, arrival, options, open_before):
    """Ends a flow at a packet; returns whether the packet may nevertheless continue a flow of an earlier range."""
    if reason == _END:  # the cut stands, unless an earlier range decides: by SYNs or a FIN of the flow
        if options.lifecycle:
            decided = flow.syn & arrival.turn & (LOW | HIGH) != 0
        else:
            decided = arrival.turn & SYN_TURN != 0 and flow.closing != 0
        open_before = flow.open_before == 1 and not decided
    flow.end_reason = _END if closed(flow.closing) else reason
    flow.open_after = open_before
    return open_before


@step
def _begin(flow, packets, i, key, arrival, open_before, options, state):
    """Writes a flow whose first packet is `i`, before that packet is counted."""
    write_key(flow, key, packets, i)
    flow.forward_is_low = arrival.from_low != _answers(packets, i, options)
    flow.begins, flow.closing, flow.serial = arrival.turn, 0, state.begun
    flow.syn, flow.isn_low, flow.isn_high, flow.opening = 0, 0, 0, options.lifecycle and key.protocol == 6
    answer = options.lifecycle and key.protocol == 6 and (packets.tcp_flags[i] & _SYN_ACK) == _SYN_ACK
    flow.answer = (LOW if arrival.from_low else HIGH) if answer else 0
    flow.answered_isn = packets.tcp_ack[i] - np.uint32(1) if answer else np.uint32(0)
    state.begun += 1
    flow.open_before, flow.open_after = open_before, 0
    flow.first_block, flow.last_block, flow.entries = -1, -1, 0
    now = packets.time_ns[i]
    flow.first_ns, flow.start_ns, flow.latest_ns, flow.start_clock_ns = now, now, now, arrival.clock_ns
    flow.newest_ns = now
    flow.packets_low, flow.packets_high, flow.bytes_low, flow.bytes_high, flow.seen = 0, 0, 0, 0, 0
    flow.out_of_order, flow.duplicates, flow.icmp_errors = 0, 0, 0
    flow.record = packets.record[i]


@step
def _answers(packets, i, options):
    """Returns whether packet `i`, the first of its flow, goes backward: a SYN-ACK, or from the lower port."""
    flags = packets.tcp_flags[i] & _SYN_ACK if packets.protocol[i] == 6 else 0
    if flags & _SYN:
        return options.orient_syn and flags == _SYN_ACK
    return options.orient_port and packets.src_port[i] < packets.dst_port[i]


@step
def _write_head(head, packets, i, sign, from_low, listed):
    """Writes packet `i`, one of the first of a piece that may continue a flow, for the join to count."""
    head.signature, head.time_ns, head.size = sign, packets.time_ns[i], packets.size[i]
    head.from_low, head.listed = from_low, listed


@step
def count_packet(flow, now, size, from_low):
    """Adds a packet that is kept to the counters and times of its flow."""
    if flow.packets_low + flow.packets_high == 0:
        flow.first_ns, flow.start_ns, flow.latest_ns = now, now, now
    else:
        flow.out_of_order += np.uint64(now < flow.previous_ns)
        flow.start_ns = min(flow.start_ns, now)
        flow.latest_ns = max(flow.latest_ns, now)
    flow.previous_ns = now
    if from_low:
        flow.packets_low += np.uint64(1)
        flow.bytes_low += np.uint64(size)
    else:
        flow.packets_high += np.uint64(1)
        flow.bytes_high += np.uint64(size)


@step
def _count_state(flow, packets, i, arrival, options):
    """Moves the clock of a flow to packet `i`, and adds the packet's flags to the state of its connection."""
    flow.clock_ns = arrival.clock_ns
    flags, tcp = packets.tcp_flags[i], packets.protocol[i] == 6
    if not tcp:
        return
    side = np.uint8(LOW if arrival.from_low else HIGH)
    if options.lifecycle:
        if flags & (_FIN | _SYN | _RST) != _SYN:
            flow.opening &= np.uint8(flags & _SYN != 0)
            if flags & _FIN:
                flow.closing |= side
            flow.closing |= flags & np.uint8(_RST)
        if arrival.turn and not flow.syn & side:
            _own_syn(flow, side, packets.tcp_seq[i])
    elif options.first_fin and flags & _FIN:
        flow.closing |= side | np.uint8(_RST)


@step
def _own_syn(flow, side, isn):
    flow.syn |= side
    if side == LOW:
        flow.isn_low = isn
    else:
        flow.isn_high = isn
