"""Encoder layer of the Transformer in MTC (section 3.3.2, figure 4a)."""

import math
from typing import Any

import keras
import tensorflow as tf

from flowloom.trainers.layers.attention import SelfAttention
from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.tall_matmul import tall_matmul

FEED_FORWARD = 1024
"""Width of the first fully connected layer (section 3.3.2)."""
DROPOUT = 0.1


@keras.saving.register_keras_serializable(package="flowloom")
class EncoderLayer(keras.layers.Layer):
    """Self-attention and two fully connected layers, each with a residual connection and layer normalisation.

    Z' = LN(Z + attention(Z)), Z'' = LN(Z' + drop(drop(ReLU(Z' W1 + b1)) W2 + b2)).

    Args:
      heads: attention heads, H.
      width: units of the first fully connected layer.
      dropout: rate behind each fully connected layer.

    Input shape:
      tokens [B, n, d].

    Output shape:
      [B, n, d].

    Raises:
      ValueError: if `heads` or `width` is below 1.

    Reference:
      MTC, section 3.3.2 and figure 4a.
    """

    def __init__(self, heads: int, width: int = FEED_FORWARD, dropout: float = DROPOUT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"width must be >= 1, got {width}")
        self.heads, self.width, self.dropout = heads, width, dropout
        self.attention = SelfAttention(heads, name="attention")
        self.attention_norm = LayerNormalization(name="attention_norm")
        self.hidden_dropout = Dropout(dropout, name="hidden_dropout")
        self.output_dropout = Dropout(dropout, name="output_dropout")
        self.output_norm = LayerNormalization(name="output_norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens [B, n, d]."""
        d = input_shape[-1]
        assert d is not None
        self.attention.build(input_shape)
        self.attention_norm.build((None, d))
        self.output_norm.build((None, d))
        self.widen = self.add_weight(shape=(d, self.width), name="widen", initializer="glorot_uniform")
        self.widen_bias = self.add_weight(shape=(self.width,), name="widen_bias", initializer="zeros")
        self.narrow = self.add_weight(shape=(self.width, d), name="narrow", initializer="glorot_uniform")
        self.narrow_bias = self.add_weight(shape=(d,), name="narrow_bias", initializer="zeros")

    def call(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Encodes tokens [B, n, d]."""
        _, n, d = tokens.shape
        rows = tf.reshape(tokens + self.attention(tokens), (-1, d))  # [B n, d]
        rows = self.attention_norm(rows)
        gain = self.hidden_dropout.gain(training)
        hidden = tall_matmul(rows, gain * self.widen)  # [B n, width]
        hidden = self.hidden_dropout.rectify(tf.nn.bias_add(hidden, gain * self.widen_bias), training)
        fed = tf.nn.bias_add(tall_matmul(hidden, self.narrow), self.narrow_bias)  # [B n, d]
        rows = self.output_norm(rows + self.output_dropout(fed, training=training))
        return tf.reshape(rows, (-1, n, d))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, so that Keras need not trace the layer."""
        return input_shape

    def macs(self, n: int) -> int:
        """Returns the multiply-accumulates of n tokens."""
        return self.attention.macs(n) + n * 2 * math.prod(self.widen.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads, "width": self.width, "dropout": self.dropout}
