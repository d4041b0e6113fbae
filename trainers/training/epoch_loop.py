"""Epoch loop: steps over batches and then a measurement, for runs and for the fits of reproductions."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.trainers.feed.feed import Batch


@dataclasses.dataclass(frozen=True)
class PartialEpoch:
    """The part of an epoch that is trained."""

    epoch: int
    steps: int
    totals: np.ndarray
    """Sum of the losses and labelled rows of each task so far, float64 [T, 2]."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The batches from one measurement to the next.

    Attributes:
      number: number of the epoch, or of its last step.
      batches: stripe and batch of each step that is left; a generator may set the learning rate before each.
      totals: sum of the losses and labelled rows of each task before them, float64 [T, 2].
      done: steps before them.
      steps: all steps of the epoch, where a progress display needs it.
    """

    number: int
    batches: Iterable[tuple[str | None, Batch]]
    totals: np.ndarray
    done: int = 0
    steps: int = 0


def train_epochs(
    step: Callable[[str | None, Batch], tf.Tensor],
    epochs: Iterable[Epoch],
    measure: Callable[[Epoch, np.ndarray], dict[str, Any] | None],
    stepped: Callable[[Epoch, PartialEpoch], None] = lambda epoch, part: None,
) -> Iterator[dict[str, Any]]:
    """Trains epochs one after another and yields a record after each that is measured.

    Args:
      step: trains on one batch of a stripe and returns float32 [T, 2] (`Paradigm.step`).
      epochs: a generator sees everything that earlier epochs have changed.
      measure: returns the record of an epoch from its totals, float64 [T, 2]; None: the epoch has no record.
      stepped: called after each step.
    """
    for epoch in epochs:
        totals = epoch.totals
        for done, (stripe, batch) in enumerate(epoch.batches, start=epoch.done + 1):
            totals = totals + step(stripe, batch).numpy()
            stepped(epoch, PartialEpoch(epoch.number, done, totals))
        if (record := measure(epoch, totals)) is not None:
            yield record


def mean_losses(names: Iterable[str], totals: np.ndarray) -> dict[str, float | None]:
    """Returns the mean loss per labelled row of each task, None without labelled rows, from totals [T, (sum, rows)]."""
    return {name: float(total / rows) if rows else None for name, (total, rows) in zip(names, totals, strict=True)}
