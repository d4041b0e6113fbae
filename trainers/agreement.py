"""Whether a task that follows from another one needs an output layer of its own."""

from collections.abc import Sequence

import numpy as np
import sklearn.metrics


def class_sums(probabilities: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return what the classes of one task say of another, whose probabilities are sums of its own.

    Args:
      probabilities: [N, S].
      classes: for each of the S classes its class of the other task, from 0.

    Returns:
      [N, C], C the number of classes that occur, each of which has to.
    """
    if len(classes) != probabilities.shape[1] or set(classes) != set(range(max(classes) + 1)):
        raise ValueError(
            f"classes must be {probabilities.shape[1]} numbers, among them all from 0 to their greatest, got "
            f"{list(classes)}"
        )
    return probabilities @ np.eye(max(classes) + 1, dtype=probabilities.dtype)[list(classes)]


def agreement(
    own: np.ndarray, other: np.ndarray, classes: Sequence[int], labels: np.ndarray
) -> dict[str, dict[str, float] | float]:
    """Compare a task's own output layer with the sum of what another task's says, on the same rows.

    MTC trains a third layer for the kind of traffic (section 3.3.5), though its kind inside and outside of a VPN tells
    it.

    Args:
      own: probabilities [N, C] of the task.
      other: probabilities [N, S] of the task that it follows from.
      classes: for each of the S classes its class of the task.
      labels: int [N] of the task, all known.

    Returns:
      `own` and `sum` with the `accuracy` and the `macro_f1` of either, and `agree`, the share of rows on which both say
      the same class.
    """
    said = {"own": own.argmax(axis=1), "sum": class_sums(other, classes).argmax(axis=1)}
    figures: dict[str, dict[str, float] | float] = {
        name: {
            "accuracy": float((found == labels).mean()),
            "macro_f1": float(sklearn.metrics.f1_score(labels, found, average="macro", zero_division=0)),
        }
        for name, found in said.items()
    }
    return {**figures, "agree": float((said["own"] == said["sum"]).mean())}
