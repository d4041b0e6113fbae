"""Kernels of the flow meter: the steps that each packet takes through the table of open flows.

Kernels allocate nothing in the table: the caller makes room for every packet to open a flow and take a block.
"""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import EndReason
from flowloom.transforms.arrays.kernels import Number, borrowed, nth, part, prefetch, step
from flowloom.transforms.flows.flow_state import BLOCK, HIGH, LOW, SYN_TURN, closed, syn_is_own
from flowloom.transforms.flows.open_flow_table import (
    EntryPool,
    MeterTable,
    find,
    flow_at,
    next_entry,
    remove,
    take_free,
)
from flowloom.transforms.flows.packet_steps import MeteredColumns, flow_key, write_entry, write_key

_IDLE, _ACTIVE, _END, _FORCED, _LACK_OF_RESOURCES = map(int, EndReason)
_NEVER, _LAST = np.iinfo(np.int64).max, np.iinfo(np.uint64).max
_FIN, _SYN, _RST, _SYN_ACK = 0x01, 0x02, 0x04, 0x12

METER_STATE = np.dtype(
    [
        ("clock_ns", np.int64),  # the latest time so far
        ("swept_ns", np.int64),  # the clock at the last sweep
        ("before_ns", np.int64),  # the latest time in the ranges before this one
        ("open", np.int64),  # flows in the table
        ("most_open", np.int64),  # of all moments so far
        ("ended_early", np.int64),  # flows ended for lack of resources
        ("free_flows", np.int64),
        ("free_blocks", np.int64),
        ("finished", np.int64),  # flows that ended and were not yet taken
        ("begun", np.int64),  # flows begun so far: the serial of the next one
    ]
)
"""Clock and counters of a meter, one record."""


class MeterOptions(NamedTuple):
    """Options of the kernels, from the flow definition and the place of the range; times in nanoseconds.

    `continues`: an earlier range exists. `clock_unknown`: its latest time is not known. `eighth`: one eighth of
    `max_open`, at least 1.
    """

    k: int
    idle_ns: np.ndarray
    active_ns: int
    lifecycle: bool
    first_fin: bool
    skip_empty: bool
    orient_syn: bool
    orient_port: bool
    vlan_in_key: bool
    tunnel_in_key: bool
    continues: bool
    last: bool
    clock_unknown: bool
    max_open: int
    eighth: int


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
        from_low, key = flow_key(packets, i, options.vlan_in_key, options.tunnel_in_key)
        arrival = _arrival(packets, i, clock, from_low, options)
        slot, index = find(key, tag, table)
        # as far as the clock tells, the key may have been busy in an earlier range until now
        open_before = options.continues and (
            options.clock_unknown or clock - state.before_ns <= options.idle_ns[key.protocol]
        )
        known = index >= 0
        reason = _cut_reason(table.flows[index], packets, i, arrival, options) if known else 0
        tested = arrival.turn
        if reason:
            if reason == _END:
                tested |= table.flows[index].tested
            open_before = _cut(table.flows[index], reason, arrival, options, open_before)
            if reason == _IDLE:
                _finish(index, _idle_end(table.flows[index], options), _LAST, state, table)
            else:
                _finish(index, clock, arrival.record, state, table)
        if known and not reason:
            _count_repeats(table.flows[index], packets, i)
        else:
            if state.begun % options.eighth == 0 and state.open + options.eighth > options.max_open:
                if known:
                    remove(table.slots, tag, index)
                    state.open -= 1
                    known = False
                _end_longest_idle(arrival, options, state, table)
                slot, _ = find(key, tag, table)
            state.open += not known  # a new flow of the same key takes over the slot
            index = take_free(slot, tag, state, table)
            _begin(table.flows[index], packets, i, key, arrival, open_before, options, state)
            table.flows[index].origin, table.flows[index].tested = origin, tested
        flow = table.flows[index]
        serials[at] = flow.serial
        _count(flow, packets, i, arrival, options)
        if flow.entries < options.k and not (options.skip_empty and packets.payload_bytes[i] == 0):
            write_entry(next_entry(flow, state, pool), packets, i, from_low)
    state.most_open = max(state.most_open, state.open)


@step
def _finish(index, ended_ns, ended_at, state, table):
    """Adds a flow that ended, at a clock and by a record, to those that wait to be taken."""
    table.flows[index].ended_ns, table.flows[index].ended_at = ended_ns, np.uint64(ended_at)
    table.finished[state.finished] = index
    state.finished += 1


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
    flow.packets_low, flow.packets_high, flow.bytes_low, flow.bytes_high = 0, 0, 0, 0
    flow.out_of_order, flow.duplicates = 0, 0
    flow.record = packets.record[i]
    flow.first_ip_id, flow.first_bytes = packets.ip_id[i], packets.ip_bytes[i]


@step
def _answers(packets, i, options):
    """Returns whether packet `i`, the first of its flow, goes backward: a SYN-ACK, or from the lower port."""
    flags = packets.tcp_flags[i] & _SYN_ACK if packets.protocol[i] == 6 else 0
    if flags & _SYN:
        return options.orient_syn and flags == _SYN_ACK
    return options.orient_port and packets.src_port[i] < packets.dst_port[i]


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
    flow.start_ns = min(flow.start_ns, now)
    flow.latest_ns = max(flow.latest_ns, now)
    flow.previous_ns, flow.previous_ip_id, flow.previous_bytes = now, packets.ip_id[i], packets.ip_bytes[i]
    if arrival.from_low:
        flow.packets_low += np.uint64(1)
        flow.bytes_low += np.uint64(packets.size[i])
    else:
        flow.packets_high += np.uint64(1)
        flow.bytes_high += np.uint64(packets.size[i])
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


@numba.njit(nogil=True, cache=True)
def sweep(ending, options, state, table):
    """Finishes the open flows that no later packet of the range can join; with `ending`, all of them."""
    options, table = MeterOptions(*borrowed(options)), MeterTable(*borrowed(table))
    state.most_open = max(state.most_open, state.open)
    _end_idle(ending, options, state, table)


@step
def _idle_end(flow, options):
    """Returns the clock at which the idle timeout of a flow was over; it must be over."""
    return flow.clock_ns + options.idle_ns[flow.protocol]


@step
def _end_idle(ending, options, state, table):
    clock = state.clock_ns
    state.swept_ns = clock
    first = state.finished
    for slot in table.slots:
        if slot:
            index = flow_at(slot)
            flow = table.flows[index]
            idle = clock - flow.clock_ns > options.idle_ns[flow.protocol]
            if ending or idle:
                if closed(flow.closing):
                    flow.end_reason = _END
                else:
                    flow.end_reason = _IDLE if idle else _FORCED
                flow.open_after = options.clock_unknown or not (idle or options.last)
                _finish(index, _idle_end(flow, options) if idle else _NEVER, _LAST, state, table)
    if ending:
        table.slots[:] = 0
        state.open = 0
    else:
        _remove_finished(first, state, table)


@part
def _end_longest_idle(arrival, options, state, table):
    """Ends flows for lack of resources until an eighth of the bound is free, those first that were idle longest.

    The order is that of (clock, serial); flows whose idle timeout is over end by that.
    """
    state.most_open = max(state.most_open, state.open)
    state.clock_ns = arrival.clock_ns
    _end_idle(np.bool_(False), options, state, table)  # the type of `sweep`, so that it is compiled once
    surplus = state.open + options.eighth - options.max_open
    if surplus <= 0:
        return
    clocks, serials = np.empty(state.open, np.int64), np.empty(state.open, np.int64)
    waiting = 0
    for slot in table.slots:
        if slot:
            flow = table.flows[flow_at(slot)]
            clocks[waiting], serials[waiting] = flow.clock_ns, flow.serial
            waiting += 1
    latest, left = nth(clocks, surplus - 1)
    alike = 0
    for i in range(waiting):
        if clocks[i] == latest:
            serials[alike] = serials[i]
            alike += 1
    last, _ = nth(serials[:alike], left)
    first = state.finished
    for slot in table.slots:
        if slot:
            index = flow_at(slot)
            flow = table.flows[index]
            if flow.clock_ns < latest or (flow.clock_ns == latest and flow.serial <= last):
                flow.end_reason = _END if closed(flow.closing) else _LACK_OF_RESOURCES
                flow.open_after = 0
                _finish(index, arrival.clock_ns, arrival.record, state, table)
    state.ended_early += surplus
    _remove_finished(first, state, table)


@step
def _remove_finished(first, state, table):
    """Takes the flows that finished from the `first` one on out of the table."""
    for i in range(first, state.finished):
        remove(table.slots, table.flows[table.finished[i]].tag, np.int64(table.finished[i]))
        state.open -= 1
