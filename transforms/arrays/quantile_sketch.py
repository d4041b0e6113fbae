"""Order sketches: histograms of integers that merge exactly in any order, for quantiles over all workers."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from flowloom.transforms.arrays.apportion import quotas

MOST_BINS = 1 << 16
"""Most occupied bins of a sketch: one mebibyte, and cuts within 1/65,536 of the occupied range."""


@dataclasses.dataclass(frozen=True, eq=False)
class OrderSketch:
    """Counts of values in bins of 2^shift integers, ascending, without empty bins.

    The shift is the smallest with at most `MOST_BINS` bins. A part of the values never needs a larger shift than all of
    them, so that any order of merging gives the same sketch, and a count up to a bin's edge is exact.
    """

    shift: int = 0
    bins: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def __add__(self, other: "OrderSketch") -> "OrderSketch":
        shift = max(self.shift, other.shift)
        bins = np.concatenate([self.bins >> (shift - self.shift), other.bins >> (shift - other.shift)])
        return _binned(shift, bins, np.concatenate([self.counts, other.counts]))


def sketch_order(values: np.ndarray) -> OrderSketch:
    """Sketches int64 values."""
    return _binned(0, values, np.ones(len(values), np.int64))


def merge_sketches(sketches: Iterable[OrderSketch]) -> OrderSketch:
    """Adds up sketches."""
    return sum(sketches, OrderSketch())


def cut_by_shares(sketch: OrderSketch, shares: Sequence[float]) -> tuple[int, ...]:
    """Returns the values at which each share after the first begins.

    Each cut is the lower edge of an occupied bin: the one with the number of values below it nearest to the quota, and
    the lower of two that are equally near.
    """
    values = int(sketch.counts.sum())
    below = np.concatenate([[0], np.cumsum(sketch.counts)])
    edges = np.concatenate([sketch.bins, sketch.bins[-1:] + 1]) << sketch.shift
    targets = np.cumsum(quotas(values, shares))[:-1]
    return tuple(int(edges[np.abs(below - target).argmin()]) if values else 0 for target in targets)


def _binned(shift: int, bins: np.ndarray, counts: np.ndarray) -> OrderSketch:
    while True:
        bins, place = np.unique(bins, return_inverse=True)
        summed = np.zeros(len(bins), np.int64)
        np.add.at(summed, place, counts)
        if len(bins) <= MOST_BINS:
            return OrderSketch(shift, bins, summed)
        shift, bins, counts = shift + 1, bins >> 1, summed
