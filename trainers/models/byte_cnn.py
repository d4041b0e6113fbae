"""Multi-task 1D-CNN that MTC is compared with (section 4.3.2, figure 6), after Deep Packet of Lotfollahi et al."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.layers.batch_norm import EPSILON, MOMENTUM
from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.row_model import RowModel
from flowloom.trainers.models.tokens import Source, row_input

CONVOLUTIONS = ((4, 3), (5, 1))
"""Kernel and stride of each convolution."""
POOL = 2
DENSE = (200, 100, 50)
DROPOUT = 0.05
SHORTEST = 19
"""Smallest length of a row that the convolutions and the pooling can read."""


@keras.saving.register_keras_serializable(package="flowloom")
class ByteCNN(RowModel):
    """Two convolutions, a pooling, three fully connected layers, and an output layer per task.

    With 1,500 bytes and tasks of 17, 12 and 6 classes it has 10,109,935 parameters, 800 of them batch statistics. Input
    and output shapes are those of `MTC`.

    Args:
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      filters: filters of each convolution; the paper gives none, 200 is the value of Deep Packet.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.
    """

    def __init__(
        self,
        length: int,
        tasks: Mapping[str, int],
        source: Source = "bytes",
        filters: int = 200,
        sums: Mapping[str, ClassSum] | None = None,
        **kwargs: Any,
    ) -> None:
        if length < SHORTEST:
            raise ValueError(f"length must be >= {SHORTEST} for the convolutions, got {length}")
        if filters < 1:
            raise ValueError(f"filters must be >= 1, got {filters}")

        # layers
        convolutions = [
            keras.layers.Conv1D(filters, kernel, stride, name=f"convolution_{m}")
            for m, (kernel, stride) in enumerate(CONVOLUTIONS)
        ]
        norms = [
            keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"norm_{m}")
            for m in range(len(CONVOLUTIONS))
        ]
        dense = [keras.layers.Dense(width, activation="relu", name=f"dense_{m}") for m, width in enumerate(DENSE)]
        heads = SoftmaxHeads(tasks, sums or {})

        # forward
        inputs, x = row_input(source, length)
        x = keras.layers.Reshape((length, 1))(x)  # [B, length, 1]
        for convolution, norm in zip(convolutions, norms, strict=True):
            x = keras.layers.ReLU()(norm(convolution(x)))  # [B, steps, filters]
        x = keras.layers.Flatten()(keras.layers.MaxPooling1D(POOL)(x))  # [B, steps / 2 * filters]
        for layer in dense:
            x = keras.layers.Dropout(DROPOUT)(layer(x))
        super().__init__(
            inputs, dict.fromkeys(tasks, x), heads, [*convolutions, *norms, *dense],
            length=length, tasks=tasks, source=source, sums=sums, **kwargs,
        )  # fmt: skip

        self.filters = filters
        self._convolutions, self._dense = convolutions, dense

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The last weights before the outputs of all tasks."""
        return [self._dense[-1].kernel]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        moved = sum(layer.output.shape[1] * math.prod(layer.kernel.shape) for layer in self._convolutions)
        return moved + sum(math.prod(layer.kernel.shape) for layer in self._dense) + self._heads.macs

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters}
