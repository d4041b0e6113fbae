"""Trials: trainings of one small network again and again, on rows in memory, with the graphs of the first."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from flowloom.pipelines.reproduce.engine.fresh_start import FreshStart
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.predictions import Predictions, both_classes
from flowloom.trainers.feed.flow_spec import FeatureSpec, window_starts
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.paradigms import PARADIGMS, Paradigm


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows as a network sees them.

    Attributes:
      sequence: float32 [N, K, C]; a network of k packets sees k of the K, from the first on unless windows move.
      length: int32 [N].
      labels: {task: int32 [N]}, -1 where unknown.
      weights: {task: float32 [N]}; by default 1 where the label is known and 0 where it is not.
    """

    sequence: np.ndarray
    length: np.ndarray
    labels: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def weight(self, task: str) -> np.ndarray:
        """Return the weights of one task's labels, float32 [N]."""
        return self.weights[task] if task in self.weights else (self.labels[task] >= 0).astype(np.float32)

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some of the rows, int64 [M]."""
        labels = {task: column[rows] for task, column in self.labels.items()}
        weights = {task: column[rows] for task, column in self.weights.items()}
        return Examples(self.sequence[rows], self.length[rows], labels, weights)

    def only(self, tasks: Sequence[str], labelled: bool = False) -> "Examples":
        """Return the rows with the labels of some tasks, if wanted those that have one of them."""
        some = dataclasses.replace(self, labels={task: self.labels[task] for task in tasks})
        known = np.any([some.weight(task) > 0 for task in tasks], axis=0)
        return some.take(np.flatnonzero(known)) if labelled else some


@dataclasses.dataclass(frozen=True)
class Fit:
    """What came of a training."""

    history: list[dict[str, Any]]
    """By measured epoch the loss on the train rows, loss and accuracy on the validation rows, each {task: value}."""
    epoch: int
    """Whose weights were kept."""
    shared: list[np.ndarray]
    """The weights that all tasks share, for another network to adopt."""


class FlowTrials:
    """Trains the network of a recipe, each time from new weights.

    A training depends on its arguments alone: weights and optimizer start anew, only the traced graphs stay.

    Args:
      recipe: of `tasks`, `labels_per_class`, `pretrain_tasks` and `epochs` nothing is looked at, nor of `patience`.
      features: what the network sees of a row.
      tasks: what it answers; all networks of a recipe that gives each task its own train on one.
      paradigm: another one than the recipe's.
    """

    def __init__(
        self, recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task], paradigm: type[Paradigm] | None = None
    ) -> None:
        self._recipe, self._features, self._tasks = recipe, features, tuple(tasks)
        self._names = tuple(task.name for task in tasks)
        kind = paradigm or PARADIGMS[recipe.schedule.paradigm]
        self._stripes: tuple[str | None, ...] = self._names if kind.striped else (None,)
        self._model = self._new_model()
        # variables, so that one graph serves all weights
        self._loss_weights = {name: tf.Variable(1.0, name=f"{name}_weight") for name in self._names}
        self._optimizer = keras.optimizers.Adam(recipe.schedule.learning_rate, clipnorm=recipe.schedule.clip_norm)
        self._paradigm = kind(
            self._model,
            self._optimizer,
            self._tasks,
            self._loss_weights,
            self._signature,
            reduction=recipe.loss.reduction,
        )
        self._fresh_start = FreshStart(self._model, self._new_model, self._optimizer)
        self._forward = tf.function(
            lambda inputs: self._model(inputs, training=False), input_signature=[self._signature[0]], autograph=False
        )

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return self._model.count_params()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self._model.macs

    def fit(
        self,
        train: Examples,
        validation: Examples,
        seed: int,
        epochs: int,
        *,
        keep: Literal["last", "best"] = "last",
        loss_weights: Mapping[str, float] | None = None,
        adopt: Sequence[np.ndarray] = (),
        furthest_start: int = 0,
        watch: Callable[[], Mapping[str, Any]] = dict,
        measured_every: int = 1,
    ) -> Fit:
        """Train from new weights.

        Args:
          train: rows with labels of all tasks of the network, of one at least.
          validation: rows that the network is measured on.
          seed: of the weights, of the order of the rows, and of the windows.
          epochs: at least 1.
          keep: the weights of the last epoch, or of the one with the highest accuracy of the first task on the
            validation rows; of several the one with the lowest loss.
          loss_weights: of some tasks.
          adopt: weights that all tasks share to begin with (`Fit.shared`).
          furthest_start: the packet that a row begins at, at most, drawn in each epoch (`window_starts`); it keeps the
            gap before it. Validation rows begin at the flow's first.
          watch: called when the network is measured; what it returns is added to the epoch's record.
          measured_every: epochs from one measuring to the next; the last epoch always is measured.
        """
        if epochs < 1 or measured_every < 1:
            raise ValueError(f"epochs and measured_every must be >= 1, got {epochs} and {measured_every}")
        self._fresh_start(seed)
        if len(adopt):
            for variable, value in zip(self._model.shared_variables, adopt, strict=True):
                variable.assign(value)
        for name, variable in self._loss_weights.items():
            variable.assign((loss_weights or {}).get(name, 1.0))
        history: list[dict[str, Any]] = []
        best, chosen, kept = (-1.0, -np.inf), 0, []
        columns = {name: np.maximum(train.labels[name], 0) for name in self._names}
        weights = {name: train.weight(name) for name in self._names}
        for epoch in range(epochs):
            generator = np.random.default_rng((seed, epoch))
            order = generator.permutation(len(train.length))
            starts = window_starts(generator, len(order), furthest_start)
            totals = np.zeros((len(self._names), 2))
            for stripe, places in self._batches(train, order):
                rows = order[places]
                batch = (
                    self._inputs(train, rows, starts[places]),
                    {name: tf.constant(column[rows]) for name, column in columns.items()},
                    {name: tf.constant(column[rows]) for name, column in weights.items()},
                )
                totals += self._paradigm.step(stripe, batch).numpy()
            if (epoch + 1) % measured_every and epoch + 1 < epochs:
                continue
            losses = {name: float(sum_ / max(rows, 1)) for name, (sum_, rows) in zip(self._names, totals, strict=True)}
            record: dict[str, Any] = {"epoch": epoch + 1, "loss": losses, **self._measured(validation), **watch()}
            history.append(record)
            first = self._names[0]
            rank = (record["validation_accuracy"][first] or 0.0, -(record["validation_loss"][first] or 0.0))
            if keep == "last" or rank > best:
                best, chosen = rank, epoch + 1
                kept = self._values() if keep == "best" else []
        if keep == "best":
            for variable, value in zip(self._model.variables, kept, strict=True):
                variable.assign(value)
        return Fit(history, chosen, [variable.numpy() for variable in self._model.shared_variables])

    def predict(self, examples: Examples) -> dict[str, np.ndarray]:
        """Return {task: probabilities float32 [N, classes]} by the network as the latest training left it."""
        rows = np.arange(len(examples.length))
        said = self._forward(self._inputs(examples, rows, np.zeros(len(rows), np.int64)))
        return {name: both_classes(said[name].numpy()) for name in self._names}

    def _batches(self, train: Examples, order: np.ndarray) -> list[tuple[str | None, np.ndarray]]:
        """Return the stripe of each batch of an epoch and its places in the order of the rows.

        Several stripes take turns by batches of the rows that have a label of theirs, each until it has no more.
        """
        places = [np.arange(len(order))]
        if len(self._stripes) > 1:
            places = [np.flatnonzero(train.weight(task)[order] > 0) for task in self._names]
        size = self._recipe.feed.batch_size
        cut = [
            [(stripe, own[at : at + size]) for at in range(0, len(own), size)]
            for stripe, own in zip(self._stripes, places, strict=True)
        ]
        return [batch for turn in itertools.zip_longest(*cut) for batch in turn if batch is not None]

    def _new_model(self) -> Any:
        return MODELS[self._recipe.model.kind](self._recipe, self._features, self._tasks)

    def _values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self._model.variables]

    def _inputs(self, examples: Examples, rows: np.ndarray, starts: np.ndarray) -> dict[str, tf.Tensor]:
        """Return windows of k packets, each from its own first packet on."""
        steps = starts[:, None] + np.arange(self._features.k)  # [B, k]
        inside = steps < examples.sequence.shape[1]
        window = examples.sequence[rows[:, None], np.where(inside, steps, 0)] * inside[:, :, None]  # [B, k, C]
        length = np.clip(examples.length[rows] - starts, 0, self._features.k).astype(np.int32)
        return {"sequence": tf.constant(window.astype(np.float32)), "length": tf.constant(length)}

    def _measured(self, examples: Examples) -> dict[str, dict[str, float | None]]:
        """Return loss and accuracy of each task over its labelled rows."""
        said = self.predict(examples)
        losses: dict[str, float | None] = {}
        accuracies: dict[str, float | None] = {}
        for name in self._names:
            known = np.flatnonzero(examples.labels[name] >= 0)
            found = Predictions(examples.labels[name][known], said[name][known])
            losses[name] = found.loss
            accuracies[name] = (
                float((found.probabilities.argmax(axis=1) == found.labels).mean()) if len(known) else None
            )
        return {"validation_loss": losses, "validation_accuracy": accuracies}

    @property
    def _signature(self) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
        shape = (None, self._features.k, len(self._features.features))
        return (
            {"sequence": tf.TensorSpec(shape), "length": tf.TensorSpec((None,), tf.int32)},
            {name: tf.TensorSpec((None,), tf.int32) for name in self._names},
            {name: tf.TensorSpec((None,)) for name in self._names},
        )
