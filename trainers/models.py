"""Which model a recipe names, and how it is made from the recipe."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras

from flowloom.schemas.tasks import Task
from flowloom.trainers.arrival_lmmoe import ArrivalLMMoE
from flowloom.trainers.cnn_rnn2 import CNNRNN2
from flowloom.trainers.features import FeatureSpec
from flowloom.trainers.lmmoe import LMMoE
from flowloom.trainers.multitask_cnn import MultitaskCNN
from flowloom.trainers.recipe import Recipe


class MultiTaskModel(Protocol):
    """What paradigms and evaluation need of a Keras model, whichever its architecture."""

    def __call__(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        """Return {task: probabilities [B, 1] for two classes, [B, classes] for more}."""

    @property
    def shared_variables(self) -> list[keras.Variable]:
        """The variables that every task trains."""

    @property
    def last_shared_variables(self) -> list[keras.Variable]:
        """The weights of the last layer that every task trains, biases aside, where gradients of tasks are compared."""

    def task_variables(self, task: str) -> list[keras.Variable]:
        """The variables of one task alone."""

    def count_params(self) -> int:
        """Return the number of parameters."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""


def build_lmmoe(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> LMMoE | ArrivalLMMoE:
    """Return an untrained LMMoE for the tasks of a dataset, one that isolates latecomers if the recipe says so."""
    classes = _classes(tasks)
    if isolated := recipe.latecomer == "isolate":
        classes = {task: classes[task] for task in recipe.arrivals or classes}
    return (ArrivalLMMoE if isolated else LMMoE)(
        k=features.k,
        channels=len(features.features),
        tasks=classes,
        experts=recipe.experts,
        units=recipe.units,
        gate_input=recipe.gate_input,
        tower=recipe.tower,
    )


def build_multitask_cnn(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> MultitaskCNN:
    """Return an untrained multi-task CNN for the tasks of a dataset."""
    return MultitaskCNN(features.k, len(features.features), _classes(tasks), recipe.convolutions)


def build_cnn_rnn2(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> CNNRNN2:
    """Return an untrained CNN+RNN-2 for each task of a dataset."""
    return CNNRNN2(features.k, len(features.features), _classes(tasks))


def _classes(tasks: Sequence[Task]) -> dict[str, int]:
    return {task.name: len(task.vocabulary) for task in tasks}


MODELS: dict[str, Callable[[Recipe, FeatureSpec, Sequence[Task]], keras.Model]] = {
    "lmmoe": build_lmmoe,
    "multitask_cnn": build_multitask_cnn,
    "cnn_rnn2": build_cnn_rnn2,
}
"""The builder of every value of `Recipe.model`."""
