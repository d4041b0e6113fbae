"""A small byte Transformer of the kind of ET-BERT and YaTC: patches of bytes, learned positions, a class token."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from flowloom.trainers.layers.position_embedding import StepPositions
from flowloom.trainers.models.baselines.patch_encoder import EPSILON, PatchEncoder
from flowloom.trainers.models.flow_inputs import check_sizes
from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.row_model import RowModel
from flowloom.trainers.models.tokens import Source, row_input


@keras.saving.register_keras_serializable(package="flowloom")
class ClassToken(keras.layers.Layer):
    """Puts a learned token in front of [B, n, d]; the output is [B, n + 1, d].

    Reference:
      Devlin et al., BERT, NAACL 2019, section 3.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the token."""
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]), name="token", initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, tokens: Any) -> Any:
        """Returns [B, n + 1, d]."""
        first = ops.broadcast_to(self.token, (ops.shape(tokens)[0], 1, tokens.shape[-1]))
        return ops.concatenate([first, tokens], axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns [B, n + 1, d]."""
        batch, n, d = input_shape
        assert n is not None
        return (batch, n + 1, d)


@keras.saving.register_keras_serializable(package="flowloom")
class BytePatches(RowModel):
    """Patches of bytes with learned positions, encoder layers, and an output layer per task on the class token.

    With patches of 4 bytes, width 192, 4 encoders and 16 heads it has the encoder of YaTC, 444,864 parameters a layer.
    Its rows are single packets, where YaTC joins the first five of a flow, and it is trained on labels alone, without
    the pre-training of both papers.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      patch: bytes of a token; the last one is filled with zeros.
      width: values of a token.
      encoders: number of encoder layers.
      attention_heads: heads of an encoder layer; they must divide the width.
      dropout: rate behind both halves of an encoder layer.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.

    Input shape:
      {source: [B, length]}, uint8 for bytes, float32 for features.

    Output shape:
      {task: [B, 1]}, the second class, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, the heads do not divide the width, or the tasks do not fit.

    Reference:
      Zhao et al., Yet Another Traffic Classifier: A Masked Autoencoder Based Traffic Transformer with Multi-Level Flow
      Representation, AAAI 2023; Lin et al., ET-BERT: A Contextualized Datagram Representation with Pre-training
      Transformers for Encrypted Traffic Classification, WWW 2022, sections 3.1 and 3.2.
    """

    def __init__(
        self,
        length: int,
        tasks: Mapping[str, int],
        source: Source = "bytes",
        patch: int = 4,
        width: int = 64,
        encoders: int = 2,
        attention_heads: int = 4,
        dropout: float = 0.1,
        sums: Mapping[str, ClassSum] | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(length=length, patch=patch, width=width, encoders=encoders)

        # layers
        embed, class_token, positions = (
            keras.layers.Dense(width, name="patches"), ClassToken(name="class_token"), StepPositions(name="positions")
        )  # fmt: skip
        stack = [PatchEncoder(attention_heads, dropout, name=f"encoder_{n}") for n in range(encoders)]
        norm = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm")
        heads = SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)  # [B, length]
        x = embed(as_patches(x, patch))  # [B, n, width]
        x = positions(class_token(x))  # [B, n + 1, width]
        for encoder in stack:
            x = encoder(x)
        x = norm(x[:, 0])  # [B, width]
        super().__init__(
            inputs, dict.fromkeys(tasks, x), heads, [embed, class_token, positions, *stack, norm],
            length=length, tasks=tasks, source=source, sums=sums, **kwargs,
        )  # fmt: skip

        self.patch, self.width, self.encoders = patch, width, encoders
        self.attention_heads, self.dropout = attention_heads, dropout
        self._embed, self._stack = embed, stack

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the last fully connected layer before the output layers."""
        return [self._stack[-1].last_kernel]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        patches = -(-self.length // self.patch)
        encoded = sum(encoder.macs(patches + 1) for encoder in self._stack)
        return patches * self.patch * self.width + encoded + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "patch": self.patch,
            "width": self.width,
            "encoders": self.encoders,
            "attention_heads": self.attention_heads,
            "dropout": self.dropout,
        }


def as_patches(row: Any, patch: int) -> Any:
    """Cuts [B, length] into patches [B, n, patch], the last one filled with zeros."""
    count = -(-row.shape[1] // patch)
    if missing := count * patch - row.shape[1]:
        row = ops.pad(row, ((0, 0), (0, missing)))
    return ops.reshape(row, (-1, count, patch))
