"""Feature fusion of MTC (section 3.3.4, figure 4b), connected as in Conformer (Peng et al., ICCV 2021)."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class FuseDown(keras.layers.Layer):
    """Adds features of the CNN branch to tokens: Z' = LN(Z + LN(pool(conv(C)))).

    The mean over steps is taken before the convolution of one step, which gives the same values with steps / n times
    less to convolve. The inner normalisation has no weights, because the outer one has them.

    Input shape:
      tokens Z [B, n, d] and features C [B, steps, c], where steps is a multiple of n.

    Output shape:
      [B, n, d].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sample_norm = LayerNormalization(center=False, scale=False, name="sample_norm")
        self.merge_norm = LayerNormalization(name="merge_norm")

    def build(self, tokens_shape: tuple[int | None, ...], features_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens [B, n, d] and features [B, steps, c]."""
        d = tokens_shape[-1]
        self.kernel = self.add_weight(shape=(features_shape[-1], d), name="kernel", initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(d,), name="bias", initializer="zeros")
        self.sample_norm.build((None, d))
        self.merge_norm.build((None, d))

    def call(self, tokens: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Returns tokens [B, n, d] with the features [B, steps, c] added."""
        (_, n, d), (_, steps, channels) = tokens.shape, features.shape
        pooled = tf.reduce_mean(tf.reshape(features, (-1, steps // n, channels)), 1)  # [B n, c]
        sampled = self.sample_norm(tall_matmul(pooled, self.kernel) + self.bias)  # [B n, d]
        return tf.reshape(self.merge_norm(tf.reshape(tokens, (-1, d)) + sampled), (-1, n, d))

    def compute_output_shape(
        self, tokens_shape: tuple[int | None, ...], features_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return tokens_shape

    def macs(self, n: int) -> int:
        """Returns the multiply-accumulates of n tokens."""
        return n * math.prod(self.kernel.shape)


@keras.saving.register_keras_serializable(package="flowloom")
class FuseUp(keras.layers.Layer):
    """Projects tokens to the channels of the CNN branch: BN(conv(Z)).

    `Bottleneck` repeats each token over its steps, which does not change the mean and the variance.

    Args:
      channels: filters of the convolution.

    Input shape:
      [B, n, d].

    Output shape:
      [B, n, channels].
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.norm = BatchNormalization(name="norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens [B, n, d]."""
        shape = (input_shape[-1], self.channels)
        self.kernel = self.add_weight(shape=shape, name="kernel", initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(self.channels,), name="bias", initializer="zeros")
        self.norm.build((None, self.channels))

    def call(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, n, channels]."""
        _, n, d = tokens.shape
        rows = tall_matmul(tf.reshape(tokens, (-1, d)), self.kernel) + self.bias
        return tf.reshape(self.norm(rows, training=training), (-1, n, self.channels))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return (*input_shape[:-1], self.channels)

    def macs(self, n: int) -> int:
        """Returns the multiply-accumulates of n tokens."""
        return n * math.prod(self.kernel.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "channels": self.channels}
