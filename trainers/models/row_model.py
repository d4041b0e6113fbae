"""Base class of the networks of rows, which are bytes of packets or features of tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.tokens import Source


class RowModel(keras.Model):
    """A network of rows with an output layer per task, except for tasks that are sums of another task's classes.

    Args:
      inputs: as from `tokens.row_input`.
      features: input of each task's output layer, [B, width].
      heads: the output layers. The subclass makes them before it calls its layers, because first weights depend on the
        order in which layers are made, whatever the seed.
      shared: the layers that every task trains, in the order of `shared_variables`.
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      sums: tasks that are sums of another task's classes, see `SoftmaxHeads`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        features: Mapping[str, Any],
        heads: SoftmaxHeads,
        shared: Sequence[Any],
        *,
        length: int,
        tasks: Mapping[str, int],
        source: Source,
        sums: Mapping[str, ClassSum] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, heads(features), **kwargs)
        self.length, self.tasks, self.source, self.sums = length, dict(tasks), source, dict(sums or {})
        self._heads, self._shared = heads, list(shared)

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains: all but the output layers."""
        return [variable for layer in self._shared for variable in layer.trainable_variables]

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone: its output layer."""
        return self._heads.variables(task)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that all networks of rows have."""
        return {
            **super().get_config(),
            "length": self.length,
            "tasks": self.tasks,
            "source": self.source,
            "sums": self.sums,
        }
