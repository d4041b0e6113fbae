"""Packet windows: a row per packet with the last k packets of its key, for decisions about single packets.

They replace the flow meter under `decision: packet` and have the same columns: a row is one packet, with its
five-tuple, time, size and a count of one; its sequences are those of its window, the packet itself last. Forward is the
direction of the first packet of the key. A key that was silent for longer than the idle timeout, by the clock of the
meter, begins anew, so it can be forgotten without a difference. Reasons: docs/decisions/0016-per-packet-decisions.md.
"""

from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.arrays.hash_table import HASH_KEY, fill_slots, find_slot
from flowloom.transforms.arrays.kernels import borrowed, mix, step
from flowloom.transforms.flows.flow_state import ENTRY, FLOW, Entries, empty_entries, flow_rows, idle_timeouts_ns
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.flows.packet_steps import MeteredColumns, flow_key, packet_columns, write_entry, write_key
from flowloom.transforms.flows.recent_packets import RECENT, TAILS, is_copy, remember, signature

_KEY = np.dtype(
    [
        ("number", np.int64),  # packets since the key began
        ("begun", np.int64),  # keys that began before it
        ("clock_ns", np.int64),
        ("forward", np.bool_),  # the side of the first packet
    ],
    align=True,
)
_STATE = np.dtype(
    [
        ("clock_ns", np.int64),
        ("keys", np.int64),
        ("packets", np.int64),
        ("begun", np.int64),  # keys that began
        ("checked", np.int64),  # value of `begun` at which there is room for the next eighth of keys
    ]
)
_KEYS = {"five_tuple": 0, "host_pair": 1, "source": 2}
_FIVE_TUPLE, _SOURCE = _KEYS["five_tuple"], _KEYS["source"]
_FORCED = int(EndReason.FORCED_END)
_FIRST_KEYS = 1 << 10


class _Options(NamedTuple):
    """Options of the kernel, from the flow definition."""

    key: int
    idle_ns: np.ndarray
    vlan_in_key: bool
    tunnel_in_key: bool
    icmp_in_key: bool
    window_ns: int
    max_open: int
    eighth: int


class _KeyTable(NamedTuple):
    """Known keys: slots of the hash table, five words of each key, its `_KEY` record, its last k packets.

    `recent` has the last `RECENT` packets of each key, by which copies are found.
    """

    slots: np.ndarray
    words: np.ndarray
    records: np.ndarray
    tails: np.ndarray
    recent: np.ndarray


class PacketWindows:
    """Windows of the packets of a whole capture group, the same however the packets are cut into batches.

    Memory is bounded by rows not taken yet, and by 24 bytes times k for each key with a packet within the idle timeout.
    Keys are at most `max_open_flows`, by the rule of the flow meter: those that were idle longest begin anew.

    Args:
      definition: a definition with `decision: packet`: the key, the packets of a window, the idle timeout.
      group: the capture group's content-based name, 16 hexadecimal digits or more; part of every row's id.

    Attributes:
      flows_short: rows dropped; always 0.
      ended_early: number of keys that begin anew for lack of resources.
    """

    most_open = 0
    """Of no use: groups of packet decisions are read in one piece."""

    def __init__(self, definition: FlowDefinition, group: str):
        if definition.decision != "packet":
            raise ValueError(f"decision must be packet for packet windows, got {definition.decision}; use FlowMeter")
        self.flows_short = 0
        self.ended_early = 0
        self._definition = definition
        self._group = group
        self._options = _Options(
            _KEYS[definition.key],
            idle_timeouts_ns(definition),
            definition.vlan_in_key,
            definition.tunnel_in_key,
            definition.icmp_in_key,
            definition.duplicate_window_ns,
            definition.max_open_flows,
            definition.open_flows_step,
        )
        self._state = np.array((np.iinfo(np.int64).min, 0, 0, 0, -1), _STATE)[()]
        self._rows: list[tuple[pa.RecordBatch, np.ndarray]] = []
        self._table = self._new_table(_FIRST_KEYS)

    def update(self, packets: pa.RecordBatch, origin: int = 0) -> np.ndarray:
        """Makes rows of packets (`schemas.arrow.rows.PACKETS`) of one capture that follow all packets before.

        Args:
          origin: number below 2^64 of the capture, different for each capture of the group; part of the rows' ids.

        Returns:
          int64 [packets], the serial of each packet's row; `take_numbered` returns it too.
        """
        before = int(self._state["packets"])
        for begin in range(0, packets.num_rows, TAKE_FLOWS):
            self._add(packets.slice(begin, TAKE_FLOWS), origin)
        return np.arange(before, int(self._state["packets"]))

    @property
    def clock_ns(self) -> int | None:
        """The latest time so far; None before the first packet."""
        return int(self._state["clock_ns"]) if self._state["packets"] else None

    @property
    def finished(self) -> int:
        """Number of rows that were not taken yet."""
        return sum(rows.num_rows for rows, _ in self._rows)

    @property
    def ready(self) -> int:
        """Number of rows that were not taken yet; they come in captured order."""
        return self.finished

    def finish(self, clock_ns: int | None = None) -> None:
        """Ends the group; every packet has its row already."""

    def take(self) -> pa.RecordBatch:
        """Removes up to `TAKE_FLOWS` rows and returns them as `schemas.arrow.rows.FLOWS`, in captured order."""
        rows, _ = self.take_numbered()
        return rows

    def take_numbered(self) -> tuple[pa.RecordBatch, np.ndarray]:
        """Takes rows as `take` does, and also returns the int64 serial of each."""
        return self._rows.pop(0) if self._rows else (concatenated([], FLOWS), np.empty(0, np.int64))

    def take_fragments(self) -> list[pa.RecordBatch]:
        """Returns no fragments, because groups of packet decisions are read in one piece."""
        return []

    def _add(self, packets: pa.RecordBatch, origin: int) -> None:
        columns, options = packet_columns(packets, self._definition), tuple(self._options)
        rows = np.zeros(packets.num_rows, FLOW)
        rows["origin"] = np.uint64(origin)
        entries = empty_entries(packets.num_rows * self._definition.k)
        done = filled = 0
        while True:
            table = tuple(self._table)
            done, filled, crowded = _windows(
                tuple(columns), done, filled, options, self._state, table, rows, tuple(entries), HASH_KEY
            )
            if done == packets.num_rows:
                break
            now = int(columns.clock_ns[done])
            if crowded:
                self._forget_longest_idle(now)
            else:
                self._make_room(now)
        entries = Entries(*(values[:filled] for values in entries))
        last = int(self._state["packets"])
        self._rows.append(
            (flow_rows(rows, entries, self._group, self._definition), np.arange(last - packets.num_rows, last))
        )

    def _new_table(self, keys: int) -> _KeyTable:
        return _KeyTable(
            np.zeros(2 * keys, np.int64),
            np.empty((keys, 5), np.uint64),
            np.empty(keys, _KEY),
            np.empty((keys, self._definition.k), ENTRY),
            np.zeros((keys, RECENT), TAILS),
        )

    def _busy(self, now: int) -> np.ndarray:
        """Returns the places of the keys whose idle timeout is not over."""
        clocks = self._table.records["clock_ns"][: int(self._state["keys"])]
        return np.flatnonzero(now - clocks <= int(self._options.idle_ns.max()))

    def _make_room(self, now: int) -> None:
        """Forgets the idle keys, which begin anew in any case; if they are few, doubles the room."""
        kept, size = self._busy(now), len(self._table.records)
        self._keep(kept, 2 * size if 2 * len(kept) > size else size)

    def _forget_longest_idle(self, now: int) -> None:
        """Forgets keys until there is room for an eighth of `max_open_flows`, those first that were idle longest."""
        busy, records = self._busy(now), self._table.records
        surplus = max(len(busy) + self._options.eighth - self._options.max_open, 0)
        order = np.lexsort((records["begun"][busy], records["clock_ns"][busy]))
        self._keep(np.sort(busy[order[surplus:]]), len(records))
        self.ended_early += surplus
        self._state["checked"] = self._state["begun"]

    def _keep(self, kept: np.ndarray, size: int) -> None:
        """Moves the keys at some places into a table with room for `size`."""
        old, self._table = self._table, self._new_table(size)
        self._state["keys"] = len(kept)
        for new, values in zip(self._table[1:], old[1:], strict=True):
            new[: len(kept)] = values[kept]
        fill_slots(self._table.slots, self._table.words, len(kept), HASH_KEY)


@numba.njit(nogil=True, cache=True)
def _windows(packets, begin, filled, options, state, table, rows, entries, hash_key):
    """Writes rows and their windows from packet `begin` and entry `filled` on; returns the packet and entry after them.

    A packet before the last means that there is no room for another key. The third value is then true if the bound of
    keys is the reason.
    """
    packets, options = MeteredColumns(*borrowed(packets)), _Options(*borrowed(options))
    table, entries = _KeyTable(*borrowed(table)), Entries(*borrowed(entries))
    for i in range(begin, len(rows)):
        clock = packets.clock_ns[i]
        from_low, flow = flow_key(packets, i, options)
        words = _window_key(packets, i, flow, options.key)
        slot = find_slot(table.slots, table.words, words, hash_key)
        place = table.slots[slot] - 1
        if place < 0 or clock - table.records[place].clock_ns > options.idle_ns[flow.protocol]:
            if _is_crowded(state, options):
                return i, filled, True
            if place < 0:
                if state.keys == len(table.records):
                    return i, filled, False
                place = _new_place(slot, words, state, table)
            table.records[place].number = 0
            table.records[place].begun = state.begun
            state.begun += 1
        key, tail, row = table.records[place], table.tails[place], rows[i]
        side = options.key == _SOURCE or from_low
        _add_packet(key, tail, table.recent[place], row, packets, i, side, options.window_ns)
        key.clock_ns = clock
        state.clock_ns = clock

        write_key(row, flow, packets, i)
        row.forward_is_low = from_low == (side == key.forward)
        _write_numbers(row, packets, i, from_low)
        state.packets += 1
        row.entries = min(key.number, tail.shape[0])
        for back in range(row.entries, 0, -1):
            _write_window_entry(entries, filled, tail[(key.number - back) % tail.shape[0]], row.forward_is_low == 1)
            filled += 1
    return len(rows), filled, False


@step
def _is_crowded(state, options):
    """Returns whether keys must be forgotten before another eighth of the bound begins."""
    due = state.begun % options.eighth == 0 and state.begun != state.checked
    return due and state.keys + options.eighth > options.max_open


@step
def _window_key(packets, i, flow, kind):
    """Returns the five words of the key whose packets share a window with packet `i`."""
    rest = np.uint64(flow.vlan) ^ mix(np.uint64(flow.tunnel_id) + np.uint64(1))
    if kind == _FIVE_TUPLE:
        ports = (np.uint64(flow.low_port) << np.uint64(48)) | (np.uint64(flow.high_port) << np.uint64(32))
        return flow.low_0, flow.low_1, flow.high_0, flow.high_1, mix(rest) ^ (ports | np.uint64(flow.protocol))
    if kind == _SOURCE:
        return packets.src_ip[i, 0], packets.src_ip[i, 1], np.uint64(0), np.uint64(0), rest
    return flow.low_0, flow.low_1, flow.high_0, flow.high_1, rest


@step
def _new_place(slot, words, state, table):
    """Enters a new key, and returns its place."""
    place = state.keys
    state.keys += 1
    table.slots[slot] = place + 1
    for word in range(5):
        table.words[place, word] = words[word]
    return place


@step
def _add_packet(key, tail, recent, row, packets, i, side, window_ns):
    """Adds packet `i` to the window of its key; the first one decides which side is forward."""
    now = packets.time_ns[i]
    if key.number == 0:
        key.forward = side
    else:
        previous = tail[(key.number - 1) % tail.shape[0]].time_ns
        row.out_of_order = now < previous
    sign = _signature_of_key(packets, i)
    row.duplicates = is_copy(recent, 0, key.number, sign, now, window_ns)
    remember(recent, 0, key.number, sign, now)
    # an entry of a window says whether it is forward: which side is low differs from row to row
    write_entry(tail[key.number % tail.shape[0]], packets, i, side == key.forward)
    key.number += 1


@step
def _signature_of_key(packets, i):
    """Returns a hash of what packet `i` and its copies have in common; flows of a key have different ones."""
    ports = (np.uint64(packets.src_port[i]) << np.uint64(16)) | np.uint64(packets.dst_port[i])
    words = mix(ports | np.uint64(packets.protocol[i]) << np.uint64(32))
    for word in (packets.src_ip[i, 0], packets.src_ip[i, 1], packets.dst_ip[i, 0], packets.dst_ip[i, 1]):
        words = mix(words ^ word)
    return mix(words ^ signature(packets, i, False))


@step
def _write_numbers(row, packets, i, from_low):
    """Writes the time, size and record of packet `i` as a flow of one packet."""
    now = packets.time_ns[i]
    row.end_reason = _FORCED
    row.record = packets.record[i]
    row.start_ns, row.latest_ns = now, now
    if from_low:
        row.packets_low, row.bytes_low = np.uint64(1), np.uint64(packets.size[i])
    else:
        row.packets_high, row.bytes_high = np.uint64(1), np.uint64(packets.size[i])


@step
def _write_window_entry(entries, at, entry, forward_is_low):
    entries.pkt_size[at] = entry.size
    entries.pkt_dir[at] = (entry.from_low == 1) == forward_is_low
    entries.pkt_gap_ns[at] = entry.time_ns
    entries.pkt_tcp_flags[at] = entry.flags
    entries.pkt_tcp_window[at] = entry.window
    entries.pkt_ttl[at] = entry.ttl
    entries.pkt_payload[at] = entry.payload
