"""Mask of Rezaei and Liu as in their published code, for comparison with masking the loss."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.training.paradigms import Aurora


class MaskedInput(Aurora):
    """Aurora in which rows without a label keep their loss, and only the input of their head is zero.

    Their code multiplies the input of the class softmax by 0 on rows without a label, but leaves the actual label in
    the loss. So the head's bias learns the class shares of all rows. Rows of weight 0 must have their actual labels.
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
        """Predicts from the bias alone where the weight is 0, and counts every row in the loss."""

        def masked(inputs: Any, training: bool) -> dict[str, Any]:
            outputs = forward(inputs, training=training)
            from_bias = {task: tf.nn.softmax(self._model.task_variables(task)[1].value) for task in trained}
            return {task: tf.where(weights[task][:, None] > 0, outputs[task], from_bias[task]) for task in trained}

        everywhere = {task: tf.ones_like(weight) for task, weight in weights.items()}
        return super()._update(masked, trained, variables, inputs, labels, everywhere)
