"""Packet windows: every packet becomes a row with the last k packets of its key, for decisions about single packets.

It stands in the place of the flow meter where the definition says `decision: packet`, and gives the same rows: a row is
one packet, with its five-tuple, time, size and a count of one; its sequences are those of its window, the packet itself
last. Forward is the direction of the first packet of the key. A key that was silent for longer than the idle timeout
begins anew, by the clock of the meter, so that forgetting it changes nothing. Why so is said in
docs/decisions/0016-per-packet-decisions.md.
"""

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.arrays.columns import concatenated, view
from flowloom.transforms.arrays.hash_table import fill_slots, find_slot
from flowloom.transforms.arrays.kernels import mix
from flowloom.transforms.flows.flow_state import ENTRY, FLOW, empty_entries, flow_rows, idle_timeouts_ns
from flowloom.transforms.flows.meter import TAKE_FLOWS, WHOLE, FlowMeter, RangePlace

_KEY = np.dtype(
    [
        ("number", np.int64),  # packets since the key began
        ("clock_ns", np.int64),
        ("previous_ip_id", np.uint32),
        ("previous_bytes", np.uint32),
        ("forward", np.bool_),  # the side that spoke first
    ],
    align=True,
)
_KEYS = {"five_tuple": 0, "host_pair": 1, "source": 2}
_SIZES = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}
_COLUMNS = (
    "time_ns", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "vlan", "tunnel_id",
    "ip_bytes", "payload_bytes", "ip_id", "ttl", "tcp_flags", "tcp_window",
)  # fmt: skip
_FORCED = int(EndReason.FORCED_END)
_FIRST_KEYS = 1 << 10


def open_meter(definition: FlowDefinition, group: str, place: RangePlace = WHOLE) -> "FlowMeter | PacketWindows":
    """Return what makes rows of packets by a definition: flows, or windows of packets.

    Raises:
      ValueError: if the definition needs whole groups, and `place` is that of a part of one.
    """
    if definition.decision == "flow":
        return FlowMeter(definition, group, place)
    if place != WHOLE:
        raise ValueError(f"windows of packets need the whole capture group, got {place}")
    return PacketWindows(definition, group)


class PacketWindows:
    """The windows of packets of a whole capture group, batch by batch; cuts between batches change nothing.

    Memory is bounded by the keys that spoke within the idle timeout times k, 24 bytes each, and by rows not yet taken.

    Args:
      definition: of packet decisions: what the key is, how many packets a window has, when a key begins anew.
      group: the capture group's content-based name, 16 hexadecimal digits or more; part of every row's id.

    Attributes:
      flows_short: rows left out; always 0.
    """

    def __init__(self, definition: FlowDefinition, group: str):
        if definition.decision != "packet":
            raise ValueError(f"packet windows need decision='packet', got {definition.decision!r}")
        self.flows_short = 0
        self._definition = definition
        self._group = group
        self._idle_ns = idle_timeouts_ns(definition)
        self._state = np.array([np.iinfo(np.int64).min, 0, 0], np.int64)  # clock, keys, packets
        self._rows: list[tuple[pa.RecordBatch, np.ndarray]] = []
        self._allocate(_FIRST_KEYS)

    def update(self, packets: pa.RecordBatch) -> np.ndarray:
        """Make rows of packets (`schemas.rows.PACKETS`) that follow all packets before.

        Returns:
          int64 serial of each packet's row; `take_numbered` tells which row that is.
        """
        before = self._state[2]
        for begin in range(0, packets.num_rows, TAKE_FLOWS):
            self._add(packets.slice(begin, TAKE_FLOWS))
        return np.arange(before, self._state[2])

    @property
    def clock_ns(self) -> int | None:
        """The latest time so far; None before the first packet."""
        return int(self._state[0]) if self._state[2] else None

    @property
    def finished(self) -> int:
        """Rows that were not yet taken."""
        return sum(rows.num_rows for rows, _ in self._rows)

    def finish(self) -> None:
        """End the group; every packet has its row already."""

    def take(self) -> pa.RecordBatch:
        """Return up to `TAKE_FLOWS` rows as `schemas.rows.FLOWS`, in captured order, and forget them."""
        rows, _ = self.take_numbered()
        return rows

    def take_numbered(self) -> tuple[pa.RecordBatch, np.ndarray]:
        """Return what `take` returns, and the int64 serial of each of these rows."""
        return self._rows.pop(0) if self._rows else (concatenated([], FLOWS), np.empty(0, np.int64))

    def take_fragments(self) -> list[pa.RecordBatch]:
        """Return no fragments: groups of packet decisions are read in one piece."""
        return []

    def _add(self, packets: pa.RecordBatch) -> None:
        definition, k = self._definition, self._definition.k
        columns = [view(packets[name]) for name in _COLUMNS]
        rows = np.zeros(packets.num_rows, FLOW)
        entries = empty_entries(packets.num_rows * k)
        done = filled = 0
        while True:
            done, filled = _windows(
                *columns, view(packets[_SIZES[definition.size]]), done, filled,
                _KEYS[definition.key], k, self._idle_ns, definition.vlan_in_key, definition.tunnel_in_key,
                self._state, self._slots, self._words, self._keys, self._tails, rows, *entries.values(),
            )  # fmt: skip
            if done == packets.num_rows:
                break
            self._make_room()
        entries = {name: values[:filled] for name, values in entries.items()}
        last = self._state[2]
        self._rows.append((flow_rows(rows, entries, self._group), np.arange(last - packets.num_rows, last)))

    def _allocate(self, keys: int) -> None:
        self._words = np.empty((keys, 5), np.uint64)
        self._keys = np.empty(keys, _KEY)
        self._tails = np.empty((keys, self._definition.k), ENTRY)
        self._slots = np.zeros(2 * keys, np.int64)

    def _make_room(self) -> None:
        """Forget the keys that begin anew in any case; if that are few, take twice the room."""
        idle = int(self._state[0]) - self._keys["clock_ns"] > int(self._idle_ns.max())
        kept = np.flatnonzero(~idle)
        size = len(self._keys) * (2 if 2 * len(kept) > len(self._keys) else 1)
        old = self._words[kept], self._keys[kept], self._tails[kept]
        self._allocate(size)
        self._state[1] = len(kept)
        for new, values in zip((self._words, self._keys, self._tails), old, strict=True):
            new[: len(kept)] = values
        fill_slots(self._slots, self._words, len(kept))


@numba.njit(nogil=True, cache=True)
def _windows(
    time_ns, src, dst, src_port, dst_port, protocol, ip_version, vlan, tunnel_id, ip_bytes,
    payload, ip_id, ttl, tcp_flags, tcp_window, size, begin, filled,
    key_kind, k, idle_ns, vlan_in_key, tunnel_in_key, state, slots, words, keys, tails, rows,
    size_out, from_low_out, time_out, flags_out, window_out, ttl_out, payload_out,
):  # fmt: skip
    """Write rows and their windows from packet `begin` and entry `filled` on; return how far that went.

    Less than all packets: there is no room for another key.
    """
    zero = np.uint64(0)
    for i in range(begin, len(time_ns)):
        now = time_ns[i]
        clock = max(state[0], now)
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

        # who shares a window, and which side of it speaks
        rest = np.uint64(key_vlan) ^ mix(np.uint64(key_tunnel) + np.uint64(1))
        side = from_low
        key = (low_0, low_1, high_0, high_1, rest)
        if key_kind == 0:
            ports = (np.uint64(low_port) << np.uint64(48)) | (np.uint64(high_port) << np.uint64(32))
            key = (low_0, low_1, high_0, high_1, mix(rest) ^ (ports | np.uint64(protocol[i])))
        elif key_kind == 2:
            side = True
            key = (src_0, src_1, zero, zero, rest)

        at = find_slot(slots, words, key)
        place = slots[at] - 1
        if place < 0:
            if state[1] == len(keys):
                return i, filled
            place = state[1]
            state[1] += 1
            slots[at] = place + 1
            for word in range(5):
                words[place, word] = key[word]
            keys[place].number = 0
        held, tail = keys[place], tails[place]
        if held.number and clock - held.clock_ns > idle_ns[protocol[i]]:
            held.number = 0
        row = rows[i]
        if held.number == 0:
            held.forward = side
        else:
            previous = tail[(held.number - 1) % k].time_ns
            row.out_of_order = now < previous
            row.duplicates = now == previous and ip_id[i] == held.previous_ip_id and ip_bytes[i] == held.previous_bytes
        entry = tail[held.number % k]
        entry.time_ns = now
        entry.size = min(size[i], np.uint32(0xFFFF))
        entry.payload = min(payload[i], np.uint32(0xFFFF))
        entry.window = tcp_window[i]
        entry.flags = tcp_flags[i]
        entry.ttl = ttl[i]
        entry.from_low = side == held.forward  # forward: which side is low differs from row to row
        held.number += 1
        held.clock_ns, held.previous_ip_id, held.previous_bytes = clock, ip_id[i], ip_bytes[i]
        state[0] = clock

        forward_is_low = from_low == (side == held.forward)
        row.low_0, row.low_1, row.high_0, row.high_1 = low_0, low_1, high_0, high_1
        row.low_port, row.high_port, row.protocol, row.ip_version = low_port, high_port, protocol[i], ip_version[i]
        row.vlan, row.key_vlan, row.tunnel_id, row.key_tunnel = vlan[i], key_vlan, tunnel_id[i], key_tunnel
        row.forward_is_low = forward_is_low
        row.end_reason = _FORCED
        row.isn = np.uint32(state[2] & 0xFFFFFFFF)  # tells packets of one five-tuple and time apart in their ids
        row.start_ns, row.latest_ns = now, now
        if from_low:
            row.packets_low, row.bytes_low = np.uint64(1), np.uint64(size[i])
        else:
            row.packets_high, row.bytes_high = np.uint64(1), np.uint64(size[i])
        state[2] += 1
        row.entries = min(held.number, k)
        for back in range(row.entries, 0, -1):
            entry = tail[(held.number - back) % k]
            size_out[filled] = entry.size
            from_low_out[filled] = (entry.from_low == 1) == forward_is_low
            time_out[filled] = entry.time_ns
            flags_out[filled] = entry.flags
            window_out[filled] = entry.window
            ttl_out[filled] = entry.ttl
            payload_out[filled] = entry.payload
            filled += 1
    return len(time_ns), filled
