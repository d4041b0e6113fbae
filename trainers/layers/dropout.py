"""Dropout with half the random bits of Keras' layer, and one backward pass together with a ReLU."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

LEVELS = 1 << 16
"""Number of values of the 16 random bits that decide over an input: rates are exact to 1 / 131,072."""


@keras.saving.register_keras_serializable(package="flowloom")
class Dropout(keras.layers.Dropout):
    """Dropout over [rows, C], optionally behind a ReLU (`rectify`).

    Random numbers are most of the cost of dropout, so 16 bits decide over a value instead of the 32 of a uniform float.
    Kept values are scaled by the exact share that is kept, so that the expectation is exact.

    Args:
      rate: share of the values that become 0, >= 0 and < 1.

    Input shape:
      [rows, C].

    Output shape:
      [rows, C].

    Raises:
      ValueError: if the rate is out of range.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        self._dropped_levels = round(rate * LEVELS)
        if not 0 <= self._dropped_levels < LEVELS:
            raise ValueError(f"rate must be >= 0 and < 1, got {rate}")

    def gain(self, training: bool) -> float:
        """Returns the factor of kept values; 1 unless training."""
        return LEVELS / (LEVELS - self._dropped_levels) if training else 1.0

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops values of [rows, C] and scales the others."""
        if not (training and self._dropped_levels):
            return inputs
        return tf.where(self._kept(inputs), inputs * self.gain(training), 0.0)

    def rectify(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops values of ReLU(inputs), [rows, C], without scaling; the caller scales the inputs by `gain`."""
        if not (training and self._dropped_levels):
            return tf.nn.relu(inputs)
        return _rectified(inputs, self._kept(inputs))

    def _kept(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns a random bool [rows, C], true for kept values."""
        rows, width = tf.shape(inputs)[0], inputs.shape[1]
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform((rows, -(-width // 2)), seed, None, None, tf.uint32)
        levels = tf.reshape(tf.bitcast(words, tf.uint16), (rows, words.shape[1] * 2))
        return levels[:, :width] >= tf.constant(self._dropped_levels, tf.uint16)


@tf.custom_gradient
def _rectified(inputs: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Returns ReLU(inputs) where kept, else 0; a positive output means that the value was kept and positive."""
    outputs = tf.where(kept, tf.nn.relu(inputs), 0.0)
    return outputs, lambda upstream: (tf.raw_ops.ReluGrad(gradients=upstream, features=outputs), None)
