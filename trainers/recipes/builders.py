"""Builders of untrained models by recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.models.baselines.byte_patches import BytePatches
from flowloom.trainers.models.baselines.cesnet_cnn import CesnetCNN
from flowloom.trainers.models.baselines.flowpic_cnn import FlowPicCNN
from flowloom.trainers.models.byte_cnn import ByteCNN
from flowloom.trainers.models.byte_transformer import ByteTransformer
from flowloom.trainers.models.cnn_rnn2 import CNNRNN2
from flowloom.trainers.models.heads import ClassSum
from flowloom.trainers.models.lmmoe import LMMoE, shared_and_own
from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.packets.flow_net import FlowNet
from flowloom.trainers.models.ple import PLE
from flowloom.trainers.models.tokens import token_shape
from flowloom.trainers.recipes.model_settings import PATCH_HEADS, ModelSettings, SummedTask
from flowloom.trainers.recipes.recipe import Recipe

ATTENTION_HEADS = 4
"""Heads of self-attention over packets where the recipe gives none."""


def build_lmmoe(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> LMMoE | PLE:
    """Returns an untrained mixture of LSTM experts for the tasks of a dataset, by `model.architecture`."""
    classes, model = _classes(tasks), recipe.model
    if recipe.schedule.latecomer == "isolate":
        classes = {task: classes[task] for task in recipe.schedule.arrivals or classes}
    sizes: dict[str, Any] = {
        "k": features.k,
        "channels": len(features.features),
        "tasks": classes,
        "units": model.units,
        "gate_input": model.gate_input,
        "tower": model.tower,
    }
    if model.input == "bins":
        sizes |= {"features": features.features, "embedding": model.embedding, "dropout": model.dropout}
    if model.expert_kind == "pooled":
        inner = _pooled(model)
        sizes["pooled"] = {name: value for name, value in inner.items() if name != "dropout"}
        sizes["pooled"]["first"] = min(inner["first"], features.k)
    if model.architecture == "ple":
        return PLE(experts=model.experts, task_experts=model.task_experts, **sizes)
    if model.architecture == "cgc":
        sees = shared_and_own(classes, model.experts, model.task_experts)
        return LMMoE(experts=model.experts + len(classes) * model.task_experts, sees=sees, **sizes)
    if model.architecture == "dselect_k":
        sizes |= {"gating": "dselect_k", "selected": model.selected_experts, "gate_entropy": model.gate_entropy}
    if recipe.schedule.latecomer == "isolate":
        brought = [1] * (len(classes) - 1)
        sees = {task: tuple(range(model.experts + n)) for n, task in enumerate(classes)}
        return LMMoE(experts=model.experts + len(brought), generations=[model.experts, *brought], sees=sees, **sizes)
    return LMMoE(experts=model.experts, **sizes)


def build_flow_net(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> FlowNet:
    """Returns an untrained FlowNet for the tasks of a dataset."""
    model = recipe.model
    return FlowNet(
        features.k,
        features.features,
        _classes(tasks),
        width=model.width,
        readout=model.readout_width,
        embedding=model.embedding,
        **_pooled(model),
    )


def _pooled(model: ModelSettings) -> dict[str, Any]:
    """Returns the arguments that FlowNet and pooled experts share."""
    return {
        "layers": model.layers,
        "mixing": model.mixing,
        "attention_heads": model.attention_heads or ATTENTION_HEADS,
        "pooling": model.pooling,
        "first": model.first_packets,
        "dropout": model.dropout,
    }


def build_multitask_cnn(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> MultitaskCNN:
    """Returns an untrained multi-task CNN for the tasks of a dataset."""
    return MultitaskCNN(features.k, len(features.features), _classes(tasks), recipe.model.convolutions)


def build_cnn_rnn2(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> CNNRNN2:
    """Returns an untrained CNN+RNN-2 for each task of a dataset."""
    return CNNRNN2(features.k, len(features.features), _classes(tasks))


def build_mtc(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> MTC:
    """Returns an untrained MTC for the tasks of a dataset."""
    names = [task.name for task in tasks]
    row, model = _row(recipe, features, tasks), recipe.model
    return MTC(
        **row,
        transformer_tasks=[name for name in model.transformer_tasks if name in names],
        stem=model.stem or token_shape(row["length"])[1],
        repetitions=model.repetitions,
        attention_heads=model.attention_heads,
        dropout=model.dropout,
        expanded=model.expanded,
        positions=model.positions,
        readout=model.readout,
        masked=model.masked,
    )


def build_byte_transformer(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> ByteTransformer:
    """Returns an untrained multi-task Transformer for the tasks of a dataset."""
    row = _row(recipe, features, tasks)
    return ByteTransformer(**row, encoders=recipe.model.encoders, attention_heads=recipe.model.attention_heads)


def build_byte_cnn(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> ByteCNN:
    """Returns an untrained multi-task 1D-CNN for the tasks of a dataset."""
    return ByteCNN(**_row(recipe, features, tasks))


def build_cesnet_cnn(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> CesnetCNN:
    """Returns an untrained CNN of CESNET for the tasks of a dataset."""
    return CesnetCNN(features.k, len(features.features), _classes(tasks))


def build_flowpic(recipe: Recipe, features: FeatureSpec, tasks: Sequence[Task]) -> FlowPicCNN:
    """Returns an untrained CNN on pictures of flows for the tasks of a dataset.

    Raises:
      FlowloomError: if k windows are too long.
    """
    model = recipe.model
    try:
        return FlowPicCNN(features.k, len(features.features), _classes(tasks), model.pixels, model.window_s)
    except ValueError as error:
        raise FlowloomError(f"{error}; lower feed.k or model.window_s") from None


def build_byte_patches(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> BytePatches:
    """Returns an untrained Transformer on patches of bytes for the tasks of a dataset."""
    model = recipe.model
    return BytePatches(
        **_row(recipe, features, tasks),
        patch=model.patch,
        width=model.token_width,
        encoders=model.encoders,
        attention_heads=model.attention_heads or PATCH_HEADS,
        dropout=model.dropout,
    )


def _row(recipe: Recipe, features: RowSpec, tasks: Sequence[Task]) -> dict[str, Any]:
    """Returns the arguments that all models of packets and tables share."""
    ((source, row),) = features.inputs.items()
    (length,) = row.shape
    named = {task.name: task for task in tasks}
    sums = {name: _class_sum(name, summed, named) for name, summed in recipe.model.sums.items()}
    return {"length": length, "tasks": _classes(tasks), "source": source, "sums": sums}


def _class_sum(name: str, summed: SummedTask, tasks: Mapping[str, Task]) -> ClassSum:
    """Returns, for each class of the summed task, the class of task `name` that its probability is added to.

    Raises:
      FlowloomError: if a task or a label value does not exist.
    """
    for task in (name, summed.of):
        if task not in tasks:
            raise FlowloomError(
                f"model.sums must name trained tasks ({', '.join(tasks)}), got {task!r}{did_you_mean(task, tasks)}"
            )
    values, summed_values = tasks[name].vocabulary, tasks[summed.of].vocabulary
    added_to = [summed.words.get(value, value) for value in summed_values]
    if unknown := [value for value in summed.words if value not in summed_values]:
        raise FlowloomError(
            f"the keys of model.sums.{name}.words must be label values of task {summed.of!r} "
            f"({', '.join(summed_values)}), got {unknown[0]!r}{did_you_mean(unknown[0], summed_values)}"
        )
    if foreign := [value for value in (*added_to, *summed.words.values()) if value not in values]:
        raise FlowloomError(
            f"model.sums.{name}.words must give label values of task {name!r} ({', '.join(values)}), got "
            f"{foreign[0]!r}{did_you_mean(foreign[0], values)}"
        )
    return {"of": summed.of, "classes": [values.index(value) for value in added_to]}


def _classes(tasks: Sequence[Task]) -> dict[str, int]:
    return {task.name: len(task.vocabulary) for task in tasks}


MODELS: dict[str, Callable[[Recipe, Any, Sequence[Task]], keras.Model]] = {
    "lmmoe": build_lmmoe,
    "flow_net": build_flow_net,
    "multitask_cnn": build_multitask_cnn,
    "cnn_rnn2": build_cnn_rnn2,
    "mtc": build_mtc,
    "byte_transformer": build_byte_transformer,
    "byte_cnn": build_byte_cnn,
    "cesnet_cnn": build_cesnet_cnn,
    "flowpic": build_flowpic,
    "byte_patches": build_byte_patches,
}
"""Builders by `model.kind`; each takes a recipe, the `RowSpec` of its view, and the tasks."""
