"""Flow meter: packets in captured order become bidirectional flows with the sequences of their first k packets.

State per flow is O(k): counters in one record, sequence entries in blocks of a shared pool. Files and Beam are unknown
here. A flow is final at a cut (idle gap, active timeout, new TCP connection), when the capture's clock shows that no
later packet can belong to it, or for lack of resources; so chunk sizes and the moments of sweeping never change a flow.

The clock is the running maximum of the times of all records, packets or not. A packet's idle gap is the clock minus the
clock at the flow's last packet; in an ordered capture that is the time between the two packets.

Flows leave in the order in which they end, whatever the chunks. A packet ends a flow at the clock and record of that
packet. An idle timeout ends a flow when it is over by the clock, behind all packets of that clock. The flows that are
open at the end come last. What ends together is ordered by the first packet.

Open flows are bounded by `max_open_flows`. Whenever an eighth of that many flows has begun, and there is not room for
as many more, the flows that were idle longest end, by (clock, serial). Ranges cannot know how many flows are open in
the whole, so a group that may reach the bound is metered in one piece (`transforms/metering/open_flows.py`).

TCP lifecycle (`tcp_close: lifecycle`), per flow:

    event                                       state of the flow    effect
    SYN without ACK of the flow's connection    any                  stays in the flow
    SYN without ACK, any other                  any                  flow ends (end detected), a new one starts
    RST                                         open                 closed: end reason `end detected`
    FIN forward and FIN backward seen           open                 closed: end reason `end detected`
    any other packet                            open or closed       stays in the flow until it is idle

First FIN (`tcp_close: fin`), per flow:

    event                                       state of the flow    effect
    FIN                                         open                 closed: end reason `end detected`
    SYN                                         closed               flow ends (end detected), a new one starts
    payload without FIN, no FIN of its side     closed               flow ends (end detected), a new one starts
    any other packet: FIN, ACK, RST, repeated   open or closed       stays in the flow until it is idle

A range of a group (a stretch of a file, or one of several files) is metered alone. Flows that may continue one of an
earlier range, or be continued in a later one, become fragments, which `transforms/flows/flow_fragments.py` joins. The
meter cuts too much rather than too little: an earlier range can only remove cuts, by a later clock or by the SYNs and
the FIN of the flow. A fragment whose begin is not known is therefore cut before the first SYN of a side, and under
`tcp_close: fin` before the first SYN and the first payload of each side.

Copies of packets are sought among the last 8 of a flow (`transforms/flows/recent_packets.py`).

An ICMP error that is counted (`icmp_errors: count`) and quotes a key without an open flow becomes a piece without
packets where an earlier range may have its flow.

A SYN is of the flow's connection if it repeats the first SYN of its side, or if it is the first SYN of its side and the
flow began with the SYN-ACK that answers it, or crosses the SYN of the other side (simultaneous open, RFC 9293, figure
7): all packets before it have the flag SYN.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.hash_table import HASH_KEY
from flowloom.transforms.flows.flow_ends import METER_STATE, MeterOptions, sweep
from flowloom.transforms.flows.flow_state import (
    BLOCK,
    ENTRY,
    FLOW,
    Entries,
    active_timeout_ns,
    flow_rows,
    fragment_rows,
    gather_entries,
    idle_timeouts_ns,
    key_hashes,
    long_enough,
)
from flowloom.transforms.flows.meter_kernels import meter_packets
from flowloom.transforms.flows.open_flow_table import EntryPool, MeterTable, key_tags, pick, rehash, release
from flowloom.transforms.flows.packet_steps import MeteredColumns, key_options, packet_columns
from flowloom.transforms.flows.recent_packets import HEADS, RECENT, TAILS, piece_ends

TAKE_FLOWS = 1 << 14
"""Flows of a batch at most: one row group."""

_BEFORE = np.iinfo(np.int64).min


@dataclasses.dataclass(frozen=True)
class RangePlace:
    """Place of a range in its capture group.

    Attributes:
      position: its number in the group, from 0.
      last: whether it is the last range.
      prior_clock_ns: the latest time in all ranges before it; None if unknown, or if there are none.
    """

    position: int = 0
    last: bool = True
    prior_clock_ns: int | None = None


WHOLE = RangePlace()
"""The place of a capture group that is metered in one piece."""


class FlowMeter:
    """Meter of one range of a capture group: packets in, chunk by chunk, finished flows and fragments out.

    Memory is bounded by the open flows times k and by the `finished` flows that were not taken yet.

    Args:
      definition: what counts as one flow; must be associative unless the range is the whole group.
      group: the capture group's content-based name, 16 hexadecimal digits or more; part of every flow id.
      place: where the range lies in its group.

    Attributes:
      flows_short: flows dropped because they have fewer than `min_packets` packets.
    """

    def __init__(self, definition: FlowDefinition, group: str, place: RangePlace = WHOLE):
        if place != WHOLE and not definition.associative:
            name = "reorder_s" if definition.active_s is None else "active_s"
            raise ValueError(
                f"{name} must be null to meter a range of a capture group, got {getattr(definition, name):g}; "
                "meter the whole group in one range"
            )
        self.flows_short = 0
        self._group = group
        self._range = place.position
        self._definition = definition
        self._fragments: list[pa.RecordBatch] = []
        before = _BEFORE if place.prior_clock_ns is None else place.prior_clock_ns
        options = MeterOptions(
            k=definition.k,
            idle_ns=idle_timeouts_ns(definition),
            active_ns=active_timeout_ns(definition),
            lifecycle=definition.tcp_close == "lifecycle",
            first_fin=definition.tcp_close == "fin",
            skip_empty=definition.zero_payload == "skip",
            orient_syn=definition.orient != "first-packet",
            orient_port=definition.orient == "client",
            vlan_in_key=definition.vlan_in_key,
            tunnel_in_key=definition.tunnel_in_key,
            icmp_in_key=definition.icmp_in_key,
            drops_copies=definition.duplicates == "drop",
            window_ns=definition.duplicate_window_ns,
            continues=place.position > 0,
            last=place.last,
            clock_unknown=place.position > 0 and place.prior_clock_ns is None,
            max_open=definition.max_open_flows,
            eighth=definition.open_flows_step,
        )
        self._options = tuple(options)
        self._ready = 0
        self._sweep_ns = int(options.idle_ns.min()) // 4
        self._state = np.zeros((), METER_STATE)[()]
        for name, clock_ns in (("clock_ns", before), ("swept_ns", _BEFORE), ("before_ns", before)):
            self._state[name] = clock_ns
        self._table = MeterTable(
            np.zeros(1 << 12, np.uint64), np.zeros(0, FLOW), np.zeros(0, np.int32), np.zeros(0, np.int32),
            np.zeros(0, TAILS), np.zeros(0, HEADS),
        )  # fmt: skip
        self._pool = EntryPool(np.zeros(0, ENTRY), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def update(self, packets: pa.RecordBatch, origin: int = 0) -> np.ndarray:
        """Meters packets (`schemas.arrow.rows.PACKETS`) of one capture that follow all packets metered before.

        Args:
          origin: number below 2^64 of the capture, different for each capture of the group; part of flow ids.

        Returns:
          int64 [packets], the serial of each packet's flow in this range, -1 for an ICMP error; `take_numbered` and
          fragments have it too.
        """
        if not packets.num_rows:
            return np.empty(0, np.int64)
        columns = packet_columns(packets, self._definition)
        tags = key_tags(tuple(columns), key_options(self._definition), HASH_KEY)
        serials = self.update_some(columns, np.arange(len(tags), dtype=np.int32), tags, origin)
        if self.sweep_is_due:
            self.sweep()
        return serials

    def update_some(self, columns: MeteredColumns, rows: np.ndarray, tags: np.ndarray, origin: int = 0) -> np.ndarray:
        """Meters some packets of a batch, and moves the clock to the end of the batch; does not sweep.

        Args:
          columns: the columns of the batch, at least one packet.
          rows: int32, ascending, the rows of the packets.
          tags: uint32, the tag of each packet's key.
          origin: as of `update`.

        Returns:
          int64 [rows], the serial of each packet's flow.
        """
        serials = np.empty(len(rows), np.int64)
        self._make_room(len(rows))
        meter_packets(
            tuple(columns), rows, tags, np.uint64(origin), self._options, self._state, tuple(self._table),
            tuple(self._pool), serials,
        )  # fmt: skip
        self._state["clock_ns"] = max(int(self._state["clock_ns"]), int(columns.clock_ns[-1]))
        return serials

    @property
    def sweep_is_due(self) -> bool:
        """True if the clock moved on so far, or so many flows ended, that it is time for a sweep.

        More often would scan the open flows in vain, less often would keep dead ones and those that wait.
        """
        passed = int(self._state["clock_ns"]) - int(self._state["swept_ns"])
        waiting = self.finished - self._ready
        return passed > self._sweep_ns or waiting > max(TAKE_FLOWS, int(self._state["open"]))

    def sweep(self) -> None:
        """Ends the flows that were idle too long; all flows that ended so far are then `ready`."""
        if self._state["clock_ns"] > self._state["swept_ns"]:
            sweep(False, self._options, self._state, tuple(self._table))
        self._order_finished()

    @property
    def most_open(self) -> int:
        """The greatest number of flows that were in the table at once; those that were idle too long may count."""
        return int(self._state["most_open"])

    @property
    def ended_early(self) -> int:
        """Number of flows that ended for lack of resources."""
        return int(self._state["ended_early"])

    def finish(self, clock_ns: int | None = None) -> None:
        """Ends all flows that are still open; the range has no further packets.

        Args:
          clock_ns: the latest time of all records, if some came after the last packet.
        """
        if clock_ns is not None:
            self._state["clock_ns"] = max(int(self._state["clock_ns"]), clock_ns)
        sweep(True, self._options, self._state, tuple(self._table))
        self._order_finished()

    def _order_finished(self) -> None:
        """Puts the flows that finished behind those that are ready in the order in which they ended."""
        waiting = self._table.finished[self._ready : self.finished]
        flows = self._table.flows
        waiting[:] = waiting[np.lexsort([flows[name][waiting] for name in ("serial", "ended_at", "ended_ns")])]
        self._ready = self.finished

    @property
    def clock_ns(self) -> int | None:
        """The latest time so far, including that before the range; None before the first packet."""
        clock = int(self._state["clock_ns"])
        return None if clock == _BEFORE else clock

    @property
    def finished(self) -> int:
        """Number of flows that ended and were not taken yet."""
        return int(self._state["finished"])

    @property
    def ready(self) -> int:
        """Number of finished flows that no other flow of the range can precede."""
        return self._ready

    def peek(self) -> np.ndarray:
        """Returns copies of up to `TAKE_FLOWS` flows that are ready, `FLOW` records in their order."""
        return pick(self._table.flows, self._table.finished[: min(self._ready, TAKE_FLOWS)])

    def take(self) -> pa.RecordBatch:
        """Removes up to `TAKE_FLOWS` finished flows and returns them as `schemas.arrow.rows.FLOWS`.

        Those that are ready come first, in their order. Fragments stay until `take_fragments`.
        """
        flows, _ = self.take_numbered()
        return flows

    def take_numbered(self) -> tuple[pa.RecordBatch, np.ndarray]:
        """Takes flows as `take` does, and also returns the int64 serial of each in its range."""
        rows, flows = self.take_some(min(self.finished, TAKE_FLOWS))
        return rows, flows["serial"]

    def take_some(self, count: int) -> tuple[pa.RecordBatch, np.ndarray]:
        """Takes the first `count` finished flows; returns rows, and the `FLOW` record of each."""
        if count > self._ready:
            self._order_finished()
        waiting, finished = self.finished, self._table.finished
        chosen = finished[:count].copy()
        flows = pick(self._table.flows, chosen)
        fragment = (flows["open_before"] | flows["open_after"]) == 1
        if fragment.any():
            pieces, places = flows[fragment], chosen[fragment]
            by_key = np.argsort(key_hashes(pieces), kind="stable")
            pieces, places = pieces[by_key], places[by_key]
            ends = piece_ends(pieces, places, self._table.heads, self._table.tails)
            self._fragments.append(fragment_rows(*self._with_entries(pieces), ends, self._range))
            flows = flows[~fragment]
        enough = long_enough(flows, self._definition.min_packets)
        if not enough.all():
            self.flows_short += int(np.count_nonzero(~enough))
            flows = flows[enough]
        batch = flow_rows(*self._with_entries(flows), self._group, self._definition)
        release(chosen, self._state, tuple(self._table), tuple(self._pool))
        finished[: waiting - len(chosen)] = finished[len(chosen) : waiting].copy()
        self._state["finished"] = waiting - len(chosen)
        self._ready -= len(chosen)
        return batch, flows

    def take_fragments(self) -> list[pa.RecordBatch]:
        """Removes the fragments among all flows taken so far and returns them.

        Returns:
          batches of `schemas.arrow.rows.FRAGMENTS`, each ordered by the hash of the keys.
        """
        fragments, self._fragments = self._fragments, []
        return fragments

    def _with_entries(self, flows: np.ndarray) -> tuple[np.ndarray, Entries]:
        return flows, gather_entries(flows, self._pool.entries, self._pool.next_block)

    def _make_room(self, packets: int) -> None:
        """Makes room for `packets` new flows and blocks, so that kernels never run out of either."""
        table, pool, state = self._table, self._pool, self._state
        added = _add_numbers(table.free, int(state["free_flows"]), packets)
        state["free_flows"] += added
        for rows in (table.flows, table.finished):
            _extend(rows, added)
        _extend(table.tails, added * RECENT)
        if self._range > 0:
            _extend(table.heads, added * RECENT)
        added = _add_numbers(pool.free, int(state["free_blocks"]), packets)
        state["free_blocks"] += added
        _extend(pool.entries, added * BLOCK)
        _extend(pool.next_block, added)
        capacity = len(table.slots)
        while (int(state["open"]) + packets) * 2 > capacity:
            capacity *= 2
        if capacity > len(table.slots):
            self._table = table._replace(slots=np.zeros(capacity, np.uint64))
            rehash(table.slots, self._table.slots)


def _add_numbers(free: np.ndarray, left: int, wanted: int) -> int:
    """Adds numbers behind the `left` free ones until at least `wanted` are free; returns how many were added."""
    had = len(free)
    if left >= wanted:
        return 0
    added = max(wanted - left, had // 2)
    _extend(free, added)
    free[left : left + added] = np.arange(had + added - 1, had - 1, -1, dtype=np.int32)
    return added


def _extend(values: np.ndarray, added: int) -> None:
    """Adds zero rows behind an array, in place, without a copy where the allocator can."""
    values.resize(len(values) + added, refcheck=False)
