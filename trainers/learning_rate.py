"""Learning rates that follow the validation loss."""

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
