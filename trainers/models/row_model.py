"""What all networks of rows of bytes or features are: a row in, and of each task what its head says of it."""

from collections.abc import Mapping
from typing import Any

import keras

from flowloom.trainers.models.heads import ClassSum, SoftmaxHeads
from flowloom.trainers.models.tokens import Source


class RowModel(keras.Model):
    """A network of rows, with an output layer for each task that is no sum of another one's.

    Args:
      inputs: as of `tokens.row_input`.
      features: what each task's output layer reads, [B, width].
      heads: the output layers. They are made before the network's layers are called, by its constructor: in which order
        layers are made is what their first weights depend on, seed or not.
      length: bytes or features of a row.
      tasks: number of classes of each task.
      source: name and kind of the input.
      sums: tasks that follow from another one, see `SoftmaxHeads`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        features: Mapping[str, Any],
        heads: SoftmaxHeads,
        *,
        length: int,
        tasks: Mapping[str, int],
        source: Source,
        sums: Mapping[str, ClassSum] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, heads(features), **kwargs)
        self.length, self.tasks, self.source, self.sums = length, dict(tasks), source, dict(sums or {})
        self._heads = heads

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone: its head."""
        return self._heads.variables(task)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor that all networks of rows have."""
        return {
            **super().get_config(),
            "length": self.length,
            "tasks": self.tasks,
            "source": self.source,
            "sums": self.sums,
        }
