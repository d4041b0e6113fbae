"""Means over repeats with their 95 % intervals, and p-values of several comparisons together."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over repeats with its 95 % interval, standard deviation and standard error; a single repeat has none."""

    mean: float
    low: float | None
    high: float | None
    repeats: int
    deviation: float | None
    standard_error: float | None = None

    def p_value(self, bound: float) -> float | None:
        """Returns the two-sided p-value of the hypothesis that the true mean is `bound`; None for one repeat.

        It is at most 0.05 where the interval excludes the bound.
        """
        if self.standard_error is None:
            return None
        distance = abs(self.mean - bound)
        if self.standard_error == 0:
            return 1.0 if distance == 0 else 0.0
        return float(2 * scipy.stats.t.sf(distance / self.standard_error, self.repeats - 1))


def mean_of(values: Sequence[float], test_per_train: float = 0.0) -> Mean:
    """Returns the mean of repeats with the interval of Student's t.

    Repeats that split one dataset again share rows, so their mean varies more than that of independent repeats: its
    squared standard error is (1 / J + n_test / n_train) times the variance of J repeats (Nadeau and Bengio, Inference
    for the Generalization Error, 2003, section 3, "corrected resampled t-test").

    Args:
      values: one value for each repeat.
      test_per_train: test rows per train row, n_test / n_train, of repeats that split one dataset; 0 for repeats that
        differ in their seed alone, whose interval does not extend to other rows.

    Raises:
      ValueError: if there are no repeats, or `test_per_train` is negative.
    """
    if not values:
        raise ValueError("values must hold at least one repeat, got none")
    if test_per_train < 0:
        raise ValueError(f"test_per_train must be >= 0, got {test_per_train}")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Mean(mean, None, None, 1, None)
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    deviation = float(np.std(values, ddof=1))
    error = deviation * math.sqrt(1 / len(values) + test_per_train)
    return Mean(mean, mean - quantile * error, mean + quantile * error, len(values), deviation, error)


def difference_of(ours: Sequence[float], theirs: Sequence[float], test_per_train: float = 0.0) -> Mean:
    """Returns the mean difference of two methods over repeats on the same splits.

    Args:
      ours, theirs: one value for each repeat, in the same order.
      test_per_train: as of `mean_of`.

    Raises:
      ValueError: if the methods have different numbers of repeats.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired repeats must be equally many, got {len(ours)} and {len(theirs)}")
    return mean_of([one - other for one, other in zip(ours, theirs, strict=True)], test_per_train)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that are corrected for their number (Holm, A Simple Sequentially Rejective Test, 1979).

    Whoever rejects the hypotheses whose corrected p-value is at most 0.05 rejects a true one with a probability of at
    most 0.05, however the comparisons depend on each other.

    Examples:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min((len(p_values) - rank) * p_values[place], 1.0))
        corrected[place] = least
    return corrected
