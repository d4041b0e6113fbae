"""Loss weighting: weights of the tasks' losses in a joint step, fixed or adaptive."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowloom.trainers.models.protocol import MultiTaskModel

DWA_TEMPERATURE = 2.0
"""T of dynamic weight average (Liu et al., 2019, section 3.3)."""
GRADNORM_ALPHA = 1.5
"""Strength of the force towards equal rates (Chen et al., 2018, section 5)."""
LEAST_WEIGHT = 1e-3
"""Lower bound of GradNorm's weights; a negative weight would unlearn its task."""

Variables = list[keras.Variable]


class Weighting:
    """`fixed`: losses without adaptive weights; base class of all weightings.

    Losses are already multiplied by the recipe's `loss.weights`. A task without labelled rows in a batch has loss 0,
    does not change a weighting, and does not count in its means.

    Args:
      model: the model that is trained.
      tasks: names of its T tasks.
      seed: seed of random draws.
    """

    by_task: ClassVar[bool] = False
    """Whether it needs gradients of single tasks, and so a persistent tape, which takes twice as long to trace."""
    additive: ClassVar[bool] = True
    """Whether the gradients of a batch are the sums over its parts."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        self._model, self._tasks, self._seed = model, tuple(tasks), seed
        self.trained: list[keras.Variable] = []
        """Variables that the optimizer updates besides the model's."""
        self.variables: list[keras.Variable] = []
        """State of a checkpoint, with `trained`."""

    @property
    def weights(self) -> tf.Tensor:
        """Current weights of the losses, float32 [T]."""
        return tf.ones(len(self._tasks))

    def begin_epoch(self, losses: Sequence[Mapping[str, float | None]]) -> None:
        """Adapts to the mean train losses by task of all epochs so far."""

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Returns the gradients of the model's variables, and after them those of `trained`.

        Args:
          tape: recorded the losses; persistent if `by_task`.
          losses: scalars, one per trained task.
          known: bool [T], false where the batch has no label of a task.
          variables: the updated variables of the model.
          step: int64, number of the step.
        """
        return tape.gradient(losses, variables)

    def settle(self) -> None:
        """Brings the variables in `trained` back into their bounds after an update."""


class Uncertainty(Weighting):
    """Weights by the trained log variance s_t of each task (Kendall et al., 2018).

    The loss is L = sum exp(-s_t) L_t + s_t / 2.
    """

    additive = False

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        super().__init__(model, tasks, seed)
        self._log_variances = keras.Variable(np.zeros(len(self._tasks), np.float32), name="log_variances")
        self.trained = self.variables = [self._log_variances]

    @property
    def weights(self) -> tf.Tensor:
        """exp(-s_t)."""
        return tf.exp(-self._log_variances.value)

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Returns the gradients of the loss above; the log variance of a task without labels does not change."""
        weights = self.weights
        own = tf.where(known, 0.5 - weights * tf.stack(losses), 0.0)
        return [*tape.gradient(losses, variables, output_gradients=tf.unstack(weights)), own]


class DynamicWeightAverage(Weighting):
    """Weights by how slowly losses fell in the last two epochs (Liu et al., 2019).

    All weights are 1 in the first two epochs.
    """

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        super().__init__(model, tasks, seed)
        self._weights = keras.Variable(np.ones(len(self._tasks), np.float32), trainable=False, name="weights")
        self.variables = [self._weights]

    @property
    def weights(self) -> tf.Tensor:
        """Weights of this epoch; their sum is T."""
        return self._weights.value

    def begin_epoch(self, losses: Sequence[Mapping[str, float | None]]) -> None:
        """Sets the weights of the epoch by the losses of the last two."""
        if len(losses) >= 2:
            earlier, last = (
                np.array([epoch[task] if epoch[task] is not None else np.nan for task in self._tasks])
                for epoch in losses[-2:]
            )
            self._weights.assign(dynamic_weights(earlier, last))

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Returns the gradients of the weighted sum."""
        return tape.gradient(losses, variables, output_gradients=tf.unstack(self.weights))


def dynamic_weights(earlier: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns the weights of dynamic weight average, float64 [T].

    They are w_t = T exp(r_t / 2) / sum exp(r / 2), where r = last / earlier losses [T], or 1 where a loss is unknown.
    """
    rates = np.ones(len(last))
    np.divide(last, earlier, out=rates, where=earlier > 0)
    powers = np.exp(np.nan_to_num(rates, nan=1.0) / DWA_TEMPERATURE)
    return len(last) * powers / powers.sum()


class GradNorm(Weighting):
    """Weights that give the gradients of all tasks similar norms, larger for slow tasks (Chen et al., 2018).

    G_t is the norm of the gradient of w_t L_t at the last shared weights. r_t is the ratio of L_t to its first value,
    divided by the mean of these ratios. The weights descend sum |G_t - mean(G) r_t^alpha|, whose second term is held
    constant. The model's optimizer updates them; their sum is then scaled to T.
    """

    by_task = True
    additive = False

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        super().__init__(model, tasks, seed)
        self._weights = keras.Variable(np.ones(len(self._tasks), np.float32), name="weights")
        self._first = keras.Variable(np.zeros(len(self._tasks), np.float32), trainable=False, name="first_losses")
        self.trained, self.variables = [self._weights], [self._weights, self._first]

    @property
    def weights(self) -> tf.Tensor:
        """Weights of the next step; their sum is T."""
        return self._weights.value

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Returns the gradients of the weighted sum, and of the sum above."""
        # read once, so that the graph orders all uses before the update
        weights, values = tf.convert_to_tensor(self.weights), tf.stack(losses)
        first = tf.where(known & (self._first.value == 0), values, self._first.value)
        self._first.assign(first)
        last = self._model.last_shared_variables
        norms = tf.stack([tf.linalg.global_norm(tape.gradient(loss, last)) for loss in losses])  # without weights, [T]
        ratios = tf.math.divide_no_nan(values, first)
        mean_norm, mean_ratio = _mean(weights * norms, known), _mean(ratios, known)
        targets = mean_norm * tf.math.divide_no_nan(ratios, mean_ratio) ** GRADNORM_ALPHA
        own = tf.where(known, tf.sign(weights * norms - targets) * norms, 0.0)
        return [*tape.gradient(losses, variables, output_gradients=tf.unstack(weights)), own]

    def settle(self) -> None:
        """Keeps the weights positive and their sum T."""
        positive = tf.maximum(self._weights.value, LEAST_WEIGHT)
        self._weights.assign(len(self._tasks) * positive / tf.reduce_sum(positive))


def _mean(values: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Returns the mean over the tasks with labels in the batch, 0 without any."""
    counted = tf.cast(known, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(counted * values), tf.reduce_sum(counted))
