"""Multi-task Transformer that MTC is compared with (section 4.3.1, figure 5), after MTT of Zheng et al. (2022)."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from flowloom.trainers.layers.transformer_encoder import EncoderLayer
from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.row_model import RowModel
from flowloom.trainers.models.tokens import Source, as_tokens, row_input, token_shape
from flowloom.trainers.models.tokens import attention_heads as default_heads


@keras.saving.register_keras_serializable(package="flowloom")
class ByteTransformer(RowModel):
    """Tokens with sinusoidal positions, encoder layers, and an output layer per task over all tokens.

    With 1,500 bytes and tasks of 17, 12 and 6 classes it has 845,453 parameters. Input and output shapes are those of
    `MTC`.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      encoders: number of encoder layers.
      attention_heads: H; None takes that of `MTC`.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.
    """

    def __init__(
        self,
        length: int,
        tasks: Mapping[str, int],
        source: Source = "bytes",
        encoders: int = 7,
        attention_heads: int | None = None,
        sums: Mapping[str, ClassSum] | None = None,
        **kwargs: Any,
    ) -> None:
        if encoders < 1:
            raise ValueError(f"encoders must be >= 1, got {encoders}")

        heads_of_encoders = default_heads(source, length) if attention_heads is None else attention_heads

        # layers
        stack = [EncoderLayer(heads_of_encoders, name=f"encoder_{m}") for m in range(encoders)]
        heads = SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)  # [B, length]
        x = as_tokens(x) + positions(*token_shape(length))  # [B, n, d]
        for encoder in stack:
            x = encoder(x)
        x = keras.layers.Flatten()(x)  # [B, n d]
        super().__init__(
            inputs, dict.fromkeys(tasks, x), heads, stack,
            length=length, tasks=tasks, source=source, sums=sums, **kwargs,
        )  # fmt: skip

        self.encoders, self.attention_heads = encoders, heads_of_encoders
        self._stack = stack

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights before the outputs of all tasks."""
        return [self._stack[-1].narrow]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        n, _ = token_shape(self.length)
        return sum(encoder.macs(n) for encoder in self._stack) + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "encoders": self.encoders, "attention_heads": self.attention_heads}


def positions(n: int, d: int) -> np.ndarray:
    """Returns the encoding of n positions, float32 [n, d]: sines in even places, cosines in odd (equations 7, 8)."""
    angles = np.arange(n)[:, None] * 10_000.0 ** (-2 * (np.arange(d) // 2) / d)
    return np.where(np.arange(d) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)
