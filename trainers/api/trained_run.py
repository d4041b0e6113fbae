"""Trainings in Python: a dataset to a run, its evaluation and its export, and models that score rows."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.api.dataset_feeds import setting_texts
from flowloom.trainers.deploy.export import ExportOptions, ExportReport, export
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.train import TrainOptions
from flowloom.trainers.training.train import train as train_run


class TrainedRun(Run):
    """A finished run; `fl.train` makes one and `fl.open_run` opens one.

    Attributes:
      root: the directory of the run.
      recipe: the settings of model and training.
      features: the model's view of a row.
      source: the dataset of the training.
      history: one record for each epoch: steps, losses, validation AUC.
      summary: the outcome, as in `run.json`.

    Example:

    >>> import flowloom as fl
    >>> run = fl.open_run("RUN")
    >>> run.recipe.name, sorted(run.history[0]["validation_auc"])
    ('multa', ['app', 'tunnel'])
    """

    def evaluate(
        self,
        split: str = "test",
        *,
        baselines: Sequence[str] = ("majority", "best_classical", "nearest_flows"),
        progress: Callable[[Progress], None] = ignore_progress,
    ) -> dict[str, Any]:
        """Evaluates the model on a split, writes `metrics.json` and `report.html` into the run; returns metrics.

        Args:
          split: `train`, `validation` or `test`.
          baselines: models to compare with: `majority`, `nearest_flows`, `extra_trees`, `random_forest`,
            `boosted_trees`, `logistic`, and `best_classical`, the best of these four on validation rows.
          progress: called after each step.

        Raises:
          FlowloomError: if the dataset of the run is not at its place, or a baseline is unknown.

        Example:

        >>> import flowloom as fl
        >>> metrics = fl.open_run("RUN").evaluate("test", baselines=["majority"])
        >>> metrics["split"], sorted(metrics["tasks"])
        ('test', ['app', 'tunnel'])
        """
        options = EvaluateOptions(run=self.root, split=split, baselines=tuple(baselines))
        return evaluate(options, progress)

    def export(self, out: str | os.PathLike[str], format: str = "savedmodel", *, int8: bool = False) -> ExportReport:
        """Exports the model with its feature contract to a new folder, after checking it against the run.

        Args:
          out: the folder to create.
          format: `savedmodel`, `litert`, or `onnx` with the extra of this name; of trees and linear models `arrays`,
            `c` or `onnx`.
          int8: whether a LiteRT model stores large weights as 8-bit integers, if no probability changes by more than
            0.05.

        Raises:
          FlowloomError: if the folder exists, or the exported model gives other probabilities.

        Example:

        >>> import flowloom as fl
        >>> fl.open_run("RUN").export("DEPLOYED", "litert").largest_error < 1e-5
        True
        """
        return export(ExportOptions(self.root, Path(out), format, int8))  # type: ignore[arg-type] # checked there


def train(
    dataset: Dataset | str | os.PathLike[str],
    run: str | os.PathLike[str],
    recipe: str = "multa",
    *,
    progress: Callable[[Progress], None] = ignore_progress,
    **settings: Any,
) -> TrainedRun:
    """Trains a model on a dataset by a recipe, as `flowloom train` does, or continues the same unfinished training.

    Args:
      dataset: an opened dataset, or its directory.
      run: the run directory to create or to continue.
      recipe: name of a recipe: `multa`, `multitask-cnn`, `mtc-lite` and others (README.md).
      progress: called after each step and each epoch.
      settings: other values for settings of the recipe by their key, such as `epochs=20`, `batch_size=64`,
        `balance={"task": "app", "how": "undersample"}`.

    Raises:
      FlowloomError: if dataset or recipe are invalid, or the run directory holds a finished or another run.

    Example:

    >>> import flowloom as fl
    >>> run = fl.train("DATASET", "RUN-LSTM", recipe="lstm", epochs=1, units=4)
    >>> run.summary["epochs"], run.root.name
    (1, 'RUN-LSTM')
    """
    root = dataset.root if isinstance(dataset, Dataset) else Path(dataset)
    train_run(TrainOptions(root, Path(run), recipe, setting_texts(settings)), progress)
    return open_run(run)


def open_run(path: str | os.PathLike[str]) -> TrainedRun:
    """Opens a finished run.

    Raises:
      FlowloomError: if the directory holds no run, an unfinished run, or a damaged run.

    Example:

    >>> import flowloom as fl
    >>> [task.name for task in fl.open_run("RUN").tasks]
    ['app', 'tunnel']
    """
    return TrainedRun.open(os.fspath(path))
