"""Sums and histograms of predicted probabilities by class, so that a page of scores needs no rows."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from flowloom.schemas.models.score_card import PROBABILITY_BINS, ClassProbability

_DIGITS = 6
"""Decimals of means in the card."""


@dataclasses.dataclass(frozen=True)
class ProbabilityCounts:
    """Sums over scored rows of one task, each by class.

    Attributes:
      rows: number of rows.
      total: sum of the probability of each class over all rows, float64 [classes].
      predicted: the same over the rows that are predicted as the class.
      bins: rows that are predicted as the class, by its probability, int64 [classes, PROBABILITY_BINS].
    """

    rows: int
    total: np.ndarray
    predicted: np.ndarray
    bins: np.ndarray

    def __add__(self, other: "ProbabilityCounts") -> "ProbabilityCounts":
        return ProbabilityCounts(
            self.rows + other.rows,
            self.total + other.total,
            self.predicted + other.predicted,
            self.bins + other.bins,
        )


def count_probabilities(probabilities: np.ndarray, chosen: np.ndarray) -> ProbabilityCounts:
    """Returns the counts of rows.

    Args:
      probabilities: probability of each class, float [rows, classes].
      chosen: predicted class of each row, int [rows].
    """
    rows, classes = probabilities.shape
    likeliest = probabilities[np.arange(rows), chosen].astype(np.float64)
    place = np.clip((likeliest * PROBABILITY_BINS).astype(np.int64), 0, PROBABILITY_BINS - 1)
    bins = np.bincount(chosen * PROBABILITY_BINS + place, minlength=classes * PROBABILITY_BINS)
    return ProbabilityCounts(
        rows,
        probabilities.sum(axis=0, dtype=np.float64),
        np.bincount(chosen, weights=likeliest, minlength=classes),
        bins.reshape(classes, PROBABILITY_BINS),
    )


def class_probabilities(counts: Iterable[ProbabilityCounts], values: Sequence[str]) -> dict[str, ClassProbability]:
    """Returns the means and histograms of a task for the score card, by class; empty without rows.

    Args:
      counts: counts of all shards; their order decides the last bits of the sums.
      values: the vocabulary.
    """
    parts = [each for each in counts if each.rows]
    if not parts:
        return {}
    sums = sum(parts[1:], parts[0])
    predicted = sums.bins.sum(axis=1)
    return {
        value: ClassProbability(
            mean=round(float(sums.total[at] / sums.rows), _DIGITS),
            predicted=round(float(sums.predicted[at] / predicted[at]), _DIGITS) if predicted[at] else None,
            bins=tuple(sums.bins[at].tolist()),
        )
        for at, value in enumerate(values)
    }
