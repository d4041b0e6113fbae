"""Fit of trees or linear models by a recipe: one estimator per task, and boosting rounds by validation loss."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.evaluation.metrics import auc
from flowloom.trainers.evaluation.predictions import Predictions, both_classes
from flowloom.trainers.feed.array_feed import ArrayFeed
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import train_rows
from flowloom.trainers.trees.estimators import BOOSTED, Estimator, Family, FitSettings, fit, trees_of_a_round
from flowloom.trainers.trees.labelled_rows import Rows, labelled_rows
from flowloom.trainers.trees.row_columns import row_columns
from flowloom.trainers.trees.tree_arrays import TreeEnsemble
from flowloom.trainers.trees.tree_model import TreeModel

READ_ROWS = 1024


def fit_trees(
    recipe: Recipe,
    dataset: Dataset,
    features: RowSpec,
    synthetic: Dataset | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
) -> tuple[TreeModel, list[dict[str, Any]]]:
    """Fits an estimator for each task on the train split, with the rows that the recipe's feed chooses.

    The rounds of boosting after the one of the lowest validation loss are removed.

    Args:
      recipe: one whose `model.is_trees` is true.
      dataset: restricted to the tasks that are trained.
      features: the model's view of a row.
      synthetic: the dataset with synthetic rows (`with_synthetic_rows`), whose train split is used instead.
      progress: called before each task.

    Returns:
      the model, and a history of one record, with the number of train rows (`rows`) and of trees (`trees`) by task.
    """
    model = recipe.model
    columns = row_columns(features, model.flow_columns)
    feed = ArrayFeed(
        synthetic or dataset,
        "train",
        cast(TableSpec, features).scaled if synthetic else features,
        READ_ROWS,
        **train_rows(recipe, dataset, features),
        balance=None if synthetic else recipe.feed.balance,
    )
    train = labelled_rows(feed, model.most_rows, columns.matrix)
    validation: dict[str, Rows] = {}
    if any(group.rows for group in dataset.row_groups("validation", view=features.view)):
        validation = labelled_rows(ArrayFeed(dataset, "validation", features, READ_ROWS), None, columns.matrix)
    settings = FitSettings(
        cast(Family, model.kind), model.trees, model.leaf_rows, model.shrinkage, model.penalty, recipe.seed
    )
    estimators: dict[str, Estimator] = {}
    for number, task in enumerate(dataset.tasks):
        rows, labels = train[task.name]
        text = f"task {task.name}: fitting {len(labels):,} rows of {len(columns.names)} columns"
        progress(Progress(text, number, len(dataset.tasks)))
        found = fit(settings, rows, labels, len(task.vocabulary))
        if model.kind in BOOSTED and isinstance(found, TreeEnsemble) and len(validation.get(task.name, ((), ()))[1]):
            found = found.first(best_trees(found, trees_of_a_round(labels), *validation[task.name]))
        estimators[task.name] = found
    fitted = TreeModel(features, model.flow_columns, estimators)
    return fitted, [_record(fitted, train, validation)]


def best_trees(ensemble: TreeEnsemble, of_a_round: int, rows: np.ndarray, labels: np.ndarray) -> int:
    """Returns the number of trees of whole rounds at which the log loss over some rows is lowest.

    Args:
      ensemble: boosted trees.
      of_a_round: trees of a round.
      rows: float32 [N, columns].
      labels: int32 [N].
    """
    counts = list(range(0, len(ensemble.roots) + 1, of_a_round))
    sums, losses = ensemble.first(0).sums(rows), list[float | None]()
    for before, count in zip([0, *counts], counts, strict=False):
        sums = ensemble.first(count).sums(rows, before, sums)
        losses.append(Predictions(labels, ensemble.linked(sums)).loss)
    return counts[int(np.argmin(np.array(losses, np.float64)))]


def _record(model: TreeModel, train: dict[str, Rows], validation: dict[str, Rows]) -> dict[str, Any]:
    """Returns the one record of the history, with the keys of an epoch of a network."""

    def predicted(rows: dict[str, Rows], task: str) -> Predictions:
        columns, labels = rows[task]
        return Predictions(labels, both_classes(model.predict(columns)[task]))

    tasks = list(model.estimators)
    judged = {task: predicted(validation, task) for task in tasks if task in validation}
    losses = {task: judged[task].loss if task in judged else None for task in tasks}
    aucs = {task: auc(judged[task]) if task in judged else None for task in tasks}
    defined = [value for value in aucs.values() if value is not None]
    known = [value for value in losses.values() if value is not None]
    mean_auc = float(np.mean(defined)) if defined else None
    return {
        "epoch": 1,
        "steps": 1,
        "loss": {task: predicted(train, task).loss for task in tasks},
        "weights": dict.fromkeys(tasks, 1.0),
        "validation_loss": losses,
        "validation_auc": aucs,
        "validation_mean_auc": mean_auc,
        "validation_total_loss": sum(known) if known else None,
        "score": mean_auc,
        "rows": {task: len(train[task][1]) for task in tasks},
        "trees": {task: len(each.roots) for task, each in model.estimators.items() if isinstance(each, TreeEnsemble)},
    }
