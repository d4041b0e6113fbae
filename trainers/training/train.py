"""Training: a dataset and a recipe to a run directory, resumable after every epoch and inside of it."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pydantic

from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.models.feature_profile import PROFILE
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.profile_counts import profile_dataset
from flowloom.trainers.feed.synthetic_rows import with_made_rows
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import AnyRowSpec, row_spec
from flowloom.trainers.training import latecomers
from flowloom.trainers.training.checkpoint import Checkpoints
from flowloom.trainers.training.epoch_loop import PartialEpoch
from flowloom.trainers.training.loop import Progress, Training


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What `train` needs."""

    dataset: Path
    run: Path
    recipe: str = "multa"
    overrides: tuple[str, ...] = ()
    """`key=value` words that replace settings of the recipe."""
    checkpoint_s: float = 300.0
    """Seconds after which the state of the training is saved inside of an epoch too; no number depends on it."""

    def __post_init__(self) -> None:
        if not self.checkpoint_s >= 0:
            raise FlowloomError(f"checkpoint_s must be >= 0, got {self.checkpoint_s}")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What came of a training."""

    run: Path
    recipe: str
    paradigm: str
    epochs: int
    """Epochs trained, those before a resume included."""
    best_epoch: int
    """The epoch whose weights were kept."""
    steps: int
    parameters: int
    validation_auc: dict[str, float | None]
    """Per task, of the best epoch."""
    seconds: float
    """Of this call alone."""


def train(options: TrainOptions, progress: Callable[[Progress], None] = lambda _: None) -> RunSummary:
    """Train a model by a recipe; continue if the run directory holds the same training, unfinished.

    The same seed, dataset and recipe give the same numbers on the same machine, interrupted or not. Under `transfer`
    the run directory holds a second run, `pretrained`, of the tasks that the convolutions were learned from.

    Raises:
      FlowloomError: if dataset or recipe are invalid, or the run directory holds a finished or another run.
    """
    recipe = Recipe.named(options.recipe, options.overrides)
    dataset = Dataset.open(options.dataset)
    check_tasks(recipe, dataset)
    if recipe.schedule.paradigm == "isolated":
        raise FlowloomError("paradigm isolated needs a model that knew other tasks; `flowloom retrain` sets it")
    return train_from(recipe, dataset, options.run, options.checkpoint_s, progress)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a training begins with in the place of a new model: one that was trained, and what it sees of a row."""

    model: MultiTaskModel
    features: AnyRowSpec
    trained: tuple[str, ...]
    """The tasks that are trained on; those of the model besides them stay as they are."""


def train_from(
    recipe: Recipe,
    whole: Dataset,
    root: Path,
    checkpoint_s: float,
    progress: Callable[[Progress], None],
    start: Start | None = None,
) -> RunSummary:
    """Train by a recipe whose tasks were checked, and before that what it builds on."""
    began = time.perf_counter()
    earlier = _pretrain_tasks(recipe, whole) if recipe.schedule.paradigm == "transfer" else ()
    wanted = recipe.feed.tasks or recipe.schedule.arrivals or [task.name for task in whole.tasks]
    dataset = whole.restricted([task for task in wanted if task not in earlier])
    features = start.features if start else row_spec(recipe, dataset)
    trained = dataset.restricted(start.trained) if start else dataset
    beginnings = {
        run_directory.RECIPE: recipe,
        run_directory.FEATURES: features,
        run_directory.SOURCE: run_directory.TrainingData.of(dataset.root, dataset.card),
    }
    _check_begun(root, beginnings)
    made = _made(recipe, trained, features, root)
    training = Training(recipe, trained, features, made, start.model if start else None)
    _begin(root, beginnings)
    if earlier:
        training.model.adopt(_pretrain(recipe, whole.restricted(earlier), root, checkpoint_s, progress))
    parts = {"model": training.model, "optimizer": training.optimizer, "weighting": training.weighting}
    checkpoints = Checkpoints(root / run_directory.CHECKPOINTS, parts)

    history, begun = _resume(root, checkpoints)
    for record in training.epochs(history, progress, begun, _every(checkpoint_s, checkpoints.save_inside)):
        run_directory.write_json(root / run_directory.HISTORY, history)
        checkpoints.save(record["epoch"], keep={training.kept_epoch(history)})
        progress(Progress(record["epoch"], training.planned_epochs, record["steps"], record["steps"], record))

    best = training.kept_epoch(history)
    checkpoints.restore(best)
    if training.arrivals:
        run_directory.write_json(root / run_directory.LATECOMERS, latecomers.findings(training.arrivals, history))
    if isinstance(features, FeatureSpec):
        profile = profile_dataset(dataset, features.columns, features.k)
        run_directory.write_text(root / PROFILE, profile.model_dump_json() + "\n")
    summary = RunSummary(
        run=root,
        recipe=recipe.name,
        paradigm=training.paradigm,
        epochs=len(history),
        best_epoch=best,
        steps=sum(record["steps"] for record in history),
        parameters=training.model.count_params(),
        validation_auc=history[best - 1]["validation_auc"],
        seconds=round(time.perf_counter() - began, 3),
    )
    _finish(summary, training.single_precision_model())
    return summary


def check_tasks(recipe: Recipe, dataset: Dataset) -> None:
    """Checks that the dataset has all tasks that a recipe names.

    Raises:
      FlowloomError: naming the first setting with another task.
    """
    tasks, balance = [task.name for task in dataset.tasks], recipe.feed.balance
    settings: dict[str, Iterable[str]] = {
        "loss.weights": recipe.loss.weights,
        "feed.tasks": recipe.feed.tasks,
        "schedule.arrivals": recipe.schedule.arrivals,
        "feed.labels_per_class": recipe.feed.labels_per_class,
        "schedule.pretrain_tasks": recipe.schedule.pretrain_tasks,
        "model.transformer_tasks": recipe.model.transformer_tasks,
        "feed.balance": [name for name in (balance.task, balance.within) if name] if balance else [],
    }
    for setting, names in settings.items():
        for name in names:
            if name not in tasks:
                raise FlowloomError(
                    f"{setting} must name tasks of dataset {dataset.root} ({', '.join(tasks)}), got {name!r}"
                    f"{did_you_mean(name, tasks)}"
                )


def _pretrain_tasks(recipe: Recipe, dataset: Dataset) -> tuple[str, ...]:
    """Return the tasks that a transfer learns first."""
    automatic = tuple(task.name for task in dataset.tasks if task.kind == "auto")
    earlier = recipe.schedule.pretrain_tasks or tuple(task for task in automatic if task not in recipe.feed.tasks)
    if not earlier:
        raise FlowloomError(
            f"a transfer needs tasks to learn from first, and dataset {dataset.root} has none of kind auto besides the "
            "trained ones; name some in pretrain_tasks, or build the dataset with a task of kind auto"
        )
    if both := [task for task in earlier if task in recipe.feed.tasks]:
        raise FlowloomError(f"{', '.join(both)} cannot be in both tasks and pretrain_tasks; remove it from one")
    if not recipe.feed.tasks and len(earlier) == len(dataset.tasks):
        raise FlowloomError(
            f"a transfer needs a task besides those it learns first ({', '.join(earlier)}), and dataset {dataset.root} "
            "has none; name fewer in pretrain_tasks, or build the dataset with another task"
        )
    return earlier


def _pretrain(
    recipe: Recipe, dataset: Dataset, root: Path, checkpoint_s: float, progress: Callable[[Progress], None]
) -> MultitaskCNN:
    """Return the network of the earlier tasks, trained in a run inside of the run unless it was before."""
    pretrained = root / run_directory.PRETRAINED
    if not (pretrained / run_directory.FINISHED).exists():
        earlier = {
            "schedule.paradigm": "aurora",
            "schedule.epochs": recipe.schedule.pretrain_epochs,
            "feed.tasks": tuple(task.name for task in dataset.tasks),
            "schedule.pretrain_tasks": (),
            "feed.balance": None,  # it belongs to the tasks of the transfer
        }
        train_from(recipe.changed(earlier), dataset, pretrained, checkpoint_s, progress)
    return cast(MultitaskCNN, run_directory.Run.open(pretrained).load_model())


def _made(recipe: Recipe, dataset: Dataset, features: AnyRowSpec, root: Path) -> Dataset | None:
    """Return the dataset with rows made for training, which are kept beside the run; None if the recipe wants none."""
    if recipe.feed.balance is None or recipe.feed.balance.how != "smote":
        return None
    root.mkdir(parents=True, exist_ok=True)
    path = root / run_directory.MADE
    return with_made_rows(dataset, cast(TableSpec, features), recipe.feed.balance, recipe.seed, path)


def _check_begun(root: Path, beginnings: Mapping[str, pydantic.BaseModel]) -> bool:
    """Say whether an unfinished run began with just this; refuse a directory that holds anything else."""
    if (root / run_directory.FINISHED).exists():
        raise FlowloomError(f"{root} holds a finished run; evaluate it, or train into another directory")
    if root.exists() and not root.is_dir():
        raise FlowloomError(f"{root} is a file; name a directory for the run")
    if not (root / run_directory.RECIPE).exists():
        expected = {*beginnings, run_directory.TUNING, run_directory.MADE}
        if root.exists() and any(path.name.removeprefix(".partial-") not in expected for path in root.iterdir()):
            raise FlowloomError(f"{root} is not empty and holds no run; train into another directory")
        return False
    for name, wanted in beginnings.items():
        try:
            found = type(wanted).model_validate_json((root / name).read_bytes())
        except (OSError, pydantic.ValidationError):
            raise FlowloomError(
                f"{root / name} of an unfinished run cannot be read; train into another directory"
            ) from None
        if wanted.model_copy(update={"path": ""}) != found.model_copy(update={"path": ""}):
            raise FlowloomError(
                f"{root} holds an unfinished run with another {name.removesuffix('.json')}; "
                "repeat the training that began it, or train into another directory"
            )
    return True


def _begin(root: Path, beginnings: Mapping[str, pydantic.BaseModel]) -> None:
    """Write down what is trained on what, unless an unfinished run began with just that."""
    if _check_begun(root, beginnings):
        return
    root.mkdir(parents=True, exist_ok=True)
    # the recipe comes last: it is what marks the directory as a run that can be continued
    for name in reversed(list(beginnings)):
        run_directory.write_text(root / name, beginnings[name].model_dump_json(indent=2) + "\n")


def _resume(root: Path, checkpoints: Checkpoints) -> tuple[list[dict[str, Any]], PartialEpoch | None]:
    """Restore the latest checkpoint and return the history up to it, and how far the epoch after that has come."""
    if not (epochs := checkpoints.epochs()):
        return [], checkpoints.restore_inside(1)
    history = json.loads((root / run_directory.HISTORY).read_bytes())[: epochs[-1]]
    if not (begun := checkpoints.restore_inside(epochs[-1] + 1)):
        checkpoints.restore(epochs[-1])
    return history, begun


def _every(seconds: float, save: Callable[[PartialEpoch], None]) -> Callable[[PartialEpoch], None]:
    """Return a function that saves at most once in so many seconds."""
    last = time.monotonic()

    def stepped(begun: PartialEpoch) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            save(begun)
            last = time.monotonic()

    return stepped


def _finish(summary: RunSummary, model: Any) -> None:
    """Write the model, then the marker that the run is complete."""
    partial = summary.run / f".partial-{run_directory.MODEL}"
    model.save(partial)
    os.replace(partial, summary.run / run_directory.MODEL)
    versions = {
        name: importlib.metadata.version(name) for name in ("flowloom", "tensorflow", "keras", "numpy", "pyarrow")
    }
    facts = {**dataclasses.asdict(summary), "run": summary.run.name}
    run_directory.write_json(
        summary.run / run_directory.FINISHED, {**facts, "versions": versions, "python": platform.python_version()}
    )
