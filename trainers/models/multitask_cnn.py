"""The convolutional multi-task network of Rezaei and Liu (Multitask Learning for Network Traffic Classification)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import keras

from flowloom.trainers.models.heads import task_heads

BLOCKS = ((32, 32), (64, 64), (128, 128))
"""Filters of the convolutions before each pooling (table II)."""
KERNEL, POOL = 3, 2
DENSE = (256, 256)
"""Widths of the fully connected layers (table II)."""
SHORT_K = 45
"""Up to so many packets the paper leaves the last convolution out (footnote 3)."""

Convolutions = Literal["paper", "fit"]


@keras.saving.register_keras_serializable(package="flowloom")
class MultitaskCNN(keras.Model):
    """Six convolutions and two fully connected layers that all tasks share, and an output layer per task.

    Inputs are {"sequence": float32 [B, k, C], "length": int32 [B]}; padding zeros are seen as they are, and the length
    is not looked at. Outputs are {task: [B, 1]}, a sigmoid, for two classes, and {task: [B, classes]}, a
    softmax, for more. With k = 60, C = 2 and three tasks of five classes it has 296,847 parameters.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      convolutions: how many there are. A convolution that its input is too short for is left out with all behind it
        (`fit`); the paper leaves out the last one for k of 45 too, where it would fit (`paper`).
    """

    def __init__(
        self, k: int, channels: int, tasks: Mapping[str, int], convolutions: Convolutions = "paper", **kwargs: Any
    ) -> None:
        for name, value in {"k": k, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not tasks or min(tasks.values()) < 2:
            raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")
        if convolutions not in ("paper", "fit"):
            raise ValueError(f"convolutions must be paper or fit, got {convolutions!r}")

        # layers
        blocks = [
            [
                keras.layers.Conv1D(filters, KERNEL, activation="relu", name=f"convolution_{block}_{n}")
                for n, filters in enumerate(widths)
            ]
            for block, widths in enumerate(fitting_blocks(k, convolutions))
        ]
        dense = [keras.layers.Dense(width, activation="relu", name=f"dense_{n}") for n, width in enumerate(DENSE)]
        heads = task_heads(tasks)

        # forward
        sequence = keras.Input((k, channels), name="sequence")
        length = keras.Input((), dtype="int32", name="length")
        x = sequence  # [B, k, C]
        for block in blocks:
            for convolution in block:
                x = convolution(x)  # [B, steps - 2, filters]
            if x.shape[1] >= POOL:
                x = keras.layers.MaxPooling1D(POOL)(x)  # [B, steps // 2, filters]
        x = keras.layers.Flatten()(x)  # [B, steps * filters]
        for layer in dense:
            x = layer(x)  # [B, 256]
        outputs = {task: head(x) for task, head in heads.items()}  # [B, 1] or [B, classes]
        super().__init__({"sequence": sequence, "length": length}, outputs, **kwargs)

        self.k, self.channels, self.tasks, self.convolutions = k, channels, dict(tasks), convolutions
        self._convolutions = [convolution for block in blocks for convolution in block]
        self._dense, self._heads = dense, heads

    @property
    def convolution_variables(self) -> list[keras.Variable]:
        """The shared variables that a transfer freezes."""
        return [variable for layer in self._convolutions for variable in layer.trainable_variables]

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the heads."""
        dense = [variable for layer in self._dense for variable in layer.trainable_variables]
        return self.convolution_variables + dense

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the second fully connected layer."""
        return [self._dense[-1].kernel]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its head."""
        return self._heads[task].trainable_variables

    def adopt(self, other: "MultitaskCNN") -> None:
        """Take the shared weights of a network of other tasks over the same input."""
        for own, learned in zip(self.shared_variables, other.shared_variables, strict=True):
            own.assign(learned)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(map(layer_macs, [*self._convolutions, *self._dense, *self._heads.values()]))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "k": self.k,
            "channels": self.channels,
            "tasks": self.tasks,
            "convolutions": self.convolutions,
        }


def fitting_blocks(k: int, convolutions: Convolutions) -> list[tuple[int, ...]]:
    """Return the filters of the convolutions between poolings that k packets are enough for."""
    wanted = [*BLOCKS[:-1], BLOCKS[-1][:-1]] if convolutions == "paper" and k <= SHORT_K else list(BLOCKS)
    blocks: list[tuple[int, ...]] = []
    steps = k
    for widths in wanted:
        fit = widths[: max(0, (steps - 1) // (KERNEL - 1))]
        if fit:
            blocks.append(fit)
        if len(fit) < len(widths):
            break
        steps = max(1, (steps - len(widths) * (KERNEL - 1)) // POOL)
    return blocks


def layer_macs(layer: keras.layers.Layer) -> int:
    """Return the multiply-accumulates of a dense or convolutional layer: its kernel, times the steps it is moved to."""
    steps = layer.output.shape[1] if isinstance(layer, keras.layers.Conv1D) else 1
    return steps * math.prod(layer.kernel.shape)
