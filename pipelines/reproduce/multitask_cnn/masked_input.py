"""The mask of Rezaei and Liu as their published code has it, to be compared with masking the loss."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.training.paradigms import Aurora


class MaskedInput(Aurora):
    """Aurora, where a label that does not count still does: the input of its head is zero, the loss stays.

    Their code multiplies what goes into the class softmax by 0 on rows without a label, and leaves the true label in
    the loss. So the head's bias learns the class shares of all rows. Labels of rows of weight 0 must be the true ones.
    """

    def _update(
        self,
        forward: Callable[..., dict[str, Any]],
        trained: tuple[str, ...],
        variables: list[keras.Variable],
        inputs: Any,
        labels: Any,
        weights: Any,
    ) -> tf.Tensor:
        """Answer from the bias alone where the weight is 0, and let every row count."""

        def masked(inputs: Any, training: bool) -> dict[str, Any]:
            outputs = forward(inputs, training=training)
            from_bias = {task: tf.nn.softmax(self._model.task_variables(task)[1].value) for task in trained}
            return {task: tf.where(weights[task][:, None] > 0, outputs[task], from_bias[task]) for task in trained}

        everywhere = {task: tf.ones_like(weight) for task, weight in weights.items()}
        return super()._update(masked, trained, variables, inputs, labels, everywhere)
