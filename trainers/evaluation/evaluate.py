"""Evaluation: a finished run and a split to metrics.json and report.html."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.atomic_files import write_json, write_text
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation import cost, metrics
from flowloom.trainers.evaluation.baselines import DEFAULT_BASELINES, baseline_predictions, check_baselines
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
    """What `evaluate` needs."""

    run: Path
    split: str = "test"
    dataset: Path | None = None
    """Where the dataset is; None: where it was when the run was trained."""
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    """Names of `BASELINES` to compare with."""

    def __post_init__(self) -> None:
        check_baselines(self.baselines)


def evaluate(options: EvaluateOptions, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure a run's model on a split; write metrics.json and report.html into the run and return the metrics.

    Args:
      options: which run, on what.
      progress: called with the name of each stage as it begins.

    Raises:
      FlowloomError: if the run or the dataset cannot be used, or do not fit each other.
    """
    run = Run.open(options.run)
    dataset = Dataset.open(options.dataset or run.source.path).restricted([task.name for task in run.tasks])
    _check_fit(run, dataset)
    feed = Feed(dataset, options.split, run.features, EVALUATION_BATCH)
    seed = run.recipe.seed

    progress("scoring flows")
    model = run.load_model()
    predictions = predict(compiled(model, feed), feed)
    gates = mean_gate_weights(model, feed)
    progress("fitting baselines")
    kept = kept_flows(dataset, run.recipe.feed.labels_per_class, seed, run.features.view)
    train = Feed(dataset, "train", run.features, EVALUATION_BATCH, seed=seed, kept=kept)
    baselines = baseline_predictions(run.tasks, train, feed, seed, options.baselines)
    progress("timing inference")
    (costs,) = cost.measure([run.root])

    tasks = {
        task.name: {
            **metrics.report(predictions[task.name], task.vocabulary, seed),
            "baselines": {name: metrics.headline(said) for name, said in baselines[task.name].items()},
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
    progress("writing the report")
    write_json(run.root / run_directory.METRICS, found)
    write_text(run.root / run_directory.REPORT, render(RunResults(run, dataset.card, found, predictions, gates)))
    return found


def mean_gate_weights(model: Any, feed: Feed) -> dict[str, list[float]] | None:
    """Return {task: mean weight of each expert over the flows of a feed}, of tasks with a gate; None without any."""
    if (gates := getattr(model, "gates", None)) is None:
        return None
    forward = compiled(gates, feed)
    weights: dict[str, list[np.ndarray]] = {task.name: [] for task in feed.dataset.tasks if task.name in gates.output}
    for inputs, _, _ in feed.batches(epochs=1):
        for task, chosen in forward(inputs).items():
            weights[task].append(chosen.numpy())
    return {task: np.concatenate(chosen).mean(axis=0).tolist() for task, chosen in weights.items()}


def _check_fit(run: Run, dataset: Dataset) -> None:
    """Refuse a dataset whose labels or flows mean something else than those the model was trained on."""
    if dataset.tasks != run.tasks:
        raise FlowloomError(
            f"dataset {dataset.root} has the tasks {_described(dataset.tasks)}, run {run.root} was trained on "
            f"{_described(run.tasks)}; evaluate on a dataset with the same tasks and vocabularies"
        )
    there, here = dataset.card.definition, run.source.definition
    if isinstance(run.features, FeatureSpec) and there.k < run.features.k:
        raise FlowloomError(
            f"dataset {dataset.root} keeps {there.k} packets per flow, the model of run {run.root} sees "
            f"{run.features.k}; build it with k={run.features.k} or more"
        )
    if isinstance(run.features, ByteSpec) and (dataset.card.packet_bytes or 0) < run.features.length:
        raise FlowloomError(
            f"dataset {dataset.root} has {dataset.card.packet_bytes or 0} bytes of a packet, the model of run "
            f"{run.root} sees {run.features.length}; build it with as many"
        )
    if isinstance(run.features, TableSpec) and (lacking := set(run.features.columns) - set(dataset.card.features)):
        raise FlowloomError(
            f"dataset {dataset.root} lacks the feature {min(lacking)} that the model of run {run.root} sees; "
            "evaluate on tables with the same columns"
        )
    if (mended := there.model_copy(update={"k": here.k, "preset": here.preset})) != here:
        differing = [name for name, value in here if getattr(mended, name) != value]
        raise FlowloomError(
            f"dataset {dataset.root} was metered by another flow definition than run {run.root} was trained on "
            f"({', '.join(differing)} differ); build it with the same definition"
        )


def _described(tasks: Sequence[Task]) -> str:
    return ", ".join(f"{task.name} ({len(task.vocabulary)} classes)" for task in tasks)
