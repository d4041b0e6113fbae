"""AfterImage, the features of Kitsune: damped incremental statistics of the streams of each packet.

Source: Mirsky et al., "Kitsune: An Ensemble of Autoencoders for Online Network Intrusion Detection", NDSS 2018, section
on the feature extractor. Three numbers for each decay factor describe a stream, updated in constant time:

    weight   w <- u + 1,  where u = w * 2^(-decay * t) is left after t seconds since the stream's latest packet
    mean     m <- m + (x - m) / w
    squares  M <- M * 2^(-decay * t) + (x - m before)^2 * u / w,  variance M / w

This is the paper's (w, LS, SS) without the difference of large numbers in its variance. A stream and the one in the
opposite direction share a sum of products S of a packet's residual x - m and the last one of the other direction, and
its weight, damped by the time since the latest packet of either: covariance S / weight. As residuals are not damped,
the correlation of a direction that was silent for long can leave [-1, 1], by any factor; it is cut there.

Packets earlier than the latest of their stream are not damped, as in the authors' code. That code adds each packet to S
twice, except a stream's first, returns variances instead of deviations, and has 100 features in its later version; this
module has the paper's 115.
"""

from collections.abc import Sequence

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.arrays.hash_table import HASH_KEY, fill_slots, find_slot

DECAYS = (5.0, 3.0, 1.0, 0.1, 0.01)
"""Decay factors in 1/s: after t seconds a packet weighs 2^(-decay * t)."""

_OF_ONE = ("weight", "mean", "std")
_OF_TWO = ("magnitude", "radius", "covariance", "pcc")

STREAMS: dict[str, tuple[str, ...]] = {
    "MI_dir": _OF_ONE,
    "H": _OF_ONE,
    "HH": _OF_ONE + _OF_TWO,
    "HH_jit": _OF_ONE,
    "HpHp": _OF_ONE + _OF_TWO,
}
"""Streams of a packet, and the statistics of each: frame sizes (bytes) by source MAC and IP address,
by source address, by channel (source and destination address), gaps (seconds) by channel, sizes by socket (addresses,
ports and protocol). Statistics of two are over a stream and the one in the opposite direction."""

_COLUMNS = ("time_ns", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "wire_bytes")

_SOURCE, _CHANNEL, _SOCKET = 0, 1, 2
_FIRST_ROWS = 1 << 10
_LEAST = 1e-9
"""Least product of two deviations (bytes squared) that is correlated; rounding would decide about a smaller one."""

# columns of a row for each decay: (w, m, M) of either direction, (S, its weight), last residuals, (w, m, M) of gaps
_SHARED, _RESIDUAL, _GAPS, _WIDTH = 6, 8, 10, 16


def afterimage_features(decays: Sequence[float] = DECAYS) -> tuple[str, ...]:
    """Returns the names of all features in order: by stream, then decay, then statistic."""
    return tuple(
        f"{stream}_L{decay:g}_{statistic}"
        for stream, statistics in STREAMS.items()
        for decay in decays
        for statistic in statistics
    )


class AfterImage:
    """Features of packets in captured order, the same however the packets are cut into batches.

    Memory is bounded: about 130 bytes for each decay factor and row, where a row is a source, a channel or a socket. At
    `max_rows` rows the half that was silent longest is forgotten, and begins anew with its next packet.

    Source MAC addresses are not decoded. Streams by MAC and IP address are replaced by streams by IP address, which
    differ from them only where hosts share or change addresses.

    Args:
      decays: decay factors in 1/s.
      max_rows: the most rows in memory.

    Attributes:
      features: names of the features, in order.
    """

    def __init__(self, decays: Sequence[float] = DECAYS, max_rows: int = 1 << 19):
        if not decays or not all(0 < decay < np.inf for decay in decays):
            raise FlowloomError(f"decays must be finite numbers > 0, at least one, got {list(decays)}")
        if max_rows < 4:  # a packet needs three rows at once
            raise FlowloomError(f"max_rows must be at least 4, got {max_rows}")
        self.features = afterimage_features(decays)
        self._decays = np.array(decays, np.float64)
        self._max_rows = max_rows
        self._count = np.zeros(1, np.int64)
        self._allocate(min(max_rows, _FIRST_ROWS))

    def update(self, packets: pa.RecordBatch) -> np.ndarray:
        """Returns the features of packets that follow all packets before, float64 [rows, features].

        Args:
          packets: `schemas.arrow.rows.PACKETS`, or its columns for hosts, ports, protocol, time and frame size.
        """
        columns = [view(packets[name]) for name in _COLUMNS]
        out = np.empty((packets.num_rows, len(self.features)))
        done = 0
        while True:
            done = _update(
                *columns, done, self._decays, self._slots, self._keys, self._latest_ns, self._rows, self._count, out,
                HASH_KEY,
            )  # fmt: skip
            if done == len(out):
                return out
            self._make_room()

    def _allocate(self, rows: int) -> None:
        self._keys = np.empty((rows, 5), np.uint64)
        self._latest_ns = np.empty((rows, 2), np.int64)
        self._rows = np.empty((rows, len(self._decays), _WIDTH))
        self._slots = np.zeros(2 << (rows - 1).bit_length(), np.int64)

    def _make_room(self) -> None:
        """Doubles the rows, or, at `max_rows`, keeps the half with the latest packets."""
        kept = np.arange(self._count[0])
        size = len(self._keys)
        if size < self._max_rows:
            size = min(2 * size, self._max_rows)
        else:
            order = np.argsort(self._latest_ns.max(axis=1), kind="stable")
            kept = np.sort(order[size // 2 :])
        old = self._keys[kept], self._latest_ns[kept], self._rows[kept]
        self._allocate(size)
        self._count[0] = len(kept)
        for new, values in zip((self._keys, self._latest_ns, self._rows), old, strict=True):
            new[: len(kept)] = values
        fill_slots(self._slots, self._keys, self._count[0], HASH_KEY)


@numba.njit(nogil=True, cache=True)
def _row(slots, keys, latest_ns, rows, count, key, now, hash_key):
    """Returns the row of a key, a new one for a new key, -1 if there is no room."""
    at = find_slot(slots, keys, key, hash_key)
    if slots[at]:
        return slots[at] - 1
    row = count[0]
    if row == len(keys):
        return np.int64(-1)
    count[0] += 1
    slots[at] = row + 1
    for word in range(5):
        keys[row, word] = key[word]
    latest_ns[row] = now
    rows[row] = 0.0
    return row


@numba.njit(nogil=True, cache=True)
def _add(stream, value, damping):
    """Adds a value to the three numbers of a stream, damped by a factor, and returns its residual."""
    left = stream[0] * damping
    before = value - stream[1]
    stream[0] = left + 1.0
    residual = before * left / stream[0]
    stream[1] += before / stream[0]
    stream[2] = stream[2] * damping + before * residual
    return residual


@numba.njit(nogil=True, cache=True)
def _write_one(stream, out):
    """Writes weight, mean and standard deviation of a stream."""
    out[0] = stream[0]
    out[1] = stream[1]
    out[2] = np.sqrt(stream[2] / stream[0])


@numba.njit(nogil=True, cache=True)
def _write_both(row, side, out):
    """Writes magnitude, radius, covariance and correlation of both directions; one without packets counts as 0."""
    own, other = row[3 * side : 3 * side + 3], row[3 - 3 * side : 6 - 3 * side]
    variance = own[2] / own[0]
    variance_other = other[2] / other[0] if other[0] > 0 else 0.0
    out[0] = np.sqrt(own[1] ** 2 + other[1] ** 2)
    out[1] = np.sqrt(variance**2 + variance_other**2)
    out[2] = row[_SHARED] / row[_SHARED + 1]
    deviations = np.sqrt(variance) * np.sqrt(variance_other)
    out[3] = min(max(out[2] / deviations, -1.0), 1.0) if deviations > _LEAST else 0.0


@numba.njit(nogil=True, cache=True)
def _add_both(rows, latest_ns, at, side, now, size, decays, out, gaps):
    """Adds a packet to a stream with an opposite direction; writes statistics of both, and of gaps if wanted."""
    fresh = rows[at, 0, 3 * side] == 0
    alone = 0.0 if fresh else max(now - latest_ns[at, side], 0) * 1e-9
    since = max(now - max(latest_ns[at, 0], latest_ns[at, 1]), 0) * 1e-9
    for d in range(len(decays)):
        row = rows[at, d]
        damping = 2.0 ** (-decays[d] * alone)
        stream = row[3 * side : 3 * side + 3]
        residual = _add(stream, size, damping)
        damping_both = 2.0 ** (-decays[d] * since)
        row[_SHARED] = row[_SHARED] * damping_both + residual * row[_RESIDUAL + 1 - side]
        row[_SHARED + 1] = row[_SHARED + 1] * damping_both + 1.0
        row[_RESIDUAL + side] = residual
        _write_one(stream, out[7 * d : 7 * d + 3])
        _write_both(row, side, out[7 * d + 3 : 7 * d + 7])
        if len(gaps):
            jitter = row[_GAPS + 3 * side : _GAPS + 3 * side + 3]
            _add(jitter, alone, damping)
            _write_one(jitter, gaps[3 * d : 3 * d + 3])
    latest_ns[at, side] = now if fresh else max(latest_ns[at, side], now)


@numba.njit(nogil=True, cache=True)
def _update(
    time_ns, src, dst, src_port, dst_port, protocol, wire_bytes, begin,
    decays, slots, keys, latest_ns, rows, count, out, hash_key,
):  # fmt: skip
    """Writes the features of packets from `begin` on; returns the first one without room, or the number of packets."""
    zero = np.uint64(0)
    count_of = len(decays)
    for i in range(begin, len(time_ns)):
        now, size = time_ns[i], np.float64(wire_bytes[i])
        a_0, a_1, b_0, b_1 = src[i, 0], src[i, 1], dst[i, 0], dst[i, 1]
        a_port, b_port = np.uint64(src_port[i]), np.uint64(dst_port[i])
        swap = (a_0, a_1) > (b_0, b_1)
        swap_ends = (a_0, a_1, a_port) > (b_0, b_1, b_port)
        source = _row(slots, keys, latest_ns, rows, count, (a_0, a_1, zero, zero, np.uint64(_SOURCE)), now, hash_key)
        key = (b_0, b_1, a_0, a_1, np.uint64(_CHANNEL)) if swap else (a_0, a_1, b_0, b_1, np.uint64(_CHANNEL))
        channel = _row(slots, keys, latest_ns, rows, count, key, now, hash_key)
        rest = (np.uint64(protocol[i]) << np.uint64(8)) | np.uint64(_SOCKET)
        if swap_ends:
            key = (b_0, b_1, a_0, a_1, (b_port << np.uint64(48)) | (a_port << np.uint64(32)) | rest)
        else:
            key = (a_0, a_1, b_0, b_1, (a_port << np.uint64(48)) | (b_port << np.uint64(32)) | rest)
        socket = _row(slots, keys, latest_ns, rows, count, key, now, hash_key)
        if source < 0 or channel < 0 or socket < 0:
            return i

        since = max(now - latest_ns[source, 0], 0) * 1e-9
        for d in range(count_of):
            stream = rows[source, d, :3]
            _add(stream, size, 2.0 ** (-decays[d] * since))
            _write_one(stream, out[i, 3 * d : 3 * d + 3])
        latest_ns[source, 0] = max(latest_ns[source, 0], now)
        out[i, 3 * count_of : 6 * count_of] = out[i, : 3 * count_of]
        _add_both(
            rows, latest_ns, channel, np.int64(swap), now, size, decays,
            out[i, 6 * count_of : 13 * count_of], out[i, 13 * count_of : 16 * count_of],
        )  # fmt: skip
        _add_both(
            rows, latest_ns, socket, np.int64(swap_ends), now, size, decays, out[i, 16 * count_of :], out[i, :0]
        )  # fmt: skip
    return len(time_ns)
