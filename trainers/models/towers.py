"""What is a task's own behind its experts: a tower of dense layers and an output layer."""

from collections.abc import Iterable, Mapping, Sequence

import keras

from flowloom.trainers.models.multitask_cnn import task_head


def task_towers(tasks: Iterable[str], widths: Sequence[int]) -> dict[str, list[keras.layers.Dense]]:
    """Return the ReLU layers of each task's tower."""
    return {
        task: [keras.layers.Dense(width, activation="relu", name=f"{task}_tower_{n}") for n, width in enumerate(widths)]
        for task in tasks
    }


def task_heads(tasks: Mapping[str, int]) -> dict[str, keras.layers.Dense]:
    """Return the output layer of each task, by its number of classes."""
    return {task: task_head(task, classes) for task, classes in tasks.items()}
