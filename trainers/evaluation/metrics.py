"""How good predictions are: per task, always with the support and an interval; undefined is null and says why."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from flowloom.trainers.evaluation.predictions import Predictions

REPLICATES = 200
BOOTSTRAP_ROWS = 10_000
"""Rows of a bootstrap replicate at most; from larger sets fewer rows are drawn and the width is scaled (m out of n)."""
CALIBRATION_BINS = 15
"""As Guo et al., On Calibration of Modern Neural Networks, 2017."""


def class_aucs(predictions: Predictions) -> dict[int, float]:
    """Return the one-vs-rest ROC-AUC of every class that some, but not all rows have."""
    labels, probabilities = predictions.labels, predictions.probabilities
    present = np.unique(labels)
    if len(present) < 2:
        return {}
    return {int(c): float(sklearn.metrics.roc_auc_score(labels == c, probabilities[:, c])) for c in present}


def auc(predictions: Predictions) -> float | None:
    """Return the ROC-AUC of a binary task, the mean of the one-vs-rest AUCs of a multiclass one; None if undefined."""
    by_class = class_aucs(predictions)
    return float(np.mean(list(by_class.values()))) if by_class else None


def headline(predictions: Predictions) -> dict[str, Any]:
    """Return the figures that models and baselines are compared by.

    Macro means are over the classes that some row has. Everything is None without rows.
    """
    labels = predictions.labels
    if not len(labels):
        return {"auc": None, "accuracy": None, "macro_precision": None, "macro_recall": None, "macro_f1": None}
    said = predictions.probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, said, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return {
        "auc": auc(predictions),
        "accuracy": float(np.mean(said == labels)),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
    }


def report(predictions: Predictions, vocabulary: Sequence[str], seed: int) -> dict[str, Any]:
    """Return every figure of one task as JSON-ready values.

    `confusion` is [true class][said class]; `interval` the 95 % bootstrap interval of the AUC; `ece` the expected
    calibration error of the most probable class.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    said = probabilities.argmax(axis=1)
    words = range(len(vocabulary))
    confusion = np.zeros((len(vocabulary), len(vocabulary)), np.int64)
    np.add.at(confusion, (labels, said), 1)
    hits, true, claimed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    aucs = class_aucs(predictions)
    classes = {
        vocabulary[c]: {
            "support": int(true[c]),
            "auc": aucs.get(c),
            "precision": _ratio(hits[c], claimed[c]),
            "recall": _ratio(hits[c], true[c]),
            "f1": _ratio(2 * hits[c], true[c] + claimed[c]),
        }
        for c in words
    }
    return {
        **headline(predictions),
        "auc_undefined": _why_undefined(true, vocabulary),
        "interval": bootstrap_interval(predictions, seed),
        "support": len(labels),
        "ece": calibration_error(predictions),
        "classes": classes,
        "confusion": confusion.tolist(),
    }


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _why_undefined(support: np.ndarray, vocabulary: Sequence[str]) -> str | None:
    if np.count_nonzero(support) > 1:
        return None
    if not support.any():
        return "no row of the split is labelled for this task"
    return f"every labelled row of the split is {vocabulary[int(support.argmax())]!r}"


def calibration_error(predictions: Predictions) -> float | None:
    """Return the mean gap between confidence and accuracy over equal bins of confidence, weighted by rows."""
    if not len(predictions.labels):
        return None
    confidence = predictions.probabilities.max(axis=1)
    hit = predictions.probabilities.argmax(axis=1) == predictions.labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=hit - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(hit))


def bootstrap_interval(predictions: Predictions, seed: int) -> list[float] | None:
    """Return the 95 % interval [low, high] of `auc` over resampled rows; None where it is undefined."""
    centre = auc(predictions)
    if centre is None:
        return None
    generator = np.random.default_rng(seed)
    rows = len(predictions.labels)
    drawn = min(rows, BOOTSTRAP_ROWS)
    sample = generator.permutation(rows)[:drawn]
    labels, probabilities = predictions.labels[sample], predictions.probabilities[sample]
    counts = generator.multinomial(drawn, np.full(drawn, 1 / drawn), size=REPLICATES)  # times each row is drawn [R, N]
    counts[0] = 1  # the first replicate is the sample itself
    classes = np.unique(labels)
    resampled = np.stack([weighted_auc(labels == c, probabilities[:, c], counts) for c in classes])  # [classes, R]
    defined = ~np.isnan(resampled)
    means = np.where(defined, resampled, 0.0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
    if not defined[:, 0].any():
        return None
    deviations = np.quantile(means[defined.any(axis=0)], [0.025, 0.975]) - means[0]
    return [float(value) for value in np.clip(centre + deviations * np.sqrt(drawn / rows), 0.0, 1.0)]


def weighted_auc(positive: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the ROC-AUC under each of R weightings of the rows: bool [N], float [N], int [R, N] -> float [R].

    It is the share of (positive, negative) pairs in the right order, ties counting half; NaN without a pair.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # first row of every distinct score
    ordered = counts[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, (positives * below).sum(axis=1) / np.maximum(pairs, 1), np.nan)
