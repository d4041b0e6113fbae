"""Encoder layer of vision Transformers, which YaTC applies to bytes: pre-normalised attention and feed-forward."""

from typing import Any

import keras

FEED_FORWARD = 4
"""Width of the hidden layer as a multiple of the tokens' width."""
EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="flowloom")
class PatchEncoder(keras.layers.Layer):
    """Z' = Z + drop(attention(LN(Z))), Z'' = Z' + drop(GELU(LN(Z') W1 + b1) W2 + b2), with biases everywhere.

    With 192 values a token it has 444,864 parameters, as each encoder layer of YaTC. GELU is its approximation by tanh.

    Args:
      heads: attention heads; they must divide the width of the tokens.
      dropout: rate behind both halves.

    Input shape:
      [B, n, d].

    Output shape:
      [B, n, d].

    Raises:
      ValueError: if the heads do not divide d.

    Reference:
      Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, equations 2 and 3; Zhao et al., Yet Another Traffic
      Classifier, AAAI 2023.
    """

    def __init__(self, heads: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.dropout = heads, dropout
        self._norms = [keras.layers.LayerNormalization(epsilon=EPSILON, name=f"norm_{n}") for n in range(2)]
        self._drops = [keras.layers.Dropout(dropout, name=f"dropout_{n}") for n in range(2)]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens [B, n, d]."""
        width = input_shape[-1]
        assert width is not None
        if self.heads < 1 or width % self.heads:
            raise ValueError(f"attention_heads must divide the width of a token, {width}, got {self.heads}")
        self._attention = keras.layers.MultiHeadAttention(self.heads, width // self.heads, name="attention")
        self._attention.build(input_shape, input_shape)
        for norm in self._norms:
            norm.build(input_shape)
        self._widen = keras.layers.Dense(FEED_FORWARD * width, name="widen")
        self._widen.build(input_shape)
        self._narrow = keras.layers.Dense(width, name="narrow")
        self._narrow.build((*input_shape[:-1], FEED_FORWARD * width))

    def call(self, tokens: Any, training: bool = False) -> Any:
        """Encodes tokens [B, n, d]."""
        normed = self._norms[0](tokens)
        tokens = tokens + self._drops[0](self._attention(normed, normed), training=training)
        hidden = keras.activations.gelu(self._widen(self._norms[1](tokens)), approximate=True)
        return tokens + self._drops[1](self._narrow(hidden), training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the inputs."""
        return input_shape

    @property
    def last_kernel(self) -> keras.Variable:
        """The weights of the last fully connected layer."""
        return self._narrow.kernel

    def macs(self, n: int) -> int:
        """Returns the multiply-accumulates of n tokens: four projections, n x n scores used twice, and feed-forward."""
        width = self._narrow.kernel.shape[1]
        return n * (4 + 2 * FEED_FORWARD) * width * width + 2 * n * n * width

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads, "dropout": self.dropout}
