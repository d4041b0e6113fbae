"""Convolutional multi-task network of Rezaei and Liu (Multitask Learning for Network Traffic Classification)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import keras

from flowloom.trainers.models.flow_inputs import check_sizes, flow_inputs
from flowloom.trainers.models.heads import check_tasks, task_heads

BLOCKS = ((32, 32), (64, 64), (128, 128))
"""Filters of the convolutions before each pooling (table II)."""
KERNEL, POOL = 3, 2
DENSE = (256, 256)
"""Widths of the fully connected layers (table II)."""
SHORT_K = 45
"""Largest k for which the paper omits the last convolution (footnote 3)."""

Convolutions = Literal["paper", "fit"]


@keras.saving.register_keras_serializable(package="flowloom")
class MultitaskCNN(keras.Model):
    """Six convolutions and two fully connected layers that all tasks share, and an output layer per task.

    With k = 60, C = 2 and three tasks of five classes it has 296,847 parameters.

    Args:
      k: packets per flow.
      channels: features per packet, C.
      tasks: number of classes of each task.
      convolutions: `fit` omits a convolution whose input is too short, and all behind it; `paper` also omits the last
        one for k up to 45, where it would fit.

    Input shape:
      {"sequence": float32 [B, k, C], "length": int32 [B]}; padding zeros are read like packets, the length is ignored.

    Output shape:
      {task: [B, 1]}, a sigmoid, for two classes; {task: [B, classes]}, a softmax, for more.

    Raises:
      ValueError: if a size is below 1, or a task has fewer than 2 classes.

    Reference:
      Rezaei and Liu, Multitask Learning for Network Traffic Classification, table II.

    Example:

    >>> model = MultitaskCNN(k=60, channels=2, tasks={"bandwidth": 5, "duration": 5, "class": 5})
    >>> model.count_params()
    296847
    """

    def __init__(
        self, k: int, channels: int, tasks: Mapping[str, int], convolutions: Convolutions = "paper", **kwargs: Any
    ) -> None:
        check_sizes(k=k, channels=channels)
        check_tasks(tasks)
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
        inputs = flow_inputs(k, channels)
        x = inputs["sequence"]  # [B, k, C]
        for block in blocks:
            for convolution in block:
                x = convolution(x)  # [B, steps - 2, filters]
            if x.shape[1] >= POOL:
                x = keras.layers.MaxPooling1D(POOL)(x)  # [B, steps // 2, filters]
        x = keras.layers.Flatten()(x)  # [B, steps * filters]
        for layer in dense:
            x = layer(x)  # [B, 256]
        outputs = {task: head(x) for task, head in heads.items()}  # [B, 1] or [B, classes]
        super().__init__(inputs, outputs, **kwargs)

        self.k, self.channels, self.tasks, self.convolutions = k, channels, dict(tasks), convolutions
        self._convolutions = [convolution for block in blocks for convolution in block]
        self._dense, self._heads = dense, heads

    @property
    def convolution_variables(self) -> list[keras.Variable]:
        """The shared variables that transfer learning freezes."""
        return [variable for layer in self._convolutions for variable in layer.trainable_variables]

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the output layers."""
        dense = [variable for layer in self._dense for variable in layer.trainable_variables]
        return self.convolution_variables + dense

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the second fully connected layer."""
        return [self._dense[-1].kernel]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its output layer."""
        return self._heads[task].trainable_variables

    def adopt(self, other: "MultitaskCNN") -> None:
        """Copies the shared weights of a network with the same input and other tasks."""
        for own, learned in zip(self.shared_variables, other.shared_variables, strict=True):
            own.assign(learned)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(map(layer_macs, [*self._convolutions, *self._dense, *self._heads.values()]))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "k": self.k,
            "channels": self.channels,
            "tasks": self.tasks,
            "convolutions": self.convolutions,
        }


def fitting_blocks(k: int, convolutions: Convolutions) -> list[tuple[int, ...]]:
    """Returns the filters of the convolutions between poolings, as far as k packets are enough for them."""
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
    """Returns the multiply-accumulates of a dense or convolutional layer: kernel size times output steps."""
    steps = layer.output.shape[1] if isinstance(layer, keras.layers.Conv1D) else 1
    return steps * math.prod(layer.kernel.shape)
