"""Early stopping: the best epoch of a history, and the end of a training that no longer improves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np


def total_loss(losses: Mapping[str, float | None], loss_weights: Mapping[str, float]) -> float | None:
    """Returns the sum of the tasks' losses by `loss_weights`, 1 where absent; None if no loss is defined.

    Early stopping and the learning rate both follow it, so that they agree on the epochs that improved the model.
    """
    defined = [loss_weights.get(task, 1.0) * loss for task, loss in losses.items() if loss is not None]
    return float(np.sum(defined)) if defined else None


def score(record: Mapping[str, Any], monitor: Literal["auc", "loss"]) -> float | None:
    """Returns the monitored value: the mean AUC over the tasks that have one, or the negative total loss."""
    if monitor == "auc":
        return mean(record["validation_auc"].values())
    return None if record["validation_total_loss"] is None else -record["validation_total_loss"]


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the defined values, None if none is defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def best_epoch(history: Sequence[dict[str, Any]]) -> int:
    """Returns the epoch with the highest score, and of equal ones the one with the lowest loss.

    Without scores it is the last epoch. Ties are common on easy tasks, as the AUC becomes 1 long before the loss stops
    to fall.
    """
    scored = [record for record in history if record["score"] is not None]
    best = max(scored or history[-1:], key=lambda record: (record["score"], score(record, "loss")))
    return best["epoch"]


def stalled(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Returns whether the last `patience` epochs are no better than the best epoch before them."""
    scores = [record["score"] for record in history if record["score"] is not None]
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
