"""Means over repeats with their 95 % intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over repeats with its 95 % interval and standard deviation; a single repeat has neither."""

    mean: float
    low: float | None
    high: float | None
    repeats: int
    deviation: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Returns the mean of repeats with the interval of Student's t.

    Repeats share flows. So their spread shows the effect of splits and first weights, but underestimates the effect of
    other flows (Nadeau and Bengio, Inference for the Generalization Error, 2003).

    Raises:
      ValueError: if there are no repeats.
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
    """Returns the mean difference of two methods over repeats on the same splits.

    Raises:
      ValueError: if the methods have different numbers of repeats.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired repeats must be equally many, got {len(ours)} and {len(theirs)}")
    return mean_of([one - other for one, other in zip(ours, theirs, strict=True)])
