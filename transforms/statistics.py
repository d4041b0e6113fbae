"""Moments of sequence columns as exact integers: any order of merging gives the same bits."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from flowloom.schemas.card import ChannelStatistics
from flowloom.schemas.rows import SEQUENCES
from flowloom.transforms.columns import view

_FRACTION = 32
"""Binary digits kept of a logarithm and of its square; 2^-33 is far below what normalisation can feel."""
_STRETCH = 1 << 16
"""Values summed at a time: squared logarithms below 2^11 with 32 digits leave room for 2^20 of them in an int64."""
_LIMB = 21
"""Binary digits of the three parts an int64 is squared by; the sum of a stretch of their products fits an int64."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over the values of one channel; `log` is ln(1 + max(x, 0)) in units of 2^-32."""

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

    def statistics(self) -> ChannelStatistics:
        """Return means and population deviations, rounded once from exact sums.

        Raises:
          ValueError: if no value was counted.
        """
        if not self.count or self.minimum is None or self.maximum is None:
            raise ValueError("statistics need at least 1 value, got 0")
        unit = 1 << _FRACTION
        # n * sum(x^2) - sum(x)^2 is exact; logarithms are squared before they are rounded: theirs may be just below 0
        spread = self.count * self.total_squares - self.total**2
        log_spread = max(0, self.count * self.log_squares * unit - self.log_total**2)
        return ChannelStatistics(
            count=self.count,
            mean=self.total / self.count,
            std=math.sqrt(spread) / self.count,
            log1p_mean=self.log_total / (self.count * unit),
            log1p_std=math.sqrt(log_spread) / (self.count * unit),
            minimum=float(self.minimum),
            maximum=float(self.maximum),
        )


def channel_moments(values: np.ndarray) -> Moments:
    """Sum one channel's integer values [packets]."""
    return sum((_stretch_moments(values[at : at + _STRETCH]) for at in range(0, len(values), _STRETCH)), Moments())


def sequence_moments(flows: pa.RecordBatch) -> dict[str, Moments]:
    """Sum every sequence column of flows over all their packets."""
    return {name: channel_moments(view(flows[name].flatten())) for name in SEQUENCES}


def merge_moments(parts: Iterable[dict[str, Moments]]) -> dict[str, Moments]:
    """Add up the moments of several shards by channel."""
    merged: dict[str, Moments] = {}
    for part in parts:
        for name, moments in part.items():
            merged[name] = merged.get(name, Moments()) + moments
    return merged


def _stretch_moments(values: np.ndarray) -> Moments:
    wide = values.astype(np.int64)
    logs = np.log1p(np.maximum(wide, 0).astype(np.float64))
    # x = high * 2^42 + middle * 2^21 + low; only `high` carries the sign
    low = wide & ((1 << _LIMB) - 1)
    middle = (wide >> _LIMB) & ((1 << _LIMB) - 1)
    high = wide >> 2 * _LIMB
    total = (int(high.sum()) << 2 * _LIMB) + (int(middle.sum()) << _LIMB) + int(low.sum())
    squares = (
        (int(high @ high) << 4 * _LIMB)
        + (2 * int(high @ middle) << 3 * _LIMB)
        + (2 * int(high @ low) + int(middle @ middle) << 2 * _LIMB)
        + (2 * int(middle @ low) << _LIMB)
        + int(low @ low)
    )
    return Moments(
        count=len(wide),
        total=total,
        total_squares=squares,
        log_total=_fixed_point_sum(logs),
        log_squares=_fixed_point_sum(logs * logs),
        minimum=int(wide.min()),
        maximum=int(wide.max()),
    )


def _fixed_point_sum(values: np.ndarray) -> int:
    return int(np.rint(np.ldexp(values, _FRACTION)).astype(np.int64).sum())
