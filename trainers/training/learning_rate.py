"""Learning rates that follow the validation loss."""

import math
from collections.abc import Sequence

THRESHOLD = 1e-4
"""Relative fall of the loss that counts as one, the default of PyTorch."""


def plateau_rate(initial: float, losses: Sequence[float], factor: float, patience: int) -> float:
    """Return the rate of the next epoch, multiplied by `factor` whenever more than `patience` epochs were of no use.

    This is `ReduceLROnPlateau` of PyTorch, which MTC was trained with (section 4.1.3), as a function of the history, so
    that a training that is continued needs no other state.

    Args:
      initial: the rate of the first epoch.
      losses: of the epochs so far.
      factor: what a rate is multiplied by, at most 1.
      patience: epochs without a new lowest loss that are borne.
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
    """Return the rate of an update: it rises evenly for a share of all updates, and falls along half a cosine to zero.

    For trainings too short for a plateau. Source: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.

    Args:
      highest: what the rate rises to.
      update: from 1 on.
      updates: of the training.
      rising: share of them, in which the cosine falls already.

    Raises:
      ValueError: if there is no such update.
    """
    if not 1 <= update <= updates:
        raise ValueError(f"update must lie in 1 to {updates}, got {update}")
    rise = min(1.0, update / (rising * updates))
    return highest * rise * (1 + math.cos(math.pi * (update - 1) / updates)) / 2
