"""Batch normalisation of rows by TensorFlow's fused kernel."""

from typing import Any

import keras
import tensorflow as tf

EPSILON, MOMENTUM = 1e-5, 0.9
"""The defaults of PyTorch, which MTC was written with (section 4.1.1)."""


@keras.saving.register_keras_serializable(package="flowloom")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of [rows, C] with the same weights, in one kernel per direction.

    Args:
      epsilon: added to the variance.
      momentum: of the moving statistics.

    Input shape:
      [rows, C].

    Output shape:
      [rows, C].
    """

    def __init__(self, epsilon: float = EPSILON, momentum: float = MOMENTUM, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, momentum=momentum, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool = False, gain: float = 1.0) -> tf.Tensor:
        """Normalises [rows, C] and scales the outputs by `gain`, at no extra cost."""
        scale, shift = gain * self.gamma, gain * self.beta
        if not training:
            factor = scale * tf.math.rsqrt(self.moving_variance + self.epsilon)
            outputs = tf.cast(inputs, tf.float32) * factor + (shift - self.moving_mean * factor)
            return tf.cast(outputs, self.compute_dtype)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, (-1, 1, 1, inputs.shape[1])),  # [rows, 1, 1, C]
            scale=scale,
            offset=shift,
            mean=(),
            variance=(),
            epsilon=self.epsilon,
            is_training=True,
        )
        rows = tf.cast(tf.shape(inputs)[0], tf.float32)
        # the kernel returns the unbiased variance, Keras averages the biased one
        variance *= tf.maximum(rows - 1.0, 1.0) / rows
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return tf.reshape(outputs, (-1, inputs.shape[1]))  # a slice would have a costlier gradient
