"""Early stopping: which epoch of a history is the best, and whether more of them are worth it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np


def total_loss(losses: Mapping[str, float | None], loss_weights: Mapping[str, float]) -> float | None:
    """Return the sum of the tasks' losses as training weighs them, 1 where a weight is absent; None if none is defined.

    It is what early stopping and the learning rate watch, both, so that they agree on which epoch was of use.
    """
    defined = [loss_weights.get(task, 1.0) * loss for task, loss in losses.items() if loss is not None]
    return float(np.sum(defined)) if defined else None


def score(record: Mapping[str, Any], monitor: Literal["auc", "loss"]) -> float | None:
    """Return what is maximised: the mean AUC over the tasks that have one, or the negative total loss; None without."""
    if monitor == "auc":
        return mean(record["validation_auc"].values())
    return None if record["validation_total_loss"] is None else -record["validation_total_loss"]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined, None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def best_epoch(history: Sequence[dict[str, Any]]) -> int:
    """Return the epoch with the highest score, of several the one with the lowest loss; the last one without scores.

    A perfect AUC comes long before well-placed thresholds do, so ties are the rule on easy tasks.
    """
    scored = [record for record in history if record["score"] is not None]
    best = max(scored or history[-1:], key=lambda record: (record["score"], score(record, "loss")))
    return best["epoch"]


def stalled(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Say whether the last `patience` epochs are no better than the best one before them."""
    scores = [record["score"] for record in history if record["score"] is not None]
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
