"""Dropout whose random numbers cost half as much, and whose way back is one pass behind a ReLU."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

LEVELS = 1 << 16
"""Sixteen random bits decide over a value: rates are kept to 1 / 131,072."""


@keras.saving.register_keras_serializable(package="flowloom")
class Dropout(keras.layers.Dropout):
    """Dropout over [rows, C], after a ReLU where that is asked for.

    A value is kept by 16 random bits, not by the 32 that a uniform float needs; random numbers are most of what dropout
    costs. Kept values are scaled by the very share that is kept, so that the expectation is exact.

    Args:
      rate: share of the values that become 0, >= 0 and < 1.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        self._dropped_levels = round(rate * LEVELS)
        if not 0 <= self._dropped_levels < LEVELS:
            raise ValueError(f"rate must be >= 0 and < 1, got {rate}")

    def gain(self, training: bool) -> float:
        """Return what kept values are scaled by; 1 unless training."""
        return LEVELS / (LEVELS - self._dropped_levels) if training else 1.0

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop values of [rows, C], scaling the others."""
        if not (training and self._dropped_levels):
            return inputs
        return tf.where(self._kept(inputs), inputs * self.gain(training), 0.0)

    def rectify(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop values of ReLU(inputs), [rows, C], without scaling: scale the inputs by `gain` where that is cheaper."""
        if not (training and self._dropped_levels):
            return tf.nn.relu(inputs)
        return _rectified(inputs, self._kept(inputs))

    def _kept(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return a random bool [rows, C]."""
        rows, width = tf.shape(inputs)[0], inputs.shape[1]
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform((rows, -(-width // 2)), seed, None, None, tf.uint32)
        levels = tf.reshape(tf.bitcast(words, tf.uint16), (rows, words.shape[1] * 2))
        return levels[:, :width] >= tf.constant(self._dropped_levels, tf.uint16)


@tf.custom_gradient
def _rectified(inputs: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """ReLU and a mask in one: what is positive afterwards was both kept and positive before."""
    outputs = tf.where(kept, tf.nn.relu(inputs), 0.0)
    return outputs, lambda upstream: (tf.raw_ops.ReluGrad(gradients=upstream, features=outputs), None)
