"""Metrics of predictions per task, with support and intervals; an undefined metric is null with a reason."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from flowloom.trainers.evaluation.predictions import Predictions

REPLICATES = 200
BOOTSTRAP_ROWS = 10_000
"""Largest size of a bootstrap replicate; for larger sets the width is scaled (m out of n bootstrap)."""
FALSE_POSITIVE_RATES = ("0.001", "0.01")
"""False positive rates at which recall is reported, as keys of metrics.json: a detector that raises more false alarms
on mostly benign traffic is switched off."""
CALIBRATION_BINS = 15
"""Bins of confidence, as in Guo et al., On Calibration of Modern Neural Networks, 2017."""


def class_aucs(predictions: Predictions) -> dict[int, float]:
    """Returns the one-vs-rest ROC AUC of every class that some, but not all, rows have."""
    labels, probabilities = predictions.labels, predictions.probabilities
    present = np.unique(labels)
    if len(present) < 2:
        return {}
    return {int(c): float(sklearn.metrics.roc_auc_score(labels == c, probabilities[:, c])) for c in present}


def average_precisions(predictions: Predictions) -> dict[int, float]:
    """Returns the average precision, the area below the precision-recall curve, of the classes of `class_aucs`."""
    labels, probabilities = predictions.labels, predictions.probabilities
    return {
        c: float(sklearn.metrics.average_precision_score(labels == c, probabilities[:, c]))
        for c in class_aucs(predictions)
    }


def recalls_at(predictions: Predictions, rates: Sequence[str] = FALSE_POSITIVE_RATES) -> dict[int, dict[str, float]]:
    """Returns the largest recall within each false positive rate, for the classes of `class_aucs`.

    Thresholds are chosen on the evaluated rows themselves. With fewer than 1 / rate rows of other classes, the rate
    allows no false positive at all.
    """
    found = {}
    for c in class_aucs(predictions):
        false, true, _ = sklearn.metrics.roc_curve(
            predictions.labels == c, predictions.probabilities[:, c], drop_intermediate=False
        )
        found[c] = {rate: float(true[false <= float(rate)].max()) for rate in rates}
    return found


def auc(predictions: Predictions) -> float | None:
    """Returns the ROC AUC of a binary task, or the mean one-vs-rest AUC of a multiclass task; None if undefined."""
    by_class = class_aucs(predictions)
    return float(np.mean(list(by_class.values()))) if by_class else None


def headline(predictions: Predictions) -> dict[str, Any]:
    """Returns the metrics that compare models and baselines; all are None without rows.

    Macro means are over the classes that occur.
    """
    labels = predictions.labels
    if not len(labels):
        return {"auc": None, "accuracy": None, "macro_precision": None, "macro_recall": None, "macro_f1": None}
    predicted = predictions.probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return {
        "auc": auc(predictions),
        "accuracy": float(np.mean(predicted == labels)),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
    }


def report(predictions: Predictions, vocabulary: Sequence[str], seed: int) -> dict[str, Any]:
    """Returns all metrics of one task as JSON-ready values.

    `confusion` is [actual class][predicted class], `interval` the 95 % bootstrap interval of the AUC, and `ece` the
    expected calibration error of the most probable class. `recall_at_fpr` has the recall of each class at
    `FALSE_POSITIVE_RATES`, against all other classes.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(vocabulary), len(vocabulary)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct, actual, chosen = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    aucs, precisions, recalls = class_aucs(predictions), average_precisions(predictions), recalls_at(predictions)
    classes = {
        vocabulary[c]: {
            "support": int(actual[c]),
            "auc": aucs.get(c),
            "average_precision": precisions.get(c),
            "recall_at_fpr": recalls.get(c, dict.fromkeys(FALSE_POSITIVE_RATES)),
            "precision": _ratio(correct[c], chosen[c]),
            "recall": _ratio(correct[c], actual[c]),
            "f1": _ratio(2 * correct[c], actual[c] + chosen[c]),
        }
        for c in range(len(vocabulary))
    }
    return {
        **headline(predictions),
        "auc_undefined": _why_undefined(actual, vocabulary),
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
        return "no row of the split has a label of this task"
    return f"every labelled row of the split is {vocabulary[int(support.argmax())]!r}"


def calibration_error(predictions: Predictions) -> float | None:
    """Returns the expected calibration error: the mean gap of confidence and accuracy over bins of confidence."""
    if not len(predictions.labels):
        return None
    confidence = predictions.probabilities.max(axis=1)
    hit = predictions.probabilities.argmax(axis=1) == predictions.labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=hit - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(hit))


def bootstrap_interval(predictions: Predictions, seed: int) -> list[float] | None:
    """Returns the 95 % interval [low, high] of `auc` over resampled rows; None if it is undefined."""
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
    """Returns the ROC AUC under each of R weightings of the rows, float [R].

    The inputs are bool [N], float [N] and int [R, N]. The
    AUC is the share of (positive, negative) pairs in the right order; a tie counts half. It is NaN without a pair.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # first row of every distinct score
    ordered = counts[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, (positives * below).sum(axis=1) / np.maximum(pairs, 1), np.nan)
