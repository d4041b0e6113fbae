"""Residual convolution over the packets of a flow."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class ResidualConvolution(keras.layers.Layer):
    """LN(X + drop(ReLU(convolution(X)))), with zeros in place of the padding and outside of the flow.

    Args:
      kernel: packets that a step reads, odd.
      dropout: rate behind the convolution.

    Input shape:
      float32 [B, k, W], and float32 [B, k, 1], 1 for packets and 0 for padding.

    Output shape:
      [B, k, W], undefined for padding.

    Raises:
      ValueError: if `kernel` is even or below 1.
    """

    def __init__(self, kernel: int = 3, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and >= 1, got {kernel}")
        self.kernel_size, self.dropout = kernel, dropout
        self.drop = Dropout(dropout, name="drop")
        self.norm = LayerNormalization(name="norm")

    def build(self, packets_shape: Any, there_shape: Any = None) -> None:
        """Makes the weights for packets [B, k, W]."""
        width = packets_shape[-1]
        self.kernel = self.add_weight(
            shape=(self.kernel_size * width, width), name="kernel", initializer="glorot_uniform"
        )
        self.bias = self.add_weight(shape=(width,), name="bias", initializer="zeros")
        self.norm.build((None, width))

    def call(self, packets: tf.Tensor, there: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, k, W] from packets [B, k, W] and their mask [B, k, 1]."""
        _, k, width = packets.shape
        around = neighbours(packets * tf.cast(there, packets.dtype), self.kernel_size)  # [B, k, kernel W]
        summed = tall_matmul(tf.reshape(around, (-1, self.kernel_size * width)), self.kernel)  # [B k, W]
        fed = self.drop(tf.nn.relu(tf.nn.bias_add(summed, self.bias)), training=training)
        return tf.reshape(self.norm(tf.reshape(packets, (-1, width)) + fed), (-1, k, width))

    def compute_output_shape(self, packets_shape: Any, there_shape: Any = None) -> Any:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return packets_shape

    def macs(self, k: int) -> int:
        """Returns the multiply-accumulates of k packets."""
        return k * math.prod(self.kernel.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "kernel": self.kernel_size, "dropout": self.dropout}


def neighbours(packets: tf.Tensor, count: int) -> tf.Tensor:
    """Returns each packet between its neighbours, earliest first: [B, k, W] -> [B, k, count W], zeros outside."""
    k, side = packets.shape[1], count // 2
    padded = tf.pad(packets, ((0, 0), (side, side), (0, 0)))
    return tf.concat([padded[:, place : place + k] for place in range(count)], -1)
