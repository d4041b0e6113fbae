"""Flow trials: repeated fits of a recipe's network on sequences of packets."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.pipelines.reproduce.engine.repeated_fit import Fit, FitPlan, Rank, RepeatedFit
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.feed.augmentation import UNCHANGED, Augmentation, Draws, window_starts
from flowloom.trainers.feed.feed import Batch
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.epoch_loop import Epoch, mean_losses
from flowloom.trainers.training.optimizer import CoupledAdam
from flowloom.trainers.training.paradigms import PARADIGMS, Paradigm


@dataclasses.dataclass(frozen=True)
class Examples:
    """Sequences of packets with their labels.

    Attributes:
      sequence: float32 [N, K, C]; a network of k packets reads k of the K, from the first on unless windows move.
      length: int32 [N].
      labels: {task: int32 [N]}, -1 where unknown.
      weights: {task: float32 [N]}; by default 1 where the label is known and 0 where it is not.
    """

    sequence: np.ndarray
    length: np.ndarray
    labels: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def weight(self, task: str) -> np.ndarray:
        """Returns the weights of one task's labels, float32 [N]."""
        return self.weights[task] if task in self.weights else (self.labels[task] >= 0).astype(np.float32)

    def take(self, rows: np.ndarray) -> "Examples":
        """Returns some of the rows, int64 [M]."""
        labels = {task: column[rows] for task, column in self.labels.items()}
        weights = {task: column[rows] for task, column in self.weights.items()}
        return Examples(self.sequence[rows], self.length[rows], labels, weights)

    def only(self, tasks: Sequence[str], labelled: bool = False) -> "Examples":
        """Returns the rows with the labels of some tasks; with `labelled`, only rows that have one of these labels."""
        some = dataclasses.replace(self, labels={task: self.labels[task] for task in tasks})
        known = np.any([some.weight(task) > 0 for task in tasks], axis=0)
        return some.take(np.flatnonzero(known)) if labelled else some


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowFitPlan(FitPlan):
    """Settings of one fit on flows.

    The best weights are those of the highest validation accuracy of the first task.

    Attributes:
      epochs: at least 1.
      measured_every: epochs from one measurement to the next; the last epoch always is measured.
      furthest_start: the last packet that a row may begin at, drawn in each epoch (`window_starts`); the row keeps the
        gap before it. Validation rows begin at the flow's first packet.
      augment: changes of the train rows, drawn in each epoch, for features of `scaling=none` alone; the first packet of
        a row that begins later has no gap.
      adopt: first values of the weights that all tasks share (`Fit.shared`); none: new ones.

    Raises:
      ValueError: if `epochs` or `measured_every` is below 1, or both `furthest_start` and `augment` change rows.
    """

    epochs: int
    measured_every: int = 1
    furthest_start: int = 0
    augment: Augmentation = UNCHANGED
    adopt: Sequence[np.ndarray] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.measured_every < 1:
            raise ValueError(f"epochs and measured_every must be >= 1, got {self.epochs} and {self.measured_every}")
        if self.furthest_start and self.augment.changes_rows:
            raise ValueError(f"furthest_start must be 0 with augment, got {self.furthest_start}; set augment.start")


class FlowTrials(RepeatedFit[Examples]):
    """Fits the network of a recipe, each time from new weights.

    The recipe's `feed.tasks`, `feed.labels_per_class`, `schedule.pretrain_tasks`, `schedule.epochs` and
    `schedule.patience` do not count: rows and epochs are arguments of `fit`.

    Args:
      recipe: of the network, its optimizer and its batches.
      features: the network's view of a row.
      tasks: the tasks of the network; several networks of a recipe with one per task take turns.
      paradigm: instead of the recipe's.
    """

    counted = "epoch"

    def __init__(
        self, recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task], paradigm: type[Paradigm] | None = None
    ) -> None:
        def build() -> Any:
            return MODELS[recipe.model.kind](recipe, features, tuple(tasks))

        names = tuple(task.name for task in tasks)
        kind = paradigm or PARADIGMS[recipe.schedule.paradigm]
        self._features, self._batch_size = features, recipe.feed.batch_size
        self._stripes: tuple[str | None, ...] = names if kind.striped else (None,)
        signature = (
            {
                "sequence": tf.TensorSpec((None, features.k, len(features.features))),
                "length": tf.TensorSpec((None,), tf.int32),
            },
            {name: tf.TensorSpec((None,), tf.int32) for name in names},
            {name: tf.TensorSpec((None,)) for name in names},
        )
        optimizer = CoupledAdam(recipe.schedule.learning_rate, global_clipnorm=recipe.schedule.clip_norm)
        super().__init__(build, build(), tasks, optimizer, kind, signature, recipe.loss.reduction)

    def fit(self, train: Examples, validation: Examples, plan: FlowFitPlan) -> Fit:
        """Trains the network from new weights.

        Args:
          train: rows with labels of all tasks of the network, each with one label at least.
          validation: rows that are measured.
          plan: settings of the fit.

        Returns:
          a fit whose records hold `epoch`, `loss` on the train rows, `validation_loss` and `validation_accuracy`, each
          {task: value}.

        Raises:
          ValueError: if the features cannot be augmented as planned.
        """
        if plan.augment.changes_rows and self._features.scaling != "none":
            raise ValueError(f"augment must be of features of scaling=none, got scaling={self._features.scaling}")
        if reason := plan.augment.unfit(self._features.scaling, self._features.channels):
            raise ValueError(reason)

        def measure(epoch: Epoch, totals: np.ndarray) -> dict[str, Any] | None:
            if epoch.number % plan.measured_every and epoch.number < plan.epochs:
                return None
            losses = {name: loss or 0.0 for name, loss in mean_losses(self._names, totals).items()}
            return {"loss": losses, **self._measured(validation)}

        return self._fit(plan, self._epochs(train, plan), measure, self._rank, plan.adopt)

    def _rank(self, record: dict[str, Any]) -> Rank:
        first = self._names[0]
        return record["validation_accuracy"][first] or 0.0, -(record["validation_loss"][first] or 0.0)

    def _epochs(self, train: Examples, plan: FlowFitPlan) -> Iterator[Epoch]:
        for epoch in range(plan.epochs):
            generator = np.random.default_rng((plan.seed, epoch))
            order = generator.permutation(len(train.length))
            starts = window_starts(generator, len(order), plan.furthest_start)
            shown = functools.partial(self._windows, train, order, starts)
            if plan.augment.changes_rows:
                draws = plan.augment.draws((plan.seed, epoch, 0), len(order))
                shown = functools.partial(self._augmented, train, order, draws, plan.augment)
            yield Epoch(epoch + 1, self._batches(train, order, shown), self._no_totals())

    def _batches(
        self, train: Examples, order: np.ndarray, shown: Callable[[np.ndarray], dict[str, tf.Tensor]]
    ) -> Iterator[tuple[str | None, Batch]]:
        """Yields stripe and batch of each step of an epoch; `shown` returns the inputs of places in the order."""
        labels = {name: np.maximum(train.labels[name], 0) for name in self._names}
        weights = {name: train.weight(name) for name in self._names}
        for stripe, places in self._turns(train, order):
            rows = order[places]
            yield (
                stripe,
                (
                    shown(places),
                    {name: tf.constant(column[rows]) for name, column in labels.items()},
                    {name: tf.constant(column[rows]) for name, column in weights.items()},
                ),
            )

    def _turns(self, train: Examples, order: np.ndarray) -> list[tuple[str | None, np.ndarray]]:
        """Returns the stripe of each batch of an epoch and its places in the order of the rows.

        Several stripes take turns by batches of the rows that have a label of theirs, each until it has no more.
        """
        places = [np.arange(len(order))]
        if len(self._stripes) > 1:
            places = [np.flatnonzero(train.weight(task)[order] > 0) for task in self._names]
        size = self._batch_size
        cut = [
            [(stripe, own[at : at + size]) for at in range(0, len(own), size)]
            for stripe, own in zip(self._stripes, places, strict=True)
        ]
        return [batch for turn in itertools.zip_longest(*cut) for batch in turn if batch is not None]

    def _inputs_of(self, rows: Examples) -> Iterator[dict[str, tf.Tensor]]:
        every = np.arange(len(rows.length))
        yield self._windows(rows, every, np.zeros(len(every), np.int64), every)

    def _windows(
        self, examples: Examples, order: np.ndarray, all_starts: np.ndarray, places: np.ndarray
    ) -> dict[str, tf.Tensor]:
        """Returns windows of k packets of the rows at some places of an order, each from its start on."""
        rows, starts = order[places], all_starts[places]
        steps = starts[:, None] + np.arange(self._features.k)  # [B, k]
        inside = steps < examples.sequence.shape[1]
        window = examples.sequence[rows[:, None], np.where(inside, steps, 0)] * inside[:, :, None]  # [B, k, C]
        length = np.clip(examples.length[rows] - starts, 0, self._features.k).astype(np.int32)
        return {"sequence": tf.constant(window.astype(np.float32)), "length": tf.constant(length)}

    def _augmented(
        self, examples: Examples, order: np.ndarray, draws: Draws, augment: Augmentation, places: np.ndarray
    ) -> dict[str, tf.Tensor]:
        """Returns the rows at some places of an order, augmented by the draws of these places."""
        count, width, _ = examples.sequence.shape
        begins = np.arange(count) * width
        bounds = begins, begins + np.minimum(examples.length, width)
        drawn = Draws(*(each[places] for each in draws))
        packets = np.ascontiguousarray(examples.sequence, np.float32).reshape(-1)
        sequence, length = self._features.augmented(packets, bounds, order[places], drawn, augment)
        return {"sequence": tf.constant(sequence), "length": tf.constant(length)}

    def _measured(self, examples: Examples) -> dict[str, dict[str, float | None]]:
        """Returns loss and accuracy of each task over its labelled rows."""
        probabilities = self.predict(examples)
        losses: dict[str, float | None] = {}
        accuracies: dict[str, float | None] = {}
        for name in self._names:
            known = np.flatnonzero(examples.labels[name] >= 0)
            found = Predictions(examples.labels[name][known], probabilities[name][known])
            losses[name] = found.loss
            accuracies[name] = (
                float((found.probabilities.argmax(axis=1) == found.labels).mean()) if len(known) else None
            )
        return {"validation_loss": losses, "validation_accuracy": accuracies}
