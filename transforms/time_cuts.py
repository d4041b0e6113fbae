"""Time cuts: the starts at which training ends and testing begins, from a sketch of all starts that merges exactly."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from flowloom.transforms.columns import view
from flowloom.transforms.quotas import quotas

MOST_BINS = 1 << 16
"""Occupied bins of a sketch at most: one mebibyte, and cuts within 1/65,536 of the occupied time."""


@dataclasses.dataclass(frozen=True, eq=False)
class StartSketch:
    """How many flows start in each bin of 2^shift ns, ascending; bins without any are left out.

    The shift is the smallest one that leaves at most `MOST_BINS` bins. A part of the flows never needs a larger one
    than all of them, so that any order of merging ends in the same sketch, and a count up to a bin's edge is exact.
    """

    shift: int = 0
    bins: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def __add__(self, other: "StartSketch") -> "StartSketch":
        shift = max(self.shift, other.shift)
        bins = np.concatenate([self.bins >> (shift - self.shift), other.bins >> (shift - other.shift)])
        return _binned(shift, bins, np.concatenate([self.counts, other.counts]))


def sketch_starts(flows: pa.RecordBatch) -> StartSketch:
    """Sketch the starts of flows."""
    starts = view(flows["start"])
    return _binned(0, starts, np.ones(len(starts), np.int64))


def merge_sketches(sketches: Iterable[StartSketch]) -> StartSketch:
    """Add up sketches."""
    return sum(sketches, StartSketch())


def cut_starts(sketch: StartSketch, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the starts, ns since the epoch, at which each split after the first begins.

    Each cut is the edge of a bin up to which the number of flows comes nearest to the quota; the earlier one of two.
    """
    flows = int(sketch.counts.sum())
    before = np.concatenate([[0], np.cumsum(sketch.counts)])
    edges = np.concatenate([sketch.bins[:1], sketch.bins + 1]) << sketch.shift
    targets = np.cumsum(quotas(flows, shares))[:-1]
    return tuple(int(edges[np.abs(before - target).argmin()]) if flows else 0 for target in targets)


def _binned(shift: int, bins: np.ndarray, counts: np.ndarray) -> StartSketch:
    while True:
        bins, place = np.unique(bins, return_inverse=True)
        summed = np.zeros(len(bins), np.int64)
        np.add.at(summed, place, counts)
        if len(bins) <= MOST_BINS:
            return StartSketch(shift, bins, summed)
        shift, bins, counts = shift + 1, bins >> 1, summed
