"""Layer normalisation with a hand-written gradient, in half the passes over its inputs."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

EPSILON = 1e-5
"""The default of PyTorch, which MTC was written with (section 4.1.1)."""


@keras.saving.register_keras_serializable(package="flowloom")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis of [rows, C], with the same weights.

    Args:
      epsilon: added to the variance.

    Input shape:
      [rows, C].

    Output shape:
      [rows, C].
    """

    def __init__(self, epsilon: float = EPSILON, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalises every row of [rows, C], in single precision."""
        outputs = _standardised(tf.cast(inputs, tf.float32), self.epsilon)
        if self.scale:
            outputs *= self.gamma
        return tf.cast(outputs + self.beta if self.center else outputs, self.compute_dtype)


def _standardised(inputs: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Returns rows with mean 0 and variance 1."""

    @tf.custom_gradient
    def standardise(rows: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        centred = rows - tf.reduce_mean(rows, 1, keepdims=True)
        factor = tf.math.rsqrt(tf.reduce_mean(centred * centred, 1, keepdims=True) + epsilon)  # [rows, 1]
        outputs = centred * factor

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            along = tf.reduce_mean(upstream * outputs, 1, keepdims=True)
            return factor * (upstream - tf.reduce_mean(upstream, 1, keepdims=True) - outputs * along)

        return outputs, gradient

    return standardise(inputs)
