"""Row trials: repeated fits of a network of packets or tables."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.pipelines.reproduce.engine.repeated_fit import Fit, FitPlan, Rank, RepeatedFit
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.metrics import headline
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.feed.feed import Batch
from flowloom.trainers.training.epoch_loop import Epoch
from flowloom.trainers.training.learning_rate import cosine_rate
from flowloom.trainers.training.optimizer import CoupledAdam
from flowloom.trainers.training.paradigms import Aurora

PREDICTED_TOGETHER = 512


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """Rows of a network's input, [N, length] of its type, and labels {task: int32 [N]}, -1 where unknown."""

    values: np.ndarray
    labels: Mapping[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "LabelledRows":
        """Returns some of the rows, int64 [M]."""
        return LabelledRows(self.values[rows], {task: column[rows] for task, column in self.labels.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowFitPlan(FitPlan):
    """Settings of one fit on rows.

    The best weights are those of the highest validation macro F1 of the first task. Loss weights are divided by their
    sum.

    Attributes:
      updates: at least 1.
      measured: numbers of the updates after which the validation rows are measured; the last update always is one.

    Raises:
      ValueError: if `updates` is below 1.
    """

    updates: int
    measured: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"updates must be >= 1, got {self.updates}")


class RowTrials(RepeatedFit[LabelledRows]):
    """Fits a network of rows, each time from new weights.

    Args:
      build: returns a new network, with one input and an output for each task.
      tasks: the tasks of the network.
      learning_rate, weight_decay: of the optimizer (`CoupledAdam`); the rate is the highest one of `cosine_rate`.
      batch_size: rows of an update.
    """

    counted = "update"

    def __init__(
        self,
        build: Callable[[], Any],
        tasks: Sequence[Task],
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 128,
    ) -> None:
        names = tuple(task.name for task in tasks)
        self._batch_size, self._learning_rate = batch_size, learning_rate
        model = build()
        ((self._source, given),) = model.input.items()
        signature = (
            {self._source: tf.TensorSpec(given.shape, given.dtype)},
            {name: tf.TensorSpec((None,), tf.int32) for name in names},
            {name: tf.TensorSpec((None,)) for name in names},
        )
        super().__init__(build, model, tasks, CoupledAdam(learning_rate, weight_decay), Aurora, signature)

    def fit(self, train: LabelledRows, validation: LabelledRows, plan: RowFitPlan) -> Fit:
        """Trains the network from new weights.

        Args:
          train: each row is seen once before any is seen again.
          validation: rows that are measured.
          plan: settings of the fit.

        Returns:
          a fit whose records hold `update`, and `loss`, `macro_f1` and `macro_recall` on the validation rows, each
          {task: value}.
        """
        weights = {name: plan.loss_weights.get(name, 1.0) for name in self._names}
        total = sum(weights.values())
        plan = dataclasses.replace(plan, loss_weights={name: weight / total for name, weight in weights.items()})

        def measure(epoch: Epoch, totals: np.ndarray) -> dict[str, Any]:
            return self._measured(validation)

        return self._fit(plan, self._epochs(train, plan), measure, self._rank)

    def _rank(self, record: dict[str, Any]) -> Rank:
        first = self._names[0]
        return record["macro_f1"][first], -record["loss"][first]

    def _epochs(self, train: LabelledRows, plan: RowFitPlan) -> Iterator[Epoch]:
        """Yields the updates from one measurement to the next, each with its learning rate."""
        generator = np.random.default_rng(plan.seed)
        passes = -(-plan.updates * self._batch_size // len(train.values))
        order = np.concatenate([generator.permutation(len(train.values)) for _ in range(passes)])

        def batches(first: int, last: int) -> Iterator[tuple[None, Batch]]:
            for update in range(first, last + 1):
                self._optimizer.learning_rate = cosine_rate(self._learning_rate, update, plan.updates)
                rows = order[(update - 1) * self._batch_size :][: self._batch_size]
                yield None, self._batch(train, rows)

        before = 0
        for update in sorted({update for update in plan.measured if 1 <= update < plan.updates} | {plan.updates}):
            yield Epoch(update, batches(before + 1, update), self._no_totals())
            before = update

    def _inputs_of(self, rows: LabelledRows) -> Iterator[dict[str, tf.Tensor]]:
        for at in range(0, len(rows.values), PREDICTED_TOGETHER):
            yield {self._source: tf.constant(rows.values[at : at + PREDICTED_TOGETHER])}

    def _batch(self, rows: LabelledRows, chosen: np.ndarray) -> Batch:
        """Returns inputs, labels, and weights that are 0 where a label is unknown."""
        labels = {name: rows.labels[name][chosen] for name in self._names}
        return (
            {self._source: tf.constant(rows.values[chosen])},
            {name: tf.constant(np.maximum(codes, 0)) for name, codes in labels.items()},
            {name: tf.constant((codes >= 0).astype(np.float32)) for name, codes in labels.items()},
        )

    def _measured(self, rows: LabelledRows) -> dict[str, dict[str, float | None]]:
        """Returns loss, macro F1 and macro recall of each task over its labelled rows."""
        found: dict[str, dict[str, float | None]] = {"loss": {}, "macro_f1": {}, "macro_recall": {}}
        for name, probabilities in self.predict(rows).items():
            known = rows.labels[name] >= 0
            predictions = Predictions(rows.labels[name][known], probabilities[known])
            figures = headline(predictions)
            found["loss"][name] = predictions.loss
            found["macro_f1"][name], found["macro_recall"][name] = figures["macro_f1"], figures["macro_recall"]
        return found
