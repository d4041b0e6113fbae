"""Output layers of tasks, and the towers of dense layers before them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import keras
import numpy as np
from keras import ops


def check_tasks(tasks: Mapping[str, int]) -> None:
    """Raises unless there is a task, and every task has 2 or more classes.

    Raises:
      ValueError: listing the tasks.
    """
    if not tasks or min(tasks.values()) < 2:
        raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")


def task_head(task: str, classes: int) -> keras.layers.Dense:
    """Returns the output layer of a task: a softmax, or one sigmoid for two classes, always in float32."""
    units, activation = (classes, "softmax") if classes > 2 else (1, "sigmoid")
    return keras.layers.Dense(units, activation=activation, dtype="float32", name=f"{task}_head")


def task_heads(tasks: Mapping[str, int]) -> dict[str, keras.layers.Dense]:
    """Returns the output layer of each task, from its number of classes."""
    return {task: task_head(task, classes) for task, classes in tasks.items()}


def task_towers(tasks: Iterable[str], widths: Sequence[int]) -> dict[str, list[keras.layers.Dense]]:
    """Returns the ReLU layers that each task has before its output layer."""
    return {
        task: [keras.layers.Dense(width, activation="relu", name=f"{task}_tower_{n}") for n, width in enumerate(widths)]
        for task in tasks
    }


class ClassSum(TypedDict):
    """A task whose classes are sums of another task's classes.

    Example: VPN or not, from the kind of traffic inside and outside of a VPN.
    """

    of: str
    """The other task."""
    classes: Sequence[int]
    """For each class of the other task, the class of this one."""


class SoftmaxHeads:
    """Softmax output layers, and the tasks that are sums of another task's probabilities.

    Args:
      tasks: number of classes of each task.
      sums: tasks without a layer of their own: p[j] is the sum of the other task's p[i] over all i with classes[i] = j,
        so that the two predictions always agree.

    Raises:
      ValueError: if a task has fewer than 2 classes, or a sum does not fit the tasks.
    """

    def __init__(self, tasks: Mapping[str, int], sums: Mapping[str, ClassSum]) -> None:
        check_tasks(tasks)
        for task, source in sums.items():
            if task not in tasks or source["of"] not in tasks or source["of"] in sums:
                raise ValueError(
                    f"sums must name tasks among {', '.join(tasks)}, each the sum of a task that is not a sum itself, "
                    f"got {task!r} of {source['of']!r}"
                )
            classes = list(source["classes"])
            if len(classes) != tasks[source["of"]] or not set(classes) <= set(range(tasks[task])):
                wanted = f"{tasks[source['of']]} numbers from 0 to {tasks[task] - 1}"
                raise ValueError(f"sums.{task}.classes must be {wanted}, got {classes}")
        self._tasks, self._sums = dict(tasks), dict(sums)
        self._layers = {
            task: keras.layers.Dense(classes, activation="softmax", dtype="float32", name=f"{task}_head")
            for task, classes in tasks.items()
            if task not in sums
        }

    def __call__(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Returns {task: [B, 1]}, the second class, for two classes, {task: [B, classes]} for more.

        Args:
          features: the input of each task's layer, [B, width].
        """
        predicted = {task: layer(features[task]) for task, layer in self._layers.items()}
        for task, source in self._sums.items():
            one_hot = np.eye(self._tasks[task], dtype=np.float32)[list(source["classes"])]
            predicted[task] = ops.matmul(predicted[source["of"]], one_hot)
        return {
            task: predicted[task] if classes > 2 else predicted[task][:, 1:] for task, classes in self._tasks.items()
        }

    def variables(self, task: str) -> list[keras.Variable]:
        """Returns the variables of one task alone; a sum has none."""
        return self._layers[task].trainable_variables if task in self._layers else []

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(math.prod(layer.kernel.shape) for layer in self._layers.values())
