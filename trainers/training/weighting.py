"""Loss weighting: how much each task's loss counts in a joint step, fixed or adapted while training."""

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
"""GradNorm's weights stay above it: a negative weight would unlearn its task."""

Variables = list[keras.Variable]


class Weighting:
    """`fixed`: losses count as they are; the others inherit from it.

    Losses come in multiplied by the recipe's `loss_weights`. A task without labelled rows in a batch has loss 0, moves
    nothing of a weighting and is left out of its means.

    Args:
      model: the model that is trained.
      tasks: names of its tasks, T of them.
      seed: of what is drawn, if anything is.
    """

    by_task: ClassVar[bool] = False
    """Whether it needs gradients of single tasks, thus a persistent tape, which takes twice as long to trace."""
    additive: ClassVar[bool] = True
    """Whether the gradients of a batch are the sums of those of its parts."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        self._model, self._tasks, self._seed = model, tuple(tasks), seed
        self.trained: list[keras.Variable] = []
        """What the optimizer updates beside the model."""
        self.variables: list[keras.Variable] = []
        """The state that a checkpoint holds, `trained` included."""

    @property
    def weights(self) -> tf.Tensor:
        """What the losses are multiplied by now, float32 [T]."""
        return tf.ones(len(self._tasks))

    def begin_epoch(self, losses: Sequence[Mapping[str, float | None]]) -> None:
        """Adapt to the mean train losses by task of all epochs so far."""

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """Return the gradients of the model's variables and then of `trained`.

        Args:
          tape: saw the losses; persistent if `by_task`.
          losses: scalars of the tasks trained, in their order.
          known: bool [T], false where the batch has no label of a task.
          variables: of the model, those that are updated.
          step: int64, number of the step.
        """
        return tape.gradient(losses, variables)

    def settle(self) -> None:
        """Bring what the optimizer updated back to what is allowed."""


class Uncertainty(Weighting):
    """L = sum exp(-s_t) L_t + s_t / 2, with s_t the log variance of task t, which is trained (Kendall et al., 2018)."""

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
        """As of the loss above; a task without labels does not become certain by that."""
        weights = self.weights
        own = tf.where(known, 0.5 - weights * tf.stack(losses), 0.0)
        return [*tape.gradient(losses, variables, output_gradients=tf.unstack(weights)), own]


class DynamicWeightAverage(Weighting):
    """Weights by how slowly losses fell in the last two epochs (Liu et al., 2019); equal before there are two."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], seed: int) -> None:
        super().__init__(model, tasks, seed)
        self._weights = keras.Variable(np.ones(len(self._tasks), np.float32), trainable=False, name="weights")
        self.variables = [self._weights]

    @property
    def weights(self) -> tf.Tensor:
        """Those of this epoch; their sum is T."""
        return self._weights.value

    def begin_epoch(self, losses: Sequence[Mapping[str, float | None]]) -> None:
        """Set the weights of the epoch from the last two before it."""
        if len(losses) >= 2:
            earlier, last = (
                np.array([epoch[task] if epoch[task] is not None else np.nan for task in self._tasks])
                for epoch in losses[-2:]
            )
            self._weights.assign(dynamic_weights(earlier, last))

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """As of the weighted sum."""
        return tape.gradient(losses, variables, output_gradients=tf.unstack(self.weights))


def dynamic_weights(earlier: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return w_t = T exp(r_t / 2) / sum exp(r / 2), r = last / earlier losses [T]; r is 1 where a loss is unknown."""
    rates = np.ones(len(last))
    np.divide(last, earlier, out=rates, where=earlier > 0)
    powers = np.exp(np.nan_to_num(rates, nan=1.0) / DWA_TEMPERATURE)
    return len(last) * powers / powers.sum()


class GradNorm(Weighting):
    """Weights under which the gradients of all tasks have like norms, larger for those behind (Chen et al., 2018).

    With G_t the norm of w_t L_t's gradient at the last shared weights and r_t the ratio of L_t to its first value over
    the mean of these ratios, the weights descend sum |G_t - mean(G) r_t^alpha|, its second part held constant. The
    optimizer of the model updates them too; afterwards their sum is brought back to T.
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
        """Those of the next step; their sum is T."""
        return self._weights.value

    def gradients(
        self, tape: tf.GradientTape, losses: list[tf.Tensor], known: tf.Tensor, variables: Variables, step: Any
    ) -> list[tf.Tensor]:
        """As of the weighted sum, and of the sum above."""
        # read once, so that what follows from it comes before the update by its very data
        weights, values = tf.convert_to_tensor(self.weights), tf.stack(losses)
        first = tf.where(known & (self._first.value == 0), values, self._first.value)
        self._first.assign(first)
        last = self._model.last_shared_variables
        norms = tf.stack([tf.linalg.global_norm(tape.gradient(loss, last)) for loss in losses])  # of L_t alone, [T]
        ratios = tf.math.divide_no_nan(values, first)
        mean_norm, mean_ratio = _mean(weights * norms, known), _mean(ratios, known)
        targets = mean_norm * tf.math.divide_no_nan(ratios, mean_ratio) ** GRADNORM_ALPHA
        own = tf.where(known, tf.sign(weights * norms - targets) * norms, 0.0)
        return [*tape.gradient(losses, variables, output_gradients=tf.unstack(weights)), own]

    def settle(self) -> None:
        """Keep weights positive and their sum T."""
        positive = tf.maximum(self._weights.value, LEAST_WEIGHT)
        self._weights.assign(len(self._tasks) * positive / tf.reduce_sum(positive))


def _mean(values: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Return the mean over the tasks that the batch knows, 0 without any."""
    counted = tf.cast(known, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(counted * values), tf.reduce_sum(counted))
