"""Learning rates of an epoch or an update."""

import math
from collections.abc import Sequence

THRESHOLD = 1e-4
"""Least relative fall of the loss that counts as one, PyTorch's default."""


def plateau_rate(initial: float, losses: Sequence[float], factor: float, patience: int) -> float:
    """Returns the rate of the next epoch, multiplied by `factor` after more than `patience` epochs without a new low.

    This is PyTorch's `ReduceLROnPlateau`, used for MTC (section 4.1.3), as a function of the history, so that a resumed
    training needs no other state.

    Args:
      initial: the rate of the first epoch.
      losses: losses of the epochs so far.
      factor: at most 1.
      patience: epochs without a new lowest loss before the rate falls.
    """
    rate, best, waited = initial, float("inf"), 0
    for loss in losses:
        if loss < best * (1 - THRESHOLD):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            rate, waited = rate * factor, 0
    return rate


def cosine_rate(highest: float, update: int, updates: int, rising: float = 0.1) -> float:
    """Returns the rate of an update: a linear rise times half a cosine that falls to zero.

    For trainings too short for a plateau. Source: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.

    Args:
      highest: the rate without rise and fall.
      update: number of the update, from 1.
      updates: number of updates of the training.
      rising: share of the updates with the linear rise; the cosine falls from the first update on.

    Raises:
      ValueError: if `update` is not one of `updates`.
    """
    if not 1 <= update <= updates:
        raise ValueError(f"update must lie in 1 to {updates}, got {update}")
    rise = min(1.0, update / (rising * updates))
    return highest * rise * (1 + math.cos(math.pi * (update - 1) / updates)) / 2
