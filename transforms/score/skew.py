"""Skew: differences between scored rows and the rows of a model's training, feature by feature."""

import math

import numpy as np

from flowloom.schemas.logarithm import LN_2, natural_log
from flowloom.schemas.models.feature_profile import FeatureProfile, bin_name
from flowloom.schemas.models.score_card import FeatureSkew, ModelSkew


def model_skew(trained: FeatureProfile, scored: FeatureProfile, threshold: float) -> ModelSkew | None:
    """Compares two profiles with the same k; returns None if either has no rows.

    A feature is skewed if the Jensen-Shannon divergence of its histograms exceeds `threshold` plus the noise: small
    samples differ by chance alone.
    """
    if not trained.rows or not scored.rows:
        return None
    names = [name for name in trained.counts if name in scored.counts]
    features = [
        _skew(name, trained.counts[name], scored.counts[name], trained, scored, threshold, name) for name in names
    ]
    classes = [
        _skew(task, tuple(counts.values()), tuple(scored.classes[task].values()), trained, scored, threshold)
        for task, counts in trained.classes.items()
        if any(counts.values()) and any(scored.classes.get(task, {}).values())
    ]
    return ModelSkew(
        threshold=threshold,
        rows=scored.rows,
        trained_rows=trained.rows,
        features=tuple(sorted(features, key=lambda skew: (-skew.jensen_shannon, skew.name))),
        classes=tuple(classes),
    )


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the Jensen-Shannon divergence of two histograms in bits, from 0 to 1 (Lin 1991, equation 4.1)."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def divergence(share: np.ndarray) -> float:
        # exact sums and our own logarithm, so that a score card has the same bytes on every processor
        terms = zip(share.tolist(), middle.tolist(), strict=True)
        return math.fsum(part * natural_log(part / half) for part, half in terms if part > 0) / LN_2

    return min(1.0, max(0.0, (divergence(p) + divergence(q)) / 2))


def expected_divergence(bins: int, rows: int, others: int) -> float:
    """Returns the mean divergence in bits of two samples of one distribution, from the mean of chi squared."""
    return max(bins - 1, 0) / (8 * LN_2) * (1 / rows + 1 / others)


def _skew(
    name: str,
    counts: tuple[int, ...],
    found: tuple[int, ...],
    trained: FeatureProfile,
    scored: FeatureProfile,
    threshold: float,
    feature: str | None = None,
) -> FeatureSkew:
    """Compares a feature's counts, or those of the classes of a task."""
    expected, got = np.array(counts, np.float64), np.array(found, np.float64)
    apart = np.abs(expected / expected.sum() - got / got.sum())
    divergence = jensen_shannon(expected, got)
    # packets of one flow resemble each other, so the sample size is the number of flows
    noise = expected_divergence(int(((expected + got) > 0).sum()), trained.rows, scored.rows)
    furthest = int(apart.argmax())
    label_values = list(trained.classes.get(name, {}))
    return FeatureSkew(
        name=name,
        jensen_shannon=round(divergence, 6),
        l_infinity=round(float(apart.max()), 6),
        largest_bin=bin_name(feature, furthest, trained.k) if feature else label_values[furthest],
        noise=round(noise, 6),
        unseen=int(got[expected == 0].sum()),
        values=int(got.sum()),
        skewed=divergence > threshold + noise,
    )
