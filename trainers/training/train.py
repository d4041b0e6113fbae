"""Training: a dataset and a recipe to a run directory, resumable after every epoch and inside an epoch."""

import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pydantic

from flowloom.schemas.atomic_files import UNFINISHED, replacing, write_json, write_text
from flowloom.schemas.dataset.dataset_findings import report_problems
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.file_digests import sealed
from flowloom.schemas.folder_lock import LOCK, locked_folder
from flowloom.schemas.models.feature_profile import PROFILE
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.profile_counts import profile_dataset
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.fitting.fit_recipe import fit_trees
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import AnyRowSpec, row_spec
from flowloom.trainers.training import latecomers
from flowloom.trainers.training.checkpoint import Checkpoints
from flowloom.trainers.training.epoch_loop import PartialEpoch
from flowloom.trainers.training.loop import Training
from flowloom.trainers.training.synthetic_rows import with_synthetic_rows
from flowloom.trainers.training.trainable import require_trainable
from flowloom.trainers.trees.estimators import TREE_LIBRARIES
from flowloom.trainers.trees.tree_model import TREES, TreeModel


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `train`."""

    dataset: Path
    run: Path
    recipe: str = "multa"
    overrides: tuple[str, ...] = ()
    """`key=value` texts that replace settings of the recipe."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints inside an epoch; results do not depend on it."""

    def __post_init__(self) -> None:
        if not self.checkpoint_s >= 0:
            raise FlowloomError(f"checkpoint_s must be >= 0, got {self.checkpoint_s}")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """The outcome of a training."""

    run: Path
    recipe: str
    paradigm: str
    epochs: int
    """Trained epochs, including those before a resume."""
    best_epoch: int
    """The epoch whose weights were kept."""
    steps: int
    parameters: int
    validation_auc: dict[str, float | None]
    """ROC AUC of each task at the best epoch."""
    seconds: float
    """Duration of this call alone."""


def train(options: TrainOptions, progress: Callable[[Progress], None] = ignore_progress) -> RunSummary:
    """Trains a model by a recipe, or continues the same unfinished training of the run directory.

    Seed, dataset and recipe determine all numbers on a machine, whether a training is interrupted or not. Under
    `transfer` the run directory holds a second run, `pretrained`, of the tasks that the convolutions are learned from.

    Raises:
      FlowloomError: if dataset or recipe are invalid, the dataset has no split or task that can be used, or the run
        directory holds a finished or another run.
    """
    recipe = Recipe.named(options.recipe, options.overrides)
    dataset = Dataset.open(options.dataset)
    check_tasks(recipe, dataset)
    if recipe.schedule.paradigm == "isolated":
        raise FlowloomError(
            "schedule.paradigm=isolated needs a trained model of other tasks; use `flowloom retrain`, which sets it"
        )
    trained = dataset.restricted(_wanted_tasks(recipe, dataset))
    require_trainable(trained, recipe.view)
    report_problems(trained.card, progress)
    return train_from(recipe, dataset, options.run, options.checkpoint_s, progress)


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained model to continue with, and its view of a row."""

    model: MultiTaskModel
    features: AnyRowSpec
    trained: tuple[str, ...]
    """Tasks that are trained; the model's other tasks do not change."""


def train_from(
    recipe: Recipe,
    whole: Dataset,
    root: Path,
    checkpoint_s: float,
    progress: Callable[[Progress], None],
    start: Start | None = None,
) -> RunSummary:
    """Trains by a recipe whose tasks were checked, with the lock of the run directory.

    Under `transfer` it trains the earlier tasks first.

    Raises:
      FlowloomError: if the run directory holds a finished or another run, or another process uses it.
    """
    if root.exists() and not root.is_dir():
        raise FlowloomError(f"the run directory must not be a file, got {root}; choose a directory")
    with locked_folder(root):
        return _train_locked(recipe, whole, root, checkpoint_s, progress, start)


def _train_locked(
    recipe: Recipe,
    whole: Dataset,
    root: Path,
    checkpoint_s: float,
    progress: Callable[[Progress], None],
    start: Start | None,
) -> RunSummary:
    began = time.perf_counter()
    earlier = _pretrain_tasks(recipe, whole) if recipe.schedule.paradigm == "transfer" else ()
    dataset = whole.restricted([task for task in _wanted_tasks(recipe, whole) if task not in earlier])
    features = start.features if start else row_spec(recipe, dataset)
    trained = dataset.restricted(start.trained) if start else dataset
    beginnings = {
        run_directory.RECIPE: recipe,
        run_directory.FEATURES: features,
        run_directory.SOURCE: run_directory.TrainingData.of(dataset.root, dataset.card),
    }
    _check_begun(root, beginnings)
    synthetic = _with_synthetic_rows(recipe, trained, features, root)
    if recipe.model.is_trees:
        _begin(root, beginnings)
        model, history = fit_trees(recipe, trained, features, synthetic, progress)
        write_json(root / run_directory.HISTORY, history)
        progress(_epoch_progress(history[0], 1))
        return _conclude(recipe, dataset, features, root, "aurora", history, 1, model, began)
    training = Training(recipe, trained, features, synthetic, start.model if start else None)
    _begin(root, beginnings)
    if earlier:
        training.model.adopt(_pretrain(recipe, whole.restricted(earlier), root, checkpoint_s, progress))
    parts = {"model": training.model, "optimizer": training.optimizer, "weighting": training.weighting}
    stand_ins = {"optimizer": training.optimizer.stand_ins}
    checkpoints = Checkpoints(root / run_directory.CHECKPOINTS, parts, stand_ins)

    history, begun = _resume(recipe, root, checkpoints)
    for record in training.epochs(history, progress, begun, _every(checkpoint_s, checkpoints.save_inside)):
        write_json(root / run_directory.HISTORY, history)
        checkpoints.save(record["epoch"], {training.kept_epoch(history)}, history)
        progress(_epoch_progress(record, training.planned_epochs))

    best = training.kept_epoch(history)
    checkpoints.restore(best)
    if training.arrivals:
        write_json(root / run_directory.LATECOMERS, latecomers.findings(training.arrivals, history))
    model = training.single_precision_model()
    return _conclude(recipe, dataset, features, root, training.paradigm, history, best, model, began)


def _conclude(
    recipe: Recipe,
    dataset: Dataset,
    features: AnyRowSpec,
    root: Path,
    paradigm: str,
    history: Sequence[Mapping[str, Any]],
    best: int,
    model: Any,
    began: float,
) -> RunSummary:
    """Writes the profile of the data, the model, and last run.json; returns the outcome."""
    if isinstance(features, FeatureSpec):
        profile = profile_dataset(dataset, features.columns, features.k)
        write_text(root / PROFILE, profile.model_dump_json() + "\n")
    summary = RunSummary(
        run=root,
        recipe=recipe.name,
        paradigm=paradigm,
        epochs=len(history),
        best_epoch=best,
        steps=sum(record["steps"] for record in history),
        parameters=model.count_params(),
        validation_auc=history[best - 1]["validation_auc"],
        seconds=round(time.perf_counter() - began, 3),
    )
    _finish(summary, model, TREE_LIBRARIES[recipe.model.kind] if recipe.model.is_trees else ("tensorflow", "keras"))
    return summary


def _epoch_progress(record: Mapping[str, Any], epochs: int) -> Progress:
    """Returns the progress after an epoch, with the validation AUC of each task."""
    aucs = record["validation_auc"].items()
    scores = ", ".join(f"{task} {'-' if auc is None else f'{auc:.3f}'}" for task, auc in aucs)
    text = f"epoch {record['epoch']} of {epochs}: validation AUC: {scores}"
    facts = {"epoch": record["epoch"], "epochs": epochs, "validation_auc": dict(aucs)}
    return Progress(text, record["steps"], record["steps"], stays=True, event="epoch", facts=facts)


def _wanted_tasks(recipe: Recipe, dataset: Dataset) -> Sequence[str]:
    """Returns the names of the tasks that a recipe trains."""
    return recipe.feed.tasks or recipe.schedule.arrivals or [task.name for task in dataset.tasks]


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
    """Returns the tasks whose convolutions a transfer reuses."""
    automatic = tuple(task.name for task in dataset.tasks if task.kind == "auto")
    earlier = recipe.schedule.pretrain_tasks or tuple(task for task in automatic if task not in recipe.feed.tasks)
    if not earlier:
        raise FlowloomError(
            f"schedule.pretrain_tasks must name a task, as dataset {dataset.root} has none of kind auto besides the "
            "trained ones, got none; name one, or build the dataset with a task of kind auto"
        )
    if both := [task for task in earlier if task in recipe.feed.tasks]:
        raise FlowloomError(
            f"feed.tasks and schedule.pretrain_tasks must be disjoint, got {', '.join(both)} in both; remove it from "
            "one"
        )
    if not recipe.feed.tasks and len(earlier) == len(dataset.tasks):
        raise FlowloomError(
            f"schedule.pretrain_tasks must leave a task of dataset {dataset.root} to train, got all of them "
            f"({', '.join(earlier)}); name fewer, or build the dataset with another task"
        )
    return earlier


def _pretrain(
    recipe: Recipe, dataset: Dataset, root: Path, checkpoint_s: float, progress: Callable[[Progress], None]
) -> MultitaskCNN:
    """Returns the network of the earlier tasks; trains it in a run inside the run unless that run is finished."""
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


def _with_synthetic_rows(recipe: Recipe, dataset: Dataset, features: AnyRowSpec, root: Path) -> Dataset | None:
    """Returns the dataset with synthetic train rows, stored in the run directory; None without smote."""
    if recipe.feed.balance is None or recipe.feed.balance.how != "smote":
        return None
    root.mkdir(parents=True, exist_ok=True)
    path = root / run_directory.SYNTHETIC
    return with_synthetic_rows(dataset, cast(TableSpec, features), recipe.feed.balance, recipe.seed, path)


def _check_begun(root: Path, beginnings: Mapping[str, pydantic.BaseModel]) -> bool:
    """Returns whether the directory holds an unfinished run of the same training.

    Raises:
      FlowloomError: if it holds a finished run, another run, or other files.
    """
    if (root / run_directory.FINISHED).exists():
        raise FlowloomError(f"{root} holds a finished run; evaluate it, or choose another directory")
    if not (root / run_directory.RECIPE).exists():
        expected = {*beginnings, run_directory.TUNING, run_directory.SYNTHETIC, LOCK}
        if root.exists() and any(path.name not in expected and not _is_unfinished(path) for path in root.iterdir()):
            raise FlowloomError(f"the run directory must be empty or hold a run, got {root}; choose another directory")
        return False
    for name, wanted in beginnings.items():
        try:
            found = type(wanted).model_validate_json((root / name).read_bytes())
        except (OSError, pydantic.ValidationError):
            raise FlowloomError(
                f"{root / name} of an unfinished run cannot be read; choose another directory"
            ) from None
        if wanted.model_copy(update={"path": ""}) != found.model_copy(update={"path": ""}):
            raise FlowloomError(
                f"{root} holds an unfinished run with another {name.removesuffix('.json')}; repeat the command that "
                "started it, or choose another directory"
            )
    return True


def _is_unfinished(path: Path) -> bool:
    """Returns whether a file was left by an interrupted write, of this version or of 0.1."""
    return path.name.startswith(".partial-") or (path.name.startswith(".") and UNFINISHED in path.name)


def _begin(root: Path, beginnings: Mapping[str, pydantic.BaseModel]) -> None:
    """Writes recipe, features and source, unless an unfinished run of the same training is there."""
    if _check_begun(root, beginnings):
        return
    root.mkdir(parents=True, exist_ok=True)
    # the recipe comes last, as it marks the directory as a run that can be continued
    for name in reversed(list(beginnings)):
        write_text(root / name, beginnings[name].model_dump_json(indent=2) + "\n")


def _resume(recipe: Recipe, root: Path, checkpoints: Checkpoints) -> tuple[list[dict[str, Any]], PartialEpoch | None]:
    """Restores the latest checkpoint and returns the history up to it, and the trained part of the next epoch."""
    if recipe.schedule.clip_norm is not None and checkpoints.is_older():
        raise FlowloomError(
            f"{root} holds an unfinished run of version 0.2, whose clip_norm limited the gradient of each variable "
            "alone and now limits all together; train again in another directory"
        )
    if not (epochs := checkpoints.epochs()):
        return [], checkpoints.restore_inside(1)
    try:
        history = json.loads((root / run_directory.HISTORY).read_bytes())[: epochs[-1]]
    except (OSError, ValueError, TypeError) as error:
        raise FlowloomError(
            f"{root / run_directory.HISTORY} cannot be read ({error}); restore the run from a copy, or train in "
            "another directory"
        ) from None
    checkpoints.check_history(epochs[-1], history)
    if not (begun := checkpoints.restore_inside(epochs[-1] + 1)):
        checkpoints.restore(epochs[-1])
    return history, begun


def _every(seconds: float, save: Callable[[PartialEpoch], None]) -> Callable[[PartialEpoch], None]:
    """Returns a function that saves at most once in `seconds`."""
    last = time.monotonic()

    def stepped(begun: PartialEpoch) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            save(begun)
            last = time.monotonic()

    return stepped


def _finish(summary: RunSummary, model: Any, libraries: Sequence[str]) -> None:
    """Writes the model, and then run.json, which marks the run as complete."""
    name = TREES if isinstance(model, TreeModel) else run_directory.MODEL
    with replacing(summary.run / name, Path(name).suffix) as temporary:
        model.save(temporary)
    versions = {name: importlib.metadata.version(name) for name in ("flowloom", *libraries, "numpy", "pyarrow")}
    document = {
        **dataclasses.asdict(summary),
        "run": summary.run.name,
        "versions": versions,
        "python": platform.python_version(),
        "files": run_directory.digests(summary.run),
    }
    write_json(summary.run / run_directory.FINISHED, sealed(document))
