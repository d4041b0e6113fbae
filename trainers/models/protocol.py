"""Interface of every multi-task network, which training and evaluation rely on."""

from collections.abc import Sequence
from typing import Any, Protocol

import keras


class MultiTaskModel(Protocol):
    """A Keras model with one output per task."""

    def __call__(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        """Returns {task: probabilities [B, 1] for two classes, [B, classes] for more}."""

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains."""

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights, without biases, of the last layer that every task trains; gradients are compared there."""

    def task_variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone."""

    @property
    def losses(self) -> Sequence[Any]:
        """Penalties on variables, which are added to the losses of the tasks."""

    def count_params(self) -> int:
        """Returns the number of parameters."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
