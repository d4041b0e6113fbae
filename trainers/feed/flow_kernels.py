"""Kernels of the flow features: scale packets once, then gather the first k of each flow, augmented or not."""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.logarithm import LN_2, natural_log

FROM_THE_FIRST = np.empty(0, np.int64)
"""Starts for `gather_packets` when every flow begins at its first packet."""


class PacketColumns(NamedTuple):
    """Flat values of the sequence columns, one per packet, in the order of `SEQUENCES`; empty where not selected."""

    size: npt.NDArray[np.uint16]
    direction: npt.NDArray[np.int8]
    gap: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    window: npt.NDArray[np.uint16]
    ttl: npt.NDArray[np.uint8]
    payload: npt.NDArray[np.uint16]


class FirstFeatures(NamedTuple):
    """Position of the first feature of each channel, in the order of `CHANNELS`; -1 where not selected."""

    size: int
    gap: int
    direction: int
    tcp_flags: int
    protocol: int
    ttl: int
    window: int
    payload: int


class ScalingTables(NamedTuple):
    """Scaled value of every possible field value; gaps have too many values for a table, so they have constants."""

    size: npt.NDArray[np.float32]
    window: npt.NDArray[np.float32]
    ttl: npt.NDArray[np.float32]
    payload: npt.NDArray[np.float32]
    gap_unit: float
    """Units of `gap_limit` per nanosecond."""
    gap_limit: float
    """Gaps are clipped to this limit; 0 takes their logarithm instead."""
    gap_shift: float
    gap_scale: float


_MANTISSA_BITS = 52
_LOG_BITS = 11  # leading bits of the mantissa that index the tables
_MANTISSAS = 1.0 + np.arange(1 << _LOG_BITS) / (1 << _LOG_BITS)
_RECIPROCALS = 1.0 / _MANTISSAS
_LOGARITHMS = np.array([natural_log(mantissa) for mantissa in _MANTISSAS.tolist()])

_natural_log = numba.njit(nogil=True)(natural_log)


@numba.njit(nogil=True, cache=True)
def logarithms(values: Any) -> Any:
    """Returns the natural logarithm of each value, float64 [N], the same on every processor."""
    found = np.empty(len(values))
    for at, value in enumerate(values):
        found[at] = _natural_log(value)
    return found


@numba.njit(nogil=True, cache=True, inline="always")
def _log1p(x: float) -> float:
    """Returns ln(1 + x) for x >= 0, accurate to 1e-12.

    It reads a table of mantissas: the C library's function would take half of the time of the scaling.
    """
    bits = np.float64(1.0 + x).view(np.int64)
    near = (bits >> (_MANTISSA_BITS - _LOG_BITS)) & ((1 << _LOG_BITS) - 1)
    mantissa = np.int64((bits & ((1 << _MANTISSA_BITS) - 1)) | (1023 << _MANTISSA_BITS)).view(np.float64)
    rest = mantissa * _RECIPROCALS[near] - 1.0  # below 2^-11
    return ((bits >> _MANTISSA_BITS) - 1023) * LN_2 + _LOGARITHMS[near] + rest * (1.0 - rest * (0.5 - rest / 3.0))


@numba.njit(nogil=True, cache=True)
def scale_packets(
    offsets: Any, kept: Any, columns: Any, protocol: Any, tables: Any, signed: bool, first: Any, scaled: Any
) -> None:
    """Writes every selected channel of the first packets of each flow.

    Args:
      offsets: int [N + 1], bounds of the flows in `columns`.
      kept: int [N + 1], bounds of the flows in `scaled`.
      columns: `PacketColumns`.
      protocol: uint8 [N], the IP protocol of each flow; empty where not selected.
      tables: `ScalingTables`.
      signed: gives sizes the sign of the direction.
      first: `FirstFeatures`.
      scaled: float32 [kept[N], C], the output.
    """
    for row in range(kept.shape[0] - 1):
        for place in range(kept[row], kept[row + 1]):
            packet = offsets[row] + place - kept[row]
            out = scaled[place]
            if first.size >= 0:
                out[first.size] = tables.size[columns.size[packet]]
                if signed and columns.direction[packet] < 0:
                    out[first.size] = -out[first.size]
            if first.gap >= 0:
                gap = max(columns.gap[packet], 0) * tables.gap_unit
                gap = min(gap, tables.gap_limit) if tables.gap_limit > 0 else _log1p(gap)
                out[first.gap] = (gap - tables.gap_shift) * tables.gap_scale
            if first.direction >= 0:
                out[first.direction] = columns.direction[packet]
            if first.tcp_flags >= 0:
                for bit in range(8):
                    out[first.tcp_flags + bit] = (columns.flags[packet] >> bit) & 1
            if first.protocol >= 0:
                out[first.protocol : first.protocol + 4] = 0.0
                number = protocol[row]
                kind = 0 if number == 6 else 1 if number == 17 else 2 if number == 1 or number == 58 else 3
                out[first.protocol + kind] = 1.0
            if first.ttl >= 0:
                out[first.ttl] = tables.ttl[columns.ttl[packet]]
            if first.window >= 0:
                out[first.window] = tables.window[columns.window[packet]]
            if first.payload >= 0:
                out[first.payload] = tables.payload[columns.payload[packet]]


@numba.njit(nogil=True, cache=True)
def gather_packets(
    positions: Any, starts: Any, offsets: Any, packets: Any,
    padded_in_front: bool, at_gap: int, no_gap: Any, sequence: Any, lengths: Any,
) -> None:  # fmt: skip
    """Copies k packets of each flow and pads them with zeros.

    Args:
      positions: int64 [N], the flows to copy.
      starts: int64 [N], the packet that each copy begins at, or `FROM_THE_FIRST`.
      offsets: int [flows + 1], bounds of the flows in `packets`.
      packets: float32 [packets * C], the scaled features.
      padded_in_front: puts the padding before the packets, not after them.
      at_gap: position of the gap feature; -1 where not selected.
      no_gap: scaled gap of a first packet, written where `starts` are given.
      sequence: float32 [N, k, C], an output.
      lengths: int32 [N], an output.
    """
    _, k, features = sequence.shape
    flat = sequence.reshape(-1, k * features)
    for n in range(positions.shape[0]):
        start, stop = np.int64(offsets[positions[n]]), np.int64(offsets[positions[n] + 1])
        if starts.shape[0] > 0:
            start += max(min(starts[n], stop - start - 1), 0)
        length = min(stop - start, k)
        lengths[n] = length
        first = k - length if padded_in_front else 0
        flat[n, : first * features] = 0.0
        flat[n, first * features : (first + length) * features] = packets[
            start * features : (start + length) * features
        ]
        flat[n, (first + length) * features :] = 0.0
        if starts.shape[0] > 0 and at_gap >= 0 and length > 0:
            sequence[n, first, at_gap] = no_gap


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MIX = np.uint64(0x94D049BB133111EB)
_FACTOR_DRAW, _MIRROR_DRAW, _FIRST_LOSS_DRAW = 0, 1, 2


@numba.njit(nogil=True, cache=True, inline="always")
def _uniform(seed: Any, draw: int) -> float:
    """Returns a number in [0, 1) of a seed: the draw-th output of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = seed + np.uint64(draw + 1) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST_MIX
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND_MIX
    return np.float64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@numba.njit(nogil=True, cache=True)
def gather_augmented(
    positions: Any, starts: Any, seeds: Any, begins: Any, ends: Any, packets: Any, loss: float, most_lost: int,
    lowest: float, highest: float, mirror: float, at_gap: int, at_direction: int, sequence: Any, lengths: Any,
) -> None:  # fmt: skip
    """Copies k packets of each flow with the changes of `Augmentation`, and pads them with zeros.

    The choices for a row depend on its seed alone, those for a packet also on its position in the flow.

    Args:
      positions: int64 [N], the flows to copy.
      starts: int64 [N], the packet that each copy begins at, at most the flow's last one.
      seeds: uint64 [N], of the random choices.
      begins: int [flows], the first packet of each flow in `packets`.
      ends: int [flows], the packet behind the last one of each flow.
      packets: float32 [packets * C], the features with gaps that can be added up.
      loss: probability that a packet is lost.
      most_lost: largest number of packets that a copy loses.
      lowest: smallest factor of the gaps.
      highest: largest factor of the gaps.
      mirror: probability that the directions are exchanged.
      at_gap: position of the gap feature; -1 where not selected.
      at_direction: position of the direction; -1 where not selected.
      sequence: float32 [N, k, C], an output.
      lengths: int32 [N], an output.
    """
    _, k, features = sequence.shape
    for n in range(positions.shape[0]):
        first, stop = np.int64(begins[positions[n]]), np.int64(ends[positions[n]])
        factor = lowest + (highest - lowest) * _uniform(seeds[n], _FACTOR_DRAW)
        mirrored = at_direction >= 0 and _uniform(seeds[n], _MIRROR_DRAW) < mirror
        kept, lost, waited = 0, 0, 0.0
        for packet in range(first + max(min(starts[n], stop - first - 1), 0), stop):
            if kept == k:
                break
            values = packets[packet * features : (packet + 1) * features]
            can_be_lost = lost < most_lost and (kept > 0 or packet + 1 < stop)
            if can_be_lost and _uniform(seeds[n], _FIRST_LOSS_DRAW + packet - first) < loss:
                lost += 1
                if at_gap >= 0:
                    waited += values[at_gap]
                continue
            sequence[n, kept] = values
            if at_gap >= 0:
                gap = values[at_gap] + waited if kept > 0 or packet == first else 0.0
                sequence[n, kept, at_gap] = gap * factor
                waited = 0.0
            if mirrored:
                sequence[n, kept, at_direction] = 0.0 - values[at_direction]
            kept += 1
        sequence[n, kept:] = 0.0
        lengths[n] = kept
