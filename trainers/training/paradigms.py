"""Training paradigms: the variables and the losses of one step, such as MULTA's Aurora (fused) and Rainbow (striped).

Source: MULTA, section III-C.
"""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import keras
import tensorflow as tf

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.feed import Batch
from flowloom.trainers.models.cnn_rnn2 import CNNRNN2
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.training.gradient_surgery import PCGrad
from flowloom.trainers.training.weighting import DynamicWeightAverage, GradNorm, Uncertainty, Weighting

Reduction = Literal["labelled", "batch"]
"""Divisor of a task's loss over a batch: its labelled rows, or all rows."""


class Paradigm(abc.ABC):
    """Turns batches into updates of a model.

    Args:
      model: a Keras model with outputs {task: probabilities [B, 1] or [B, classes]}.
      optimizer: built here for all variables of the model.
      tasks: the tasks, in the dataset's order.
      loss_weights: weight of a task's loss, 1 where absent.
      signature: specs of a batch (`Feed.signature`).
      weighting: adaptive weights of the losses of a joint step; None: no adaptive weights.
      reduction: divisor of a task's loss. With all rows of the `batch` (Rezaei and Liu, section IV-D) a task with few
        labels counts for less.
      microbatch: rows of a batch that are computed at once. The gradients of the parts are summed, so that a step
        equals that of the whole batch in the memory of a part; only batch norm normalises each part alone.
      xla: whether steps are compiled by XLA, once for every batch size.
      label_smoothing: share of each label that is spread over all classes (`row_losses`).

    Raises:
      ValueError: if `microbatch` does not fit the weighting or `xla`.
    """

    striped: ClassVar[bool]
    """Whether every batch trains one task only (`Feed.striped`)."""
    selects: ClassVar[bool] = True
    """Whether training stops when it stalls and keeps the best epoch, or trains every epoch and keeps the last."""

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: keras.optimizers.Optimizer,
        tasks: Sequence[Task],
        loss_weights: Mapping[str, float],
        signature: Any,
        weighting: Weighting | None = None,
        reduction: Reduction = "labelled",
        microbatch: int | None = None,
        xla: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        self._model, self._optimizer, self._reduction, self._microbatch = model, optimizer, reduction, microbatch
        self._smoothing = label_smoothing
        self._weighting = weighting or Weighting(model, [task.name for task in tasks], seed=0)
        if microbatch is not None and (microbatch < 1 or xla or not self._weighting.additive):
            raise ValueError(
                "microbatch must be >= 1, without XLA and with a weighting whose gradients are sums over rows, got "
                f"microbatch={microbatch}, xla={xla} and {type(self._weighting).__name__}"
            )
        self._tasks = tuple(task.name for task in tasks)
        self._loss_weights = {task: loss_weights.get(task, 1.0) for task in self._tasks}
        every_task = [variable for task in self._tasks for variable in model.task_variables(task)]
        optimizer.build(model.shared_variables + every_task + self._weighting.trained)
        # one graph per stripe: variables outside an update's list do not change, not even by the optimizer's momentum
        self._steps: dict[str | None, Callable[..., tf.Tensor]] = {
            stripe: tf.function(
                functools.partial(self._update, self._forward(stripe), trained, variables),
                input_signature=signature,
                autograph=False,
                jit_compile=xla or None,
            )
            for stripe, (trained, variables) in self._updates().items()
        }

    @abc.abstractmethod
    def _updates(self) -> dict[str | None, tuple[tuple[str, ...], list[keras.Variable]]]:
        """Returns by stripe the tasks whose losses count and the variables that are updated."""

    def _forward(self, stripe: str | None) -> Callable[..., dict[str, Any]]:
        """Returns the network of a stripe's tasks."""
        return self._model

    def step(self, stripe: str | None, batch: Batch) -> tf.Tensor:
        """Trains on one batch of a stripe.

        Returns:
          float32 [T, 2]: sum of the losses and number of labelled rows of each task, zeros for tasks that the step does
          not train.
        """
        return self._steps[stripe](*batch)

    def _update(
        self,
        forward: Callable[..., dict[str, Any]],
        trained: tuple[str, ...],
        variables: list[keras.Variable],
        inputs: Any,
        labels: Any,
        weights: Any,
    ) -> tf.Tensor:
        """Minimises the weighted sum of the tasks' losses, each divided by `reduction`."""
        rows = {task: tf.reduce_sum(weights[task]) for task in trained}
        whole = {task: tf.cast(tf.size(weights[task]), tf.float32) for task in trained}
        count = rows if self._reduction == "labelled" else whole
        gradients = functools.partial(self._gradients, forward, variables, count, whole[trained[0]], rows)
        if self._microbatch is None:
            found, sums = gradients((inputs, labels, weights))
        else:
            found, sums = self._summed(gradients, self._microbatch, (inputs, labels, weights), variables, len(trained))
        self._optimizer.apply(found, [*variables, *self._weighting.trained])
        self._weighting.settle()
        losses = dict(zip(trained, tf.unstack(sums), strict=True))
        return tf.stack([[losses.get(task, 0.0), rows.get(task, 0.0)] for task in self._tasks])

    def _gradients(
        self,
        forward: Callable[..., dict[str, Any]],
        variables: list[keras.Variable],
        count: Mapping[str, tf.Tensor],
        batch_rows: tf.Tensor,
        rows: Mapping[str, tf.Tensor],
        part: tuple[Any, Any, Any],
    ) -> tuple[list[tf.Tensor | None], tf.Tensor]:
        """Returns the gradients of a part of a batch, and the sum of losses of each trained task.

        Penalties of the model are divided evenly among the tasks, so that every weighting includes them.
        """
        inputs, labels, weights = part
        with tf.GradientTape(persistent=self._weighting.by_task) as tape:
            outputs = forward(inputs, training=True)
            sums = {
                task: tf.reduce_sum(weights[task] * row_losses(labels[task], outputs[task], self._smoothing))
                for task in count
            }
            share = tf.cast(tf.size(next(iter(weights.values()))), tf.float32) / tf.maximum(batch_rows, 1.0)
            penalty = share * sum(self._model.losses, 0.0) / len(count)
            losses = [self._loss_weights[task] * sums[task] / tf.maximum(count[task], 1.0) + penalty for task in count]
        known = tf.stack([labelled > 0 for labelled in rows.values()])
        step = self._optimizer.iterations.value
        return self._weighting.gradients(tape, losses, known, variables, step), tf.stack(list(sums.values()))

    def _summed(
        self,
        gradients: Callable[[Any], tuple[list[tf.Tensor | None], tf.Tensor]],
        part_rows: int,
        batch: tuple[Any, Any, Any],
        variables: list[keras.Variable],
        tasks: int,
    ) -> tuple[list[tf.Tensor | None], tf.Tensor]:
        """Returns the sums of gradients and losses over the parts of a batch, computed one after another."""
        batch_rows = tf.shape(next(iter(batch[2].values())))[0]
        untouched: set[int] = set()  # variables that no loss depends on, known once the loop is traced

        def add(start: tf.Tensor, so_far: list[tf.Tensor], sums: tf.Tensor) -> tuple[Any, ...]:
            stop = tf.minimum(start + part_rows, batch_rows)
            found, losses = gradients(tf.nest.map_structure(lambda column: column[start:stop], batch))
            untouched.update(n for n, each in enumerate(found) if each is None)
            return (
                stop,
                [old if new is None else old + new for old, new in zip(so_far, found, strict=True)],
                sums + losses,
            )

        start = (tf.constant(0), [tf.zeros(variable.shape) for variable in variables], tf.zeros(tasks))
        _, total, sums = tf.while_loop(lambda row, *_: row < batch_rows, add, start, parallel_iterations=1)
        return [None if n in untouched else each for n, each in enumerate(total)], sums


class Aurora(Paradigm):
    """All tasks at once: batches have labels of all tasks (fused), and steps update all variables."""

    striped = False

    def _updates(self) -> dict[str | None, tuple[tuple[str, ...], list[keras.Variable]]]:
        own = [variable for task in self._tasks for variable in self._model.task_variables(task)]
        return {None: (self._tasks, self._model.shared_variables + own)}


class RainbowMixed(Aurora):
    """Rows of all stripes in every batch, each labelled for its task, so that no task comes last."""


class Rainbow(Paradigm):
    """One task at a time (striped): a miniset updates the shared variables and those of its task."""

    striped = True

    def _updates(self) -> dict[str | None, tuple[tuple[str, ...], list[keras.Variable]]]:
        shared = self._model.shared_variables
        return {task: ((task,), shared + self._model.task_variables(task)) for task in self._tasks}


class Incremental(Rainbow):
    """One task after another, in the phases of `latecomers.Arrivals` (MULTA, section IV-C)."""

    selects = False

    def __init__(self, model: MultiTaskModel, optimizer: keras.optimizers.Optimizer, *args: Any) -> None:
        super().__init__(model, optimizer, *args)
        self._fresh = [variable.numpy() for variable in optimizer.variables]

    def begin_phase(self) -> None:
        """Resets the optimizer to its state before the first step, without the momentum of the previous task."""
        for variable, fresh in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(fresh)


class Single(Rainbow):
    """One task at a time, each with its own network: single-task trainings that take turns."""

    def _forward(self, stripe: str | None) -> Callable[..., dict[str, Any]]:
        assert stripe is not None
        return cast(CNNRNN2, self._model).network(stripe)


class Transfer(Aurora):
    """All tasks at once, on frozen convolutions that other tasks trained (Rezaei and Liu, section V-B)."""

    def _updates(self) -> dict[str | None, tuple[tuple[str, ...], list[keras.Variable]]]:
        ((stripe, (trained, variables)),) = super()._updates().items()
        frozen = {id(variable) for variable in cast(MultitaskCNN, self._model).convolution_variables}
        return {stripe: (trained, [variable for variable in variables if id(variable) not in frozen])}


class Isolated(Aurora):
    """Only the new tasks of a grown model; shared variables are not updated (`growth.grown`)."""

    def _updates(self) -> dict[str | None, tuple[tuple[str, ...], list[keras.Variable]]]:
        own = [variable for task in self._tasks for variable in self._model.task_variables(task)]
        return {None: (self._tasks, own)}


PARADIGMS: dict[str, type[Paradigm]] = {
    "aurora": Aurora,
    "rainbow": Rainbow,
    "rainbow_mixed": RainbowMixed,
    "incremental": Incremental,
    "single": Single,
    "transfer": Transfer,
    "isolated": Isolated,
}
"""Paradigms by `schedule.paradigm`."""

WEIGHTINGS: dict[str, type[Weighting]] = {
    "fixed": Weighting,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
}
"""Weightings by `loss.weighting`; all but `fixed` need joint steps."""


def row_losses(labels: tf.Tensor, outputs: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Returns the cross-entropy of every row: labels int32 [B], probabilities [B, 1] or [B, classes] -> float32 [B].

    Args:
      labels: class of every row.
      outputs: probability of the second class, or of each class.
      smoothing: share of the label that is spread evenly over all classes (Szegedy et al., CVPR 2016, section 7).
    """
    outputs = tf.cast(outputs, tf.float32)
    if outputs.shape[-1] == 1:
        wanted = tf.cast(labels[:, None], outputs.dtype)
        return keras.losses.binary_crossentropy(wanted, outputs, label_smoothing=smoothing)
    if smoothing:
        wanted = tf.one_hot(labels, outputs.shape[-1])
        return keras.losses.categorical_crossentropy(wanted, outputs, label_smoothing=smoothing)
    return keras.losses.sparse_categorical_crossentropy(labels, outputs)
