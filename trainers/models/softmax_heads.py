"""Output layers of tasks, each a softmax of its own, or the sum of what another task's softmax says."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import keras
import numpy as np
from keras import ops


class ClassSum(TypedDict):
    """A task that follows from another one, such as the kind of traffic from its kind inside and outside of a VPN."""

    of: str
    """The task that it follows from."""
    classes: Sequence[int]
    """For each class of that task the class of this one."""


class SoftmaxHeads:
    """The output layers of a model.

    Args:
      tasks: number of classes of each task.
      sums: tasks without a layer of their own: p[j] is the sum of the other task's p[i] over all i with classes[i] = j,
        so that both answers always agree.
    """

    def __init__(self, tasks: Mapping[str, int], sums: Mapping[str, ClassSum]) -> None:
        if not tasks or min(tasks.values()) < 2:
            raise ValueError(f"tasks must name at least one task of 2 or more classes, got {dict(tasks)}")
        for task, source in sums.items():
            if task not in tasks or source["of"] not in tasks or source["of"] in sums:
                raise ValueError(
                    f"sums must name tasks among {', '.join(tasks)}, each a sum of one that is none, "
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
        """Return {task: [B, 1]}, the second class, for two classes, {task: [B, classes]} for more.

        Args:
          features: what each task with a layer reads, [B, width].
        """
        said = {task: layer(features[task]) for task, layer in self._layers.items()}
        for task, source in self._sums.items():
            one_hot = np.eye(self._tasks[task], dtype=np.float32)[list(source["classes"])]
            said[task] = ops.matmul(said[source["of"]], one_hot)
        return {task: said[task] if classes > 2 else said[task][:, 1:] for task, classes in self._tasks.items()}

    def variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone; a sum has none."""
        return self._layers[task].trainable_variables if task in self._layers else []

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(math.prod(layer.kernel.shape) for layer in self._layers.values())
