"""Base class of networks of flows in which all tasks share every layer but the last."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from flowloom.trainers.models.heads import check_tasks, task_heads


class SharedTrunk(keras.Model):
    """A network of flows whose tasks share all layers but an output layer each.

    Args:
      inputs: as from `flow_inputs`.
      features: input of the output layers, [B, width].
      trunk: the layers with weights that every task trains, in their order.
      tasks: number of classes of each task.

    Raises:
      ValueError: if a task has fewer than 2 classes, or there is none.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        features: Any,
        trunk: Sequence[keras.layers.Layer],
        tasks: Mapping[str, int],
        **kwargs: Any,
    ) -> None:
        check_tasks(tasks)
        heads = task_heads(tasks)
        super().__init__(inputs, {task: head(features) for task, head in heads.items()}, **kwargs)
        _, self.k, self.channels = inputs["sequence"].shape
        self.tasks = dict(tasks)
        self._trunk, self._heads = list(trunk), heads

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the output layers."""
        return [variable for layer in self._trunk for variable in layer.trainable_variables]

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the last fully connected layer before the output layers."""
        return [[layer for layer in self._trunk if isinstance(layer, keras.layers.Dense)][-1].kernel]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its output layer."""
        return self._heads[task].trainable_variables

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, in convolutions and fully connected layers."""
        return kernel_macs([*self._trunk, *self._heads.values()])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that all these networks have."""
        return {**super().get_config(), "k": self.k, "channels": self.channels, "tasks": self.tasks}


def kernel_macs(layers: Iterable[keras.layers.Layer]) -> int:
    """Returns the multiply-accumulates of layers with a kernel: its size times the places that it is applied to."""
    return sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in layers
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv1D | keras.layers.Conv2D)
    )
