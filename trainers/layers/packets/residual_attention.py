"""Residual self-attention over the packets of a flow."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.packets.masked_pooling import LEAST
from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class ResidualAttention(keras.layers.Layer):
    """Y = LN(X + drop(attention(X))), then LN(Y + drop(ReLU(Y W + b))); no packet attends to padding.

    Args:
      heads: attention heads, a divisor of W.
      dropout: rate behind the attention and behind the dense layer.

    Input shape:
      float32 [B, k, W], and float32 [B, k, 1], 1 for packets and 0 for padding.

    Output shape:
      [B, k, W], undefined for padding.

    Raises:
      ValueError: if `heads` does not divide W.

    Reference:
      Vaswani et al., Attention Is All You Need, section 3.2, without biases, with one dense layer of width W.
    """

    def __init__(self, heads: int = 4, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.dropout = heads, dropout
        self.drops = [Dropout(dropout, name=f"drop_{n}") for n in range(2)]
        self.norms = [LayerNormalization(name=f"norm_{n}") for n in range(2)]

    def build(self, packets_shape: Any, there_shape: Any = None) -> None:
        """Makes the weights for packets [B, k, W]."""
        width = packets_shape[-1]
        if self.heads < 1 or width % self.heads:
            raise ValueError(f"heads must divide the width {width}, got {self.heads}")
        shapes = {"queries": (width, 3 * width), "mix": (width, width), "kernel": (width, width)}
        self.queries, self.mix, self.kernel = (
            self.add_weight(shape=shape, name=name, initializer="glorot_uniform") for name, shape in shapes.items()
        )
        self.bias = self.add_weight(shape=(width,), name="bias", initializer="zeros")
        for norm in self.norms:
            norm.build((None, width))

    def call(self, packets: tf.Tensor, there: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, k, W] from packets [B, k, W] and their mask [B, k, 1]."""
        _, k, width = packets.shape
        rows = tf.reshape(packets, (-1, width))  # [B k, W]
        each = tf.reshape(tall_matmul(rows, self.queries), (-1, k, 3, self.heads, width // self.heads))
        query, key, value = tf.unstack(tf.transpose(each, (2, 0, 3, 1, 4)))  # [B, heads, k, W / heads] each
        scores = tf.matmul(query, key, transpose_b=True) * (width // self.heads) ** -0.5  # [B, heads, k, k]
        hidden = (1 - tf.cast(there, scores.dtype)) * LEAST  # [B, k, 1]
        shares = tf.nn.softmax(scores + tf.transpose(hidden, (0, 2, 1))[:, None])
        seen = tf.reshape(tf.transpose(tf.matmul(shares, value), (0, 2, 1, 3)), (-1, width))
        rows = self.norms[0](rows + self.drops[0](tall_matmul(seen, self.mix), training=training))
        fed = tf.nn.relu(tf.nn.bias_add(tall_matmul(rows, self.kernel), self.bias))
        return tf.reshape(self.norms[1](rows + self.drops[1](fed, training=training)), (-1, k, width))

    def compute_output_shape(self, packets_shape: Any, there_shape: Any = None) -> Any:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return packets_shape

    def macs(self, k: int) -> int:
        """Returns the multiply-accumulates of k packets: five projections, and k x k scores used twice."""
        width = self.mix.shape[0]
        return 5 * k * math.prod(self.mix.shape) + 2 * k * k * width

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads, "dropout": self.dropout}
