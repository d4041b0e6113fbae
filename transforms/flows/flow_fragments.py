"""Flow fragments: pieces of flows from ranges of a capture group, joined to exactly the flows of the whole group.

Joining is associative: counters add up, sequences are concatenated and cut at k, the latest time and clock and the
closing flags are kept. The first packets of a piece are counted one by one, when the 8 before each are known. In
captured order of one key, a fragment continues the flow before it if all of this holds: the meter left both sides open;
the clock moved on by at most the idle timeout between them; a SYN at the beginning of the fragment repeats the flow's
own; the fragment's first packet may follow the FIN, if there was one.

A piece without packets is an ICMP error about the flow before it. It counts if that is not idle, and is no part of it.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOW_NUMBERS, FRAGMENTS
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.arrays.columns import column, concatenated, view
from flowloom.transforms.arrays.kernels import borrowed, step
from flowloom.transforms.flows.flow_state import (
    FLOW,
    HIGH,
    LOW,
    SYN_TURN,
    Entries,
    closed,
    empty_entries,
    entry_offsets,
    flow_rows,
    fragment_records,
    idle_timeouts_ns,
    key_hashes,
    long_enough,
    syn_is_own,
)
from flowloom.transforms.flows.meter_kernels import count_packet
from flowloom.transforms.flows.recent_packets import RECENT, Ends, is_copy, remember

_IDLE, _END, _FORCED = int(EndReason.IDLE_TIMEOUT), int(EndReason.END_DETECTED), int(EndReason.FORCED_END)
_KEY = ("low_0", "low_1", "high_0", "high_1", "low_port", "high_port", "key_vlan", "key_tunnel", "protocol")


class JoinedFragments(NamedTuple):
    """Flows that were joined from fragments.

    Attributes:
      flows: `schemas.arrow.rows.FLOWS`.
      flows_short: number of flows dropped for fewer than `min_packets` packets.
      numbers: the flow of each fragment, without dropped flows (`schemas.arrow.rows.FLOW_NUMBERS`).
      carried: int64 [ranges], number of flows from earlier ranges that were open in each range, or a few more.
    """

    flows: pa.RecordBatch
    flows_short: int
    numbers: pa.RecordBatch
    carried: np.ndarray


def join_fragments(
    fragments: pa.RecordBatch, clocks_ns: Sequence[int], definition: FlowDefinition, group: str
) -> JoinedFragments:
    """Joins the fragments of whole keys of one capture group.

    Args:
      fragments: `schemas.arrow.rows.FRAGMENTS` in any order, with all fragments of each key.
      clocks_ns: the latest time of each range of the group and of all before it, by position.
      definition: the flow definition of the ranges.
      group: the group's name.
    """
    pieces, entries, ends = fragment_records(fragments)
    position = view(fragments["range"])
    order = _in_captured_order(pieces, position)
    # a range without the clock of the ranges before it used its own, which may lag behind
    before = np.array([np.iinfo(np.int64).min, *clocks_ns], np.int64)[position]
    for name in ("start_clock_ns", "clock_ns"):
        pieces[name] = np.maximum(pieces[name], before)
    flows = np.zeros(len(pieces), FLOW)
    joined = empty_entries(int(pieces["entries"].sum()))
    became = np.empty(len(pieces), np.int64)
    idle_ns = idle_timeouts_ns(definition)
    count, used = _join(
        pieces, order, entry_offsets(pieces), tuple(entries), tuple(ends), idle_ns,
        definition.tcp_close == "lifecycle", definition.duplicates == "drop", definition.duplicate_window_ns,
        definition.k, max(clocks_ns), flows, tuple(joined), became,
    )  # fmt: skip
    flows = flows[:count]
    real = became >= 0
    order = order[real[order]]
    joined = Entries(*(values[:used] for values in joined))
    enough = long_enough(flows, definition.min_packets)
    if not enough.all():
        kept = np.repeat(enough, flows["entries"])
        joined = Entries(*(values[kept] for values in joined))
    rows = flow_rows(flows[enough], joined, group, definition)
    return JoinedFragments(
        rows,
        int(np.count_nonzero(~enough)),
        _numbers(rows, enough, pieces["serial"][real], position[real], became[real]),
        _carried(pieces[order], position[order], became[order], clocks_ns, idle_ns),
    )


def _numbers(
    rows: pa.RecordBatch, enough: np.ndarray, serials: np.ndarray, position: np.ndarray, became: np.ndarray
) -> pa.RecordBatch:
    """Returns the flow id of each fragment whose flow has enough packets."""
    kept = enough[became]
    row = (np.cumsum(enough) - 1)[became[kept]]
    numbers = [
        column(position[kept], FLOW_NUMBERS.field("range").type),
        column(serials[kept], FLOW_NUMBERS.field("serial").type),
        rows["flow_id"].take(column(row, pa.int64())),
    ]
    return pa.RecordBatch.from_arrays(numbers, schema=FLOW_NUMBERS)


def _carried(
    pieces: np.ndarray, position: np.ndarray, became: np.ndarray, clocks_ns: Sequence[int], idle_ns: np.ndarray
) -> np.ndarray:
    """Returns how many flows of earlier ranges are open in each range, at most.

    A piece that was left open is open in the ranges after its own, until the range of its flow's next piece, or until
    the idle timeout is over when a range begins.

    Args:
      pieces, position, became: fragments in the order of flows, the range of each and its flow.
    """
    ranges = len(clocks_ns)
    last = np.full(len(pieces), ranges - 1)
    goes_on = became[1:] == became[:-1]
    last[:-1][goes_on] = position[1:][goes_on]
    known = np.maximum(np.array(clocks_ns, np.int64), 0).astype(np.uint64)
    until = np.maximum(pieces["clock_ns"], 0).astype(np.uint64) + idle_ns[pieces["protocol"]].astype(np.uint64)
    last = np.minimum(last, np.searchsorted(known, until, side="right"))
    counted = (pieces["open_after"] == 1) & (last > position)
    change = np.bincount(position[counted] + 1, minlength=ranges + 1) - np.bincount(
        last[counted] + 1, minlength=ranges + 1
    )
    return np.cumsum(change)[:ranges]


def _in_captured_order(pieces: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Returns an order in which the pieces of each key lie together, in captured order."""
    hashes = key_hashes(pieces)
    # an ICMP error has the serial of the flow that began next
    serial = 2 * pieces["serial"] + (pieces["seen"] > 0)
    order = np.lexsort((serial, position, hashes))
    neighbours = hashes[order[1:]] == hashes[order[:-1]]
    before, after = pieces[order[:-1][neighbours]], pieces[order[1:][neighbours]]
    if all(np.array_equal(before[name], after[name]) for name in _KEY):
        return order
    # two keys of one hash lie mixed
    return np.lexsort((serial, position, *(pieces[name] for name in _KEY)))


def fragment_partitions(fragments: Sequence[pa.RecordBatch], partitions: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields the fragments of each partition that has any; one partition has all fragments of a key.

    Args:
      fragments: batches ordered by the hash of their keys, as `FlowMeter.take_fragments` gives them.
    """
    # partitions are equal parts of the hash's upper half, so each is one slice of every batch
    first_hashes = [np.uint64(-(-(at << 32) // partitions) << 32) for at in range(1, partitions)]
    slices: list[list[pa.RecordBatch]] = [[] for _ in range(partitions)]
    for rows in fragments:
        edges = np.searchsorted(key_hashes({name: view(rows[name]) for name in _KEY}), first_hashes)
        for at, (start, stop) in enumerate(itertools.pairwise([0, *edges.tolist(), rows.num_rows])):
            slices[at].append(rows.slice(start, stop - start))
    for at, parts in enumerate(slices):
        if any(part.num_rows for part in parts):
            yield at, concatenated(parts, FRAGMENTS)


@numba.njit(nogil=True, cache=True)
def _continues(flow, piece, idle_ns, lifecycle):
    """Returns whether a piece belongs to the flow that the pieces before it form."""
    if not (flow.open_after and piece.open_before):
        return False
    if piece.start_clock_ns - flow.clock_ns > idle_ns[flow.protocol]:
        return False
    if piece.begins == 0:
        return True
    if lifecycle:
        side = piece.begins & (LOW | HIGH)
        return syn_is_own(flow, side, piece.isn_low if side == LOW else piece.isn_high)
    if piece.begins & SYN_TURN:
        return flow.closing == 0
    return flow.closing == 0 or flow.closing & piece.begins != 0


@numba.njit(nogil=True, cache=True)
def _is_about(flow, error, idle_ns):
    """Returns whether the flow that an ICMP error is about was still open then."""
    return flow.open_after == 1 and error.start_clock_ns - flow.clock_ns <= idle_ns[flow.protocol]


@numba.njit(nogil=True, cache=True)
def _same_key(a, b):
    return (
        a.low_0 == b.low_0
        and a.low_1 == b.low_1
        and a.high_0 == b.high_0
        and a.high_1 == b.high_1
        and a.low_port == b.low_port
        and a.high_port == b.high_port
        and a.key_vlan == b.key_vlan
        and a.key_tunnel == b.key_tunnel
        and a.protocol == b.protocol
    )


@numba.njit(nogil=True, cache=True)
def _end(flow, cut_by_syn, next_clock_ns, idle_ns):
    """Writes the end reason of a flow that no further piece continues."""
    if closed(flow.closing):
        flow.end_reason = _END
    elif flow.open_after:
        if next_clock_ns - flow.clock_ns > idle_ns[flow.protocol]:
            flow.end_reason = _IDLE
        else:
            flow.end_reason = _END if cut_by_syn else _FORCED


@numba.njit(nogil=True, cache=True)
def _join(
    pieces, order, offsets, entries, ends, idle_ns, lifecycle, drops_copies, window_ns, k, end_clock_ns, flows, joined,
    became,
):  # fmt: skip
    """Writes joined flows, their entries and the flow of each piece; returns the number of flows and of entries.

    ICMP errors become part of no flow: -1.
    """
    entries, joined, ends = Entries(*borrowed(entries)), Entries(*borrowed(joined)), Ends(*borrowed(ends))
    tails = np.empty(RECENT, ends.tails.dtype)
    count = 0
    used = 0
    for index in order:
        piece = pieces[index]
        known = count > 0 and _same_key(flows[count - 1], piece)
        if piece.seen == 0:
            became[index] = -1
            if known and _is_about(flows[count - 1], piece, idle_ns):
                flows[count - 1].icmp_errors += piece.icmp_errors
            continue
        if known and _continues(flows[count - 1], piece, idle_ns, lifecycle):
            _extend(flows[count - 1], piece)
        else:
            if count > 0:
                _end(flows[count - 1], known, piece.start_clock_ns if known else end_clock_ns, idle_ns)
            flows[count] = piece
            _clear_counters(flows[count])
            count += 1
        became[index] = count - 1
        flow = flows[count - 1]
        at = offsets[index]
        for number in range(ends.head_offsets[index], ends.head_offsets[index + 1]):
            head = ends.heads[number]
            copy = is_copy(tails, 0, flow.seen, head.signature, head.time_ns, window_ns)
            remember(tails, 0, flow.seen, head.signature, head.time_ns)
            flow.seen += np.uint64(1)
            flow.duplicates += np.uint64(copy)
            kept = not (copy and drops_copies)
            if kept:
                count_packet(flow, head.time_ns, head.size, head.from_low == 1)
            if head.listed:
                if kept and flow.entries < k:
                    _copy_entry(joined, used, entries, at)
                    flow.entries += 1
                    used += 1
                at += 1
        _add_counters(flow, piece)
        flow.seen += piece.seen - np.uint64(ends.head_offsets[index + 1] - ends.head_offsets[index])
        for number in range(ends.tail_offsets[index], ends.tail_offsets[index + 1]):
            back = np.uint64(ends.tail_offsets[index + 1] - number)
            remember(tails, 0, flow.seen - back, ends.tails[number].signature, ends.tails[number].time_ns)
        while at < offsets[index + 1] and flow.entries < k:
            _copy_entry(joined, used, entries, at)
            flow.entries += 1
            used += 1
            at += 1
    if count > 0:
        _end(flows[count - 1], False, end_clock_ns, idle_ns)
    return count, used


@step
def _clear_counters(flow):
    """Takes off a flow that begins what `_add_counters` adds, and its entries."""
    flow.entries, flow.seen, flow.icmp_errors, flow.out_of_order, flow.duplicates = 0, 0, 0, 0, 0
    flow.packets_low, flow.packets_high, flow.bytes_low, flow.bytes_high = 0, 0, 0, 0


@step
def _add_counters(flow, piece):
    """Adds the packets of a piece behind those of its head to a flow."""
    flow.duplicates += piece.duplicates
    flow.icmp_errors += piece.icmp_errors
    if piece.packets_low + piece.packets_high == 0:
        return
    flow.out_of_order += piece.out_of_order
    if flow.packets_low + flow.packets_high == 0:
        flow.start_ns, flow.latest_ns = piece.start_ns, piece.latest_ns
    else:
        flow.out_of_order += np.uint64(piece.first_ns < flow.previous_ns)
        flow.start_ns = min(flow.start_ns, piece.start_ns)
        flow.latest_ns = max(flow.latest_ns, piece.latest_ns)
    flow.previous_ns = piece.previous_ns
    flow.packets_low += piece.packets_low
    flow.packets_high += piece.packets_high
    flow.bytes_low += piece.bytes_low
    flow.bytes_high += piece.bytes_high


@numba.njit(nogil=True, cache=True)
def _extend(flow, piece):
    """Moves the clock and connection of a flow to the end of the piece that continues it."""
    flow.clock_ns = piece.clock_ns
    if piece.syn & LOW & ~flow.syn:
        flow.isn_low = piece.isn_low
    if piece.syn & HIGH & ~flow.syn:
        flow.isn_high = piece.isn_high
    flow.syn |= piece.syn
    flow.opening &= piece.opening
    flow.closing |= piece.closing
    flow.end_reason = piece.end_reason
    flow.open_after = piece.open_after


@step
def _copy_entry(target, to, source, at):
    target.pkt_size[to] = source.pkt_size[at]
    target.pkt_dir[to] = source.pkt_dir[at]
    target.pkt_gap_ns[to] = source.pkt_gap_ns[at]
    target.pkt_tcp_flags[to] = source.pkt_tcp_flags[at]
    target.pkt_tcp_window[to] = source.pkt_tcp_window[at]
    target.pkt_ttl[to] = source.pkt_ttl[at]
    target.pkt_payload[to] = source.pkt_payload[at]
