"""Evaluation: a finished run and a split to metrics.json and report.html."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.atomic_files import write_json, write_text
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_folder
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.evaluation import cost, metrics
from flowloom.trainers.evaluation.baselines import DEFAULT_BASELINES, baseline_predictions, check_baselines
from flowloom.trainers.evaluation.label_ceiling import label_ceilings
from flowloom.trainers.evaluation.predictions import compiled, predict
from flowloom.trainers.evaluation.run_report import RunResults, render
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.few_labels import kept_flows
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.run_directory import Run

EVALUATION_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    run: Path
    split: str = "test"
    dataset: Path | None = None
    """The dataset directory; None takes the one that the run was trained on."""
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    """Names in `BASELINES` to compare with."""

    def __post_init__(self) -> None:
        check_baselines(self.baselines)


def evaluate(options: EvaluateOptions, progress: Callable[[Progress], None] = ignore_progress) -> dict[str, Any]:
    """Evaluates a run on a split, writes metrics.json and report.html into the run, and returns the metrics.

    Args:
      options: the run, the split and the baselines.
      progress: called at the beginning of each stage.

    Raises:
      FlowloomError: if the run or the dataset cannot be read, they do not fit each other, or another process writes the
        run.
    """
    run = Run.open(options.run)
    with locked_folder(run.root):
        return _evaluate(run, options, progress)


def _evaluate(run: Run, options: EvaluateOptions, progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Evaluates an opened run whose folder is locked."""
    dataset = Dataset.open(options.dataset or run.source.path).restricted([task.name for task in run.tasks])
    _check_fit(run, dataset)
    feed = Feed(dataset, options.split, run.features, EVALUATION_BATCH)
    seed = run.recipe.seed

    progress(Progress("scoring flows", 0))
    model = run.load_model()
    predictions = predict(compiled(model, feed), feed)
    gates = mean_gate_weights(model, feed)
    progress(Progress("fitting baselines", 1))
    kept = kept_flows(dataset, run.recipe.feed.labels_per_class, seed, run.features.view)
    train = Feed(dataset, "train", run.features, EVALUATION_BATCH, seed=seed, kept=kept)
    judged = _validation(dataset, run)
    baselines = baseline_predictions(run.tasks, train, feed, seed, options.baselines, judged)
    ceilings = label_ceilings(feed)
    progress(Progress("timing inference", 2))
    (costs,) = cost.measure([run.root])

    tasks = {
        task.name: {
            **metrics.report(predictions[task.name], task.vocabulary, seed),
            "baselines": {
                name: {**metrics.headline(each), **each.facts} for name, each in baselines[task.name].items()
            },
            "ceiling": ceilings[task.name],
        }
        for task in run.tasks
    }
    defined = [figures["auc"] for figures in tasks.values() if figures["auc"] is not None]
    found = {
        "tasks": tasks,
        "mean_auc": float(np.mean(defined)) if defined else None,
        "cost": costs,
        "dataset": dataset.card.content_hash,
        "split": options.split,
        "seed": seed,
    }
    progress(Progress("writing the report", 3))
    write_json(run.root / run_directory.METRICS, found)
    write_text(run.root / run_directory.REPORT, render(RunResults(run, dataset.card, found, predictions, gates)))
    return found


def _validation(dataset: Dataset, run: Run) -> Feed | None:
    """Returns the feed of the rows that baselines are chosen on, in a random order; None without such rows."""
    if not any(group.rows for group in dataset.row_groups("validation", view=run.features.view)):
        return None
    return Feed(dataset, "validation", run.features, EVALUATION_BATCH, seed=run.recipe.seed)


def mean_gate_weights(model: Any, feed: Feed) -> dict[str, list[float]] | None:
    """Returns {task: mean gate weight of each expert over a feed} for tasks with a gate; None without gates."""
    if (gates := getattr(model, "gates", None)) is None:
        return None
    forward = compiled(gates, feed)
    weights: dict[str, list[np.ndarray]] = {task.name: [] for task in feed.dataset.tasks if task.name in gates.output}
    for inputs, _, _ in feed.stream(epochs=1):
        for task, chosen in forward(inputs).items():
            weights[task].append(chosen.numpy())
    return {task: np.concatenate(chosen).mean(axis=0).tolist() for task, chosen in weights.items()}


def _check_fit(run: Run, dataset: Dataset) -> None:
    """Raises unless the labels and flows of a dataset mean the same as those of the training data."""
    if dataset.tasks != run.tasks:
        raise FlowloomError(
            f"dataset {dataset.root} must have the tasks of run {run.root}, {_described(run.tasks)}, got "
            f"{_described(dataset.tasks)}; evaluate on a dataset with the same tasks and vocabularies"
        )
    there, here = dataset.card.definition, run.source.definition
    if isinstance(run.features, FeatureSpec) and there.k < run.features.k:
        raise FlowloomError(
            f"dataset {dataset.root} must keep {run.features.k} packets per flow for the model of run {run.root}, got "
            f"{there.k}; build it with k={run.features.k} or more"
        )
    if isinstance(run.features, ByteSpec) and (dataset.card.packet_bytes or 0) < run.features.length:
        raise FlowloomError(
            f"dataset {dataset.root} must have {run.features.length} bytes per packet for the model of run {run.root}, "
            f"got {dataset.card.packet_bytes or 0}; build it with as many"
        )
    if isinstance(run.features, TableSpec) and (lacking := set(run.features.columns) - set(dataset.card.features)):
        raise FlowloomError(
            f"dataset {dataset.root} lacks the feature {min(lacking)} of the model of run {run.root}; "
            "evaluate on tables with the same columns"
        )
    if (aligned := there.model_copy(update={"k": here.k, "preset": here.preset})) != here:
        differing = [name for name, value in here if getattr(aligned, name) != value]
        raise FlowloomError(
            f"dataset {dataset.root} must have the flow definition of run {run.root}, got one that differs in "
            f"{', '.join(differing)}; build it with the same definition"
        )


def _described(tasks: Sequence[Task]) -> str:
    return ", ".join(f"{task.name} ({len(task.vocabulary)} classes)" for task in tasks)
