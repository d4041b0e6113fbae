"""Moments of sequence columns as exact integers, the same bits for any order of merging."""

import dataclasses
import math

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.logarithm import natural_log
from flowloom.transforms.arrays.columns import view

_FRACTION = 32
"""Binary digits kept of a logarithm and of its square; 2^-33 is far below the precision of normalisation."""
_UNIT = 2.0**_FRACTION
_natural_log = numba.njit(nogil=True)(natural_log)


@dataclasses.dataclass(frozen=True)
class MomentStatistics:
    """Count, means, population deviations and extremes of one channel; `log1p` is ln(1 + max(x, 0))."""

    count: int
    mean: float
    std: float
    log1p_mean: float
    log1p_std: float
    minimum: float
    maximum: float


@dataclasses.dataclass(frozen=True)
class Moments:
    """Exact sums over the values of one channel; `log` is ln(1 + max(x, 0)) in units of 2^-32."""

    count: int = 0
    total: int = 0
    total_squares: int = 0
    log_total: int = 0
    log_squares: int = 0
    minimum: int | None = None
    maximum: int | None = None

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.total_squares + other.total_squares,
            self.log_total + other.log_total,
            self.log_squares + other.log_squares,
            min((m for m in (self.minimum, other.minimum) if m is not None), default=None),
            max((m for m in (self.maximum, other.maximum) if m is not None), default=None),
        )

    def statistics(self) -> MomentStatistics:
        """Returns means and population deviations, rounded once from exact sums.

        Raises:
          ValueError: if no value was counted.
        """
        if not self.count or self.minimum is None or self.maximum is None:
            raise ValueError("statistics need at least 1 value, got 0")
        unit = 1 << _FRACTION
        # n * sum(x^2) - sum(x)^2 is exact; logarithms are squared before they are rounded: theirs may be just below 0
        spread = self.count * self.total_squares - self.total**2
        log_spread = max(0, self.count * self.log_squares * unit - self.log_total**2)
        return MomentStatistics(
            count=self.count,
            mean=self.total / self.count,
            std=math.sqrt(spread) / self.count,
            log1p_mean=self.log_total / (self.count * unit),
            log1p_std=math.sqrt(log_spread) / (self.count * unit),
            minimum=float(self.minimum),
            maximum=float(self.maximum),
        )


def channel_moments(values: np.ndarray) -> Moments:
    """Sums one channel's integer values [packets], fewer than 2^31 of them."""
    if not len(values):
        return Moments()
    if values.dtype.itemsize <= 2:
        return _counted_moments(values)
    sums = _wide_sums(values.astype(np.int64, copy=False)).tolist()
    total, squares_low, squares_cross, squares_high, log_total, log_squares = (
        (high << 64) + low for low, high in zip(sums[::2], sums[1::2], strict=True)
    )
    return Moments(
        count=len(values),
        total=total - (len(values) << 63),
        total_squares=squares_low + (squares_cross << 33) + (squares_high << 64),
        log_total=log_total,
        log_squares=log_squares,
        minimum=int(values.min()),
        maximum=int(values.max()),
    )


def sequence_moments(flows: pa.RecordBatch) -> dict[str, Moments]:
    """Sums every sequence column of flows over all their packets."""
    return {name: channel_moments(view(flows[name].flatten())) for name in SEQUENCES}


def _counted_moments(values: np.ndarray) -> Moments:
    """Sums values of at most 16 bits by the count of each distinct value; no sum reaches 2^63."""
    lowest = int(values.min())
    counts = np.bincount(values.astype(np.int64) - lowest)
    distinct = np.flatnonzero(counts)
    counts, distinct = counts[distinct], distinct + lowest
    logs = _logarithms(distinct)
    return Moments(
        count=len(values),
        total=int(counts @ distinct),
        total_squares=int(counts @ distinct**2),
        log_total=_weighted_sum(counts, logs),
        log_squares=_weighted_sum(counts, logs * logs),
        minimum=lowest,
        maximum=int(distinct[-1]),
    )


def _weighted_sum(counts: np.ndarray, values: np.ndarray) -> int:
    fixed = np.rint(np.ldexp(values, _FRACTION)).astype(np.int64)
    return (int(counts @ (fixed >> 20)) << 20) + int(counts @ (fixed & 0xFFFFF))


@numba.njit(nogil=True, cache=True)
def _logarithms(values):
    """Returns ln(1 + max(x, 0)) of each value, float64."""
    logs = np.zeros(len(values))
    for at, x in enumerate(values):
        if x > 0:
            logs[at] = _natural_log(1.0 + np.float64(x))
    return logs


@numba.njit(inline="always")
def _add(sums, at, term):
    """Adds to the 128-bit sum whose low word is at a position."""
    low = sums[at] + term
    sums[at + 1] += np.uint64(low < term)
    sums[at] = low


@numba.njit(nogil=True, cache=True)
def _wide_sums(values):
    """Returns 128-bit sums, low word first: x + 2^63; low, mixed and high products of |x|^2; logarithms and squares."""
    sums = np.zeros(12, np.uint64)
    half = np.uint64(1) << np.uint64(63)
    for x in values:
        _add(sums, 0, np.uint64(x) ^ half)
        size = np.uint64(x) if x >= 0 else ~np.uint64(x) + np.uint64(1)
        high, low = size >> np.uint64(32), size & np.uint64(0xFFFFFFFF)
        _add(sums, 2, low * low)
        _add(sums, 4, high * low)
        _add(sums, 6, high * high)
        if x > 0:
            log = _natural_log(1.0 + np.float64(x))
            _add(sums, 8, np.uint64(np.rint(log * _UNIT)))
            _add(sums, 10, np.uint64(np.rint(log * log * _UNIT)))
    return sums
