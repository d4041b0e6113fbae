"""Means over repeats with their 95 % intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over repeats, bounds of its 95 % interval, and standard deviation; of a single repeat these are None."""

    mean: float
    low: float | None
    high: float | None
    repeats: int
    deviation: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of repeats with the interval of Student's t.

    Repeats share flows, so that their spread tells how much the choice of splits and weights matters, and too little of
    how much other flows would (Nadeau and Bengio, Inference for the Generalization Error, 2003).

    Raises:
      ValueError: if there are none.
    """
    if not values:
        raise ValueError("values must hold at least one repeat, got none")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Mean(mean, None, None, 1, None)
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    deviation = float(np.std(values, ddof=1))
    half = quantile * deviation / math.sqrt(len(values))
    return Mean(mean, mean - half, mean + half, len(values), deviation)


def difference_of(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Return the mean of paired differences: one method's repeats less another's on the same splits.

    Raises:
      ValueError: if the repeats are not as many.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired repeats must be as many, got {len(ours)} and {len(theirs)}")
    return mean_of([one - other for one, other in zip(ours, theirs, strict=True)])
