"""Row trials: trainings of one network of packets or tables again and again, on rows in memory, with one graph."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.pipelines.reproduce.engine.fresh_start import FreshStart
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.metrics import headline
from flowloom.trainers.evaluation.predictions import Predictions, both_classes
from flowloom.trainers.training.learning_rate import cosine_rate
from flowloom.trainers.training.optimizer import CoupledAdam
from flowloom.trainers.training.paradigms import Aurora

PREDICTED_TOGETHER = 512


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """Rows as a network sees them, [N, length] of the type of its input, and labels {task: int32 [N]}, -1 unknown."""

    values: np.ndarray
    labels: Mapping[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "LabelledRows":
        """Return some of the rows, int64 [M]."""
        return LabelledRows(self.values[rows], {task: column[rows] for task, column in self.labels.items()})


@dataclasses.dataclass(frozen=True)
class RowFit:
    """What came of a training."""

    history: list[dict[str, Any]]
    """By measured update loss, macro F1, macro recall on the validation rows, {task: value}, and what was added."""
    update: int
    """Whose weights were kept."""


class RowTrials:
    """Trains a network, each time from new weights.

    A training depends on its arguments alone: weights and optimizer start anew, only the traced graphs stay.

    Args:
      build: makes the network, with one input and an output for each task.
      tasks: what it answers.
      learning_rate, weight_decay: of the optimizer (`CoupledAdam`); the rate is the highest one of `cosine_rate`.
      batch_size: rows of an update.
    """

    def __init__(
        self,
        build: Callable[[], Any],
        tasks: Sequence[Task],
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 128,
    ) -> None:
        self._names, self._batch_size = tuple(task.name for task in tasks), batch_size
        self._learning_rate = learning_rate
        self._model = build()
        ((self._source, given),) = self._model.input.items()
        inputs = {self._source: tf.TensorSpec(given.shape, given.dtype)}
        # variables, so that one graph serves all weights
        self._loss_weights = {name: tf.Variable(1.0, name=f"{name}_weight") for name in self._names}
        self._optimizer = CoupledAdam(learning_rate, weight_decay)
        signature = (
            inputs,
            {name: tf.TensorSpec((None,), tf.int32) for name in self._names},
            {name: tf.TensorSpec((None,)) for name in self._names},
        )
        self._aurora = Aurora(self._model, self._optimizer, tasks, self._loss_weights, signature)
        self._start = FreshStart(self._model, build, self._optimizer)
        self._forward = tf.function(
            lambda batch: self._model(batch, training=False), input_signature=[inputs], autograph=False
        )

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return self._model.count_params()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row."""
        return self._model.macs

    def fit(
        self,
        train: LabelledRows,
        validation: LabelledRows,
        seed: int,
        updates: int,
        measured: Sequence[int],
        *,
        loss_weights: Mapping[str, float] | None = None,
        watch: Callable[[], Mapping[str, Any]] = dict,
    ) -> RowFit:
        """Train from new weights, and keep those of the best macro F1 of the first task on the validation rows.

        Args:
          train: each row is seen once before any is seen again.
          validation: what is measured.
          seed: of the weights, the order of the rows and dropout.
          updates: at least 1.
          measured: after which updates; the last one always is.
          loss_weights: of some tasks, 1 where absent; they are divided by their sum.
          watch: called after each measuring; what it returns is added to the record.
        """
        if updates < 1:
            raise ValueError(f"updates must be >= 1, got {updates}")
        self._start(seed)
        weights = {name: (loss_weights or {}).get(name, 1.0) for name in self._names}
        for name, variable in self._loss_weights.items():
            variable.assign(weights[name] / sum(weights.values()))
        generator = np.random.default_rng(seed)
        epochs = -(-updates * self._batch_size // len(train.values))
        order = np.concatenate([generator.permutation(len(train.values)) for _ in range(epochs)])
        history: list[dict[str, Any]] = []
        best, chosen, kept = (-1.0, -np.inf), 0, []
        for update in range(1, updates + 1):
            self._optimizer.learning_rate = cosine_rate(self._learning_rate, update, updates)
            self._aurora.step(None, self._batch(train, order[(update - 1) * self._batch_size :][: self._batch_size]))
            if update in measured or update == updates:
                record = {"update": update, **self._measured(validation), **watch()}
                history.append(record)
                first = self._names[0]
                rank = (record["macro_f1"][first], -record["loss"][first])
                if rank > best:
                    best, chosen, kept = rank, update, [variable.numpy() for variable in self._model.variables]
        for variable, value in zip(self._model.variables, kept, strict=True):
            variable.assign(value)
        return RowFit(history, chosen)

    def predict(self, rows: LabelledRows) -> dict[str, np.ndarray]:
        """Return {task: probabilities float32 [N, classes]} by the network as it is now."""
        said: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        for at in range(0, len(rows.values), PREDICTED_TOGETHER):
            outputs = self._forward({self._source: tf.constant(rows.values[at : at + PREDICTED_TOGETHER])})
            for name in self._names:
                said[name].append(both_classes(outputs[name].numpy()))
        return {name: np.concatenate(parts) for name, parts in said.items()}

    def _batch(self, rows: LabelledRows, chosen: np.ndarray) -> Any:
        """Return inputs, labels, and weights that are 0 where a label is unknown."""
        labels = {name: rows.labels[name][chosen] for name in self._names}
        return (
            {self._source: tf.constant(rows.values[chosen])},
            {name: tf.constant(np.maximum(codes, 0)) for name, codes in labels.items()},
            {name: tf.constant((codes >= 0).astype(np.float32)) for name, codes in labels.items()},
        )

    def _measured(self, rows: LabelledRows) -> dict[str, dict[str, float | None]]:
        found: dict[str, dict[str, float | None]] = {"loss": {}, "macro_f1": {}, "macro_recall": {}}
        for name, said in self.predict(rows).items():
            known = rows.labels[name] >= 0
            predictions = Predictions(rows.labels[name][known], said[known])
            figures = headline(predictions)
            found["loss"][name] = predictions.loss
            found["macro_f1"][name], found["macro_recall"][name] = figures["macro_f1"], figures["macro_recall"]
        return found
