"""Multi-head self-attention of MTC (section 3.3.2, equations 1 to 3)."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.tall_matmul import tall_matmul


@keras.saving.register_keras_serializable(package="flowloom")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention without biases: softmax(Q K' / sqrt(d_k)) V for every head, times W^M.

    The weights are W^Q, W^K and W^V, [d, H d_k] each, with the columns of a head side by side, and W^M, [H d_k, d]. The
    outputs equal those of `keras.layers.MultiHeadAttention(H, d_k, use_bias=False)` with its kernels reshaped. One
    product computes Q, K and V.

    Args:
      heads: H; d_k = d_v = d / H, rounded down (MTC has H = 6 and d = 50), at least 1.

    Input shape:
      [B, n, d].

    Output shape:
      [B, n, d].

    Reference:
      MTC, section 3.3.2, equations 1 to 3.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1:
            raise ValueError(f"heads must be >= 1, got {heads}")
        self.heads = heads

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens [B, n, d]."""
        width = input_shape[-1]
        assert width is not None
        self.head_width = max(1, width // self.heads)
        inner = self.heads * self.head_width
        self.query, self.key, self.value = (
            self.add_weight(shape=(width, inner), name=name, initializer="glorot_uniform")
            for name in ("query", "key", "value")
        )
        self.mix = self.add_weight(shape=(inner, width), name="mix", initializer="glorot_uniform")

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns the attention of every token, [B, n, d]."""
        _, n, d = tokens.shape
        # scaling the small W^Q spares a pass over all scores
        projection = tf.concat([self.query * self.head_width**-0.5, self.key, self.value], 1)  # [d, 3 H d_k]
        projected = tall_matmul(tf.reshape(tokens, (-1, d)), projection)  # [B n, 3 H d_k]
        projected = tf.reshape(projected, (-1, n, 3, self.heads, self.head_width))
        query, key, value = tf.unstack(tf.transpose(projected, (2, 0, 3, 1, 4)))  # [B, H, n, d_k] each
        weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True))  # [B, H, n, n]
        seen = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))  # [B, n, H, d_k]
        mixed = tall_matmul(tf.reshape(seen, (-1, self.heads * self.head_width)), self.mix)  # [B n, d]
        return tf.reshape(mixed, (-1, n, d))

    def macs(self, n: int) -> int:
        """Returns the multiply-accumulates of n tokens: four projections, and n x n scores used twice."""
        return n * 4 * math.prod(self.mix.shape) + 2 * n * n * self.mix.shape[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads}
