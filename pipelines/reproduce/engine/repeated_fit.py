"""Repeated fits: one network trained from new weights again and again, on rows in memory, with one traced graph."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import keras
import numpy as np
import tensorflow as tf

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.predictions import both_classes
from flowloom.trainers.training.epoch_loop import Epoch, train_epochs
from flowloom.trainers.training.paradigms import Paradigm, Reduction

Rows = TypeVar("Rows")
Rank = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Settings of one fit.

    Attributes:
      seed: of the weights, the order of the rows, and everything else that is drawn.
      keep: the last weights, or those that rank best on the validation rows.
      loss_weights: of some tasks, 1 where absent.
      watch: called at each measurement; its result is added to the record.
    """

    seed: int
    keep: Literal["last", "best"] = "last"
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    watch: Callable[[], Mapping[str, Any]] = dict


@dataclasses.dataclass(frozen=True)
class Fit:
    """The outcome of one fit."""

    history: list[dict[str, Any]]
    """Records of the measurements, in order."""
    kept: int
    """Number of the epoch, or of the update, whose weights were kept."""
    shared: list[np.ndarray] = dataclasses.field(compare=False)
    """The weights that all tasks share, for another network to adopt."""


class RepeatedFit(abc.ABC, Generic[Rows]):
    """Fits one network, each time from new weights.

    A fit depends on its arguments alone: weights and optimizer start anew, and only the traced graphs stay.

    Args:
      build: returns a new network of one kind.
      model: one of them, the network that is trained.
      tasks: the tasks of the network.
      optimizer: of the network, not stepped yet.
      paradigm: the paradigm of each step.
      signature: specs of a batch.
      reduction: divisor of a task's loss (`Paradigm`).
    """

    counted: ClassVar[str]
    """Key of a record's number, `epoch` or `update`."""

    def __init__(
        self,
        build: Callable[[], Any],
        model: Any,
        tasks: Sequence[Task],
        optimizer: keras.optimizers.Optimizer,
        paradigm: type[Paradigm],
        signature: Any,
        reduction: Reduction = "labelled",
    ) -> None:
        self._build, self._model, self._optimizer = build, model, optimizer
        self._names = tuple(task.name for task in tasks)
        # variables, so that one graph serves all weights
        self._loss_weights = {name: tf.Variable(1.0, name=f"{name}_weight") for name in self._names}
        self._paradigm = paradigm(model, optimizer, tasks, self._loss_weights, signature, reduction=reduction)
        self._new_optimizer = [variable.numpy() for variable in optimizer.variables]
        self._forward = tf.function(
            lambda inputs: self._model(inputs, training=False), input_signature=[signature[0]], autograph=False
        )

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return self._model.count_params()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self._model.macs

    def predict(self, rows: Rows) -> dict[str, np.ndarray]:
        """Returns {task: probabilities float32 [N, classes]} of the network as the latest fit left it."""
        parts = [self._forward(inputs) for inputs in self._inputs_of(rows)]
        return {
            name: np.concatenate([both_classes(outputs[name].numpy()) for outputs in parts]) for name in self._names
        }

    @abc.abstractmethod
    def _inputs_of(self, rows: Rows) -> Iterable[dict[str, tf.Tensor]]:
        """Yields the network's inputs for consecutive rows."""

    def _fit(
        self,
        plan: FitPlan,
        epochs: Iterable[Epoch],
        measure: Callable[[Epoch, np.ndarray], dict[str, Any] | None],
        rank: Callable[[dict[str, Any]], Rank],
        adopt: Sequence[np.ndarray] = (),
    ) -> Fit:
        """Trains the network from new weights.

        Args:
          plan: settings of the fit.
          epochs: a generator, which begins when the weights are new.
          measure: returns the record of an epoch, or None; `plan.watch` adds to it.
          rank: returns the rank of a record; the higher, the better.
          adopt: first values of the weights that all tasks share; none: new ones.
        """
        self._restart(plan, adopt)
        history: list[dict[str, Any]] = []
        best, kept, weights = (-1.0, -np.inf), 0, []

        def measured(epoch: Epoch, totals: np.ndarray) -> dict[str, Any] | None:
            record = measure(epoch, totals)
            return None if record is None else {self.counted: epoch.number, **record, **plan.watch()}

        for record in train_epochs(self._paradigm.step, epochs, measured):
            history.append(record)
            if plan.keep == "last" or rank(record) > best:
                best, kept = rank(record), record[self.counted]
                weights = [variable.numpy() for variable in self._model.variables] if plan.keep == "best" else []
        if plan.keep == "best":
            _assign(self._model.variables, weights)
        return Fit(history, kept, [variable.numpy() for variable in self._model.shared_variables])

    def _restart(self, plan: FitPlan, adopt: Sequence[np.ndarray]) -> None:
        """Sets new weights, and the optimizer to its first state; all that is drawn later depends on the seed alone."""
        keras.utils.set_random_seed(plan.seed)
        _assign(self._model.variables, self._build().variables)
        _assign(self._optimizer.variables, self._new_optimizer)
        if len(adopt):
            _assign(self._model.shared_variables, adopt)
        for name, variable in self._loss_weights.items():
            variable.assign(plan.loss_weights.get(name, 1.0))

    def _no_totals(self) -> np.ndarray:
        return np.zeros((len(self._names), 2))


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
