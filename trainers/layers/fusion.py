"""The feature fusion block of MTC (section 3.3.4, figure 4b), wired as in Conformer (Peng et al., ICCV 2021)."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class FuseDown(keras.layers.Layer):
    """Brings features of the CNN branch to tokens: Z' = LN(Z + LN(pool(conv(C)))), C [B, steps, c], Z [B, n, d].

    A convolution of one step and the mean over steps can change places, and do: steps / n times less to convolve. The
    inner normalisation has no weights, for those of the outer one do.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sample_norm = LayerNormalization(center=False, scale=False, name="sample_norm")
        self.merge_norm = LayerNormalization(name="merge_norm")

    def build(self, tokens_shape: tuple[int | None, ...], features_shape: tuple[int | None, ...]) -> None:
        """Make the weights for tokens [B, n, d] and features [B, steps, c]."""
        d = tokens_shape[-1]
        self.kernel = self.add_weight(shape=(features_shape[-1], d), name="kernel", initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(d,), name="bias", initializer="zeros")
        self.sample_norm.build((None, d))
        self.merge_norm.build((None, d))

    def call(self, tokens: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Return tokens [B, n, d] that know the features [B, steps, c]."""
        (_, n, d), (_, steps, channels) = tokens.shape, features.shape
        pooled = tf.reduce_mean(tf.reshape(features, (-1, steps // n, channels)), 1)  # [B n, c]
        sampled = self.sample_norm(tall_matmul(pooled, self.kernel) + self.bias)  # [B n, d]
        return tf.reshape(self.merge_norm(tf.reshape(tokens, (-1, d)) + sampled), (-1, n, d))

    def compute_output_shape(
        self, tokens_shape: tuple[int | None, ...], features_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return the shape of the outputs, which Keras would otherwise trace the layer for."""
        return tokens_shape

    def macs(self, n: int) -> int:
        """Return the multiply-accumulates of n tokens."""
        return n * math.prod(self.kernel.shape)


@keras.saving.register_keras_serializable(package="flowloom")
class FuseUp(keras.layers.Layer):
    """Brings tokens to the channels of the CNN branch, BN(conv(Z)): [B, n, d] -> [B, n, channels].

    `Bottleneck` spreads them over its steps, which leaves their mean and variance as they are.

    Args:
      channels: filters of the convolution.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.norm = BatchNormalization(name="norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights for tokens [B, n, d]."""
        shape = (input_shape[-1], self.channels)
        self.kernel = self.add_weight(shape=shape, name="kernel", initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(self.channels,), name="bias", initializer="zeros")
        self.norm.build((None, self.channels))

    def call(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return features of every token."""
        _, n, d = tokens.shape
        rows = tall_matmul(tf.reshape(tokens, (-1, d)), self.kernel) + self.bias
        return tf.reshape(self.norm(rows, training=training), (-1, n, self.channels))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the outputs, which Keras would otherwise trace the layer for."""
        return (*input_shape[:-1], self.channels)

    def macs(self, n: int) -> int:
        """Return the multiply-accumulates of n tokens."""
        return n * math.prod(self.kernel.shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "channels": self.channels}
