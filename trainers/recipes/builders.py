"""Which model a recipe names, and how it is made from the recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.models.byte_cnn import ByteCNN
from flowloom.trainers.models.byte_transformer import ByteTransformer
from flowloom.trainers.models.cnn_rnn2 import CNNRNN2
from flowloom.trainers.models.heads import ClassSum
from flowloom.trainers.models.lmmoe import LMMoE, shared_and_own
from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.ple import PLE
from flowloom.trainers.models.tokens import token_shape
from flowloom.trainers.recipes.recipe import Recipe, SummedTask


def build_lmmoe(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> LMMoE | PLE:
    """Return an untrained mixture of LSTM experts for the tasks of a dataset, by the recipe's architecture."""
    classes = _classes(tasks)
    if recipe.latecomer == "isolate":
        classes = {task: classes[task] for task in recipe.arrivals or classes}
    sizes: dict[str, Any] = {
        "k": features.k,
        "channels": len(features.features),
        "tasks": classes,
        "units": recipe.units,
        "gate_input": recipe.gate_input,
        "tower": recipe.tower,
    }
    if recipe.architecture == "ple":
        return PLE(experts=recipe.experts, task_experts=recipe.task_experts, **sizes)
    if recipe.architecture == "cgc":
        sees = shared_and_own(classes, recipe.experts, recipe.task_experts)
        return LMMoE(experts=recipe.experts + len(classes) * recipe.task_experts, sees=sees, **sizes)
    if recipe.architecture == "dselect_k":
        sizes |= {"gating": "dselect_k", "selected": recipe.selected_experts, "gate_entropy": recipe.gate_entropy}
    if recipe.latecomer == "isolate":
        brought = [1] * (len(classes) - 1)
        sees = {task: tuple(range(recipe.experts + n)) for n, task in enumerate(classes)}
        return LMMoE(experts=recipe.experts + len(brought), generations=[recipe.experts, *brought], sees=sees, **sizes)
    return LMMoE(experts=recipe.experts, **sizes)


def build_multitask_cnn(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> MultitaskCNN:
    """Return an untrained multi-task CNN for the tasks of a dataset."""
    return MultitaskCNN(features.k, len(features.features), _classes(tasks), recipe.convolutions)


def build_cnn_rnn2(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> CNNRNN2:
    """Return an untrained CNN+RNN-2 for each task of a dataset."""
    return CNNRNN2(features.k, len(features.features), _classes(tasks))


def build_mtc(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> MTC:
    """Return an untrained MTC for the tasks of a dataset."""
    names = [task.name for task in tasks]
    row = _row(recipe, features, tasks)
    return MTC(
        **row,
        transformer_tasks=[name for name in recipe.transformer_tasks if name in names],
        stem=recipe.stem or token_shape(row["length"])[1],
        repetitions=recipe.repetitions,
        attention_heads=recipe.attention_heads,
        dropout=recipe.dropout,
        expanded=recipe.expanded,
        positions=recipe.positions,
        readout=recipe.readout,
        masked=recipe.masked,
    )


def build_byte_transformer(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> ByteTransformer:
    """Return an untrained multi-task Transformer for the tasks of a dataset."""
    row = _row(recipe, features, tasks)
    return ByteTransformer(**row, encoders=recipe.encoders, attention_heads=recipe.attention_heads)


def build_byte_cnn(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> ByteCNN:
    """Return an untrained multi-task 1D-CNN for the tasks of a dataset."""
    return ByteCNN(**_row(recipe, features, tasks))


def _row(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what all models of long rows are made from."""
    ((source, row),) = features.inputs.items()
    (length,) = row.shape
    named = {task.name: task for task in tasks}
    sums = {name: _class_sum(name, told, named) for name, told in recipe.sums.items()}
    return {"length": length, "tasks": _classes(tasks), "source": source, "sums": sums}


def _class_sum(name: str, told: SummedTask, tasks: Mapping[str, Task]) -> ClassSum:
    """Return which class of a task each class of another one counts for.

    Raises:
      FlowloomError: if a task or a word is not there.
    """
    for task in (name, told.of):
        if task not in tasks:
            raise FlowloomError(
                f"sums name the task {task!r}; the trained tasks are {', '.join(tasks)}{did_you_mean(task, tasks)}"
            )
    words = tasks[name].vocabulary
    meant = [told.words.get(word, word) for word in tasks[told.of].vocabulary]
    if unknown := [word for word in told.words if word not in tasks[told.of].vocabulary]:
        raise FlowloomError(
            f"sums of task {name!r} must map words of task {told.of!r}, which are "
            f"{', '.join(tasks[told.of].vocabulary)}; got {unknown[0]!r}"
        )
    if foreign := [word for word in (*meant, *told.words.values()) if word not in words]:
        raise FlowloomError(
            f"sums of task {name!r} must give words of it, which are {', '.join(words)}; got {foreign[0]!r}"
            f"{did_you_mean(foreign[0], words)}"
        )
    return {"of": told.of, "classes": [words.index(word) for word in meant]}


def _classes(tasks: Sequence[Task]) -> dict[str, int]:
    return {task.name: len(task.vocabulary) for task in tasks}


MODELS: dict[str, Callable[[Recipe, Any, Sequence[Task]], keras.Model]] = {
    "lmmoe": build_lmmoe,
    "multitask_cnn": build_multitask_cnn,
    "cnn_rnn2": build_cnn_rnn2,
    "mtc": build_mtc,
    "byte_transformer": build_byte_transformer,
    "byte_cnn": build_byte_cnn,
}
"""The builder of every value of `Recipe.model`, which is given the `RowSpec` of the recipe's view."""
