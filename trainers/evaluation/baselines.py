"""Baselines for models: the majority class, trees and linear models on the same packets, and nearest flows."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import sklearn.ensemble

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.evaluation.metrics import headline
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.trees.estimators import Estimator, Family, FitSettings, fit
from flowloom.trainers.trees.labelled_rows import Rows, labelled_rows
from flowloom.trainers.trees.nearest_flows import (
    NEIGHBOURS,
    choose_neighbours,
    nearest_flows,
    signed_sizes,
    thinned,
    votes,
)
from flowloom.trainers.trees.row_columns import FlowColumns, in_units, row_columns

FOREST_ROWS = 20_000
"""Largest number of labelled train rows for baselines, drawn by the shuffled feed, and of validation rows."""
FOREST_TREES = 100
SLOW_WORK = 40_000
"""Largest product of train rows and classes for boosted trees and logistic regression among `best_classical`."""

CANDIDATES: dict[Family, FlowColumns] = {
    "extra_trees": "positions",
    "random_forest": "positions",
    "boosted_trees": "positions",
    "logistic": "histograms",
}
"""Models of `best_classical`, and the columns of flows that each reads."""
_SLOW = ("boosted_trees", "logistic")


Columns = FlowColumns | Literal["signed_sizes", "none"]
"""Columns that a baseline reads of flows; `none` for labels alone. Trees read other views as they are."""


@dataclasses.dataclass(frozen=True)
class BaselinePredictions(Predictions):
    """Predictions of a baseline, and facts about its choice for metrics.json."""

    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def majority(task: Task, train: Rows, test: Rows, seed: int) -> Predictions:
    """Predicts the class shares of the train rows for every row, so that the most frequent class wins."""
    shares = np.bincount(train[1], minlength=len(task.vocabulary)) / len(train[1])
    return Predictions(test[1], np.tile(shares.astype(np.float32), (len(test[1]), 1)))


def random_forest(task: Task, train: Rows, test: Rows, seed: int) -> Predictions:
    """Predicts by a forest of 100 full trees, fitted on the train rows."""
    forest = sklearn.ensemble.RandomForestClassifier(FOREST_TREES, random_state=seed, n_jobs=-1)
    forest.fit(*train)
    probabilities = np.zeros((len(test[1]), len(task.vocabulary)), np.float32)
    probabilities[:, forest.classes_] = forest.predict_proba(test[0])
    return Predictions(test[1], probabilities)


def boosted_trees(task: Task, train: Rows, test: Rows, seed: int) -> Predictions:
    """Predicts by 100 rounds of gradient boosting: one tree per round for two classes, one per class for more.

    Train rows of a single class cannot be boosted; then the prediction is the majority class.
    """
    if len(np.unique(train[1])) < 2:
        return majority(task, train, test, seed)
    trees = sklearn.ensemble.HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    trees.fit(*train)
    probabilities = np.zeros((len(test[1]), len(task.vocabulary)), np.float32)
    probabilities[:, trees.classes_] = trees.predict_proba(test[0])
    return Predictions(test[1], probabilities)


BASELINES = ("majority", "best_classical", "nearest_flows", *CANDIDATES)
DEFAULT_BASELINES = ("majority", "best_classical", "nearest_flows")
"""Baselines without a choice."""


class BaselineRows:
    """Rows of the splits in the columns of each baseline, read when a baseline first needs them.

    Test rows are predicted window by window, so that only train and validation rows are held.

    Args:
      train: labelled rows, with a seed for a random choice; at most `FOREST_ROWS` of a task are read.
      validation: rows that a choice among models is made on, at most `FOREST_ROWS`; None: no choice.
      test: rows to predict.
    """

    def __init__(self, train: Feed, validation: Feed | None, test: Feed) -> None:
        self.units = in_units(train.features)
        self._feeds = {
            split: dataclasses.replace(feed, features=self.units)
            for split, feed in (("train", train), ("validation", validation), ("test", test))
            if feed
        }
        self._read: dict[tuple[str, str], dict[str, Rows]] = {}

    def of(self, split: str, task: Task, columns: Columns) -> Rows:
        """Returns the rows of a task."""
        if (split, columns) not in self._read:
            limit = None if split == "test" else FOREST_ROWS
            feed = self._feeds.get(split)
            self._read[split, columns] = labelled_rows(feed, limit, self._matrix(columns)) if feed else {}
        return self._read[split, columns].get(task.name, (np.empty((0, 0), np.float32), np.empty(0, np.int32)))

    def predicted(self, task: Task, columns: Columns, model: Estimator) -> Predictions:
        """Returns the predictions of a model for the test rows."""
        feed, matrix = self._feeds["test"], self._matrix(columns)
        place = [each.name for each in feed.dataset.tasks].index(task.name)
        labels, probabilities = [], []
        for number in range(len(feed.windows(0))):
            *inputs, known = feed.tensors(0, number)
            chosen = known[:, place] >= 0
            labels.append(known[chosen, place])
            rows = matrix(*(array[chosen] for array in inputs))
            probabilities.append(model.probabilities(rows).astype(np.float32))
        return Predictions(np.concatenate(labels), np.concatenate(probabilities))

    def _matrix(self, columns: Columns) -> Callable[..., np.ndarray]:
        if columns == "none":
            return lambda *inputs: np.empty((len(inputs[0]), 0), np.float32)
        if columns == "signed_sizes":
            return lambda sequence, length: signed_sizes(sequence, self.units.names)
        return row_columns(self.units, columns).matrix


def baseline_predictions(
    tasks: Sequence[Task],
    train: Feed,
    test: Feed,
    seed: int,
    names: Sequence[str] = DEFAULT_BASELINES,
    validation: Feed | None = None,
) -> dict[str, dict[str, BaselinePredictions]]:
    """Returns {task: {baseline: predictions}}.

    A task without labelled rows in train or test has no baselines, and rows without sizes have no `nearest_flows`.

    Args:
      tasks: the tasks of the feeds.
      train: shuffled feed of the train split.
      test: feed of the rows to predict.
      seed: of all random choices.
      names: some of `BASELINES`.
      validation: feed of the rows on which `best_classical` and `nearest_flows` are chosen; None: both take their first
        candidate.

    Raises:
      FlowloomError: if a name is not in `BASELINES`.
    """
    check_baselines(names)
    rows = BaselineRows(train, validation, test)
    found: dict[str, dict[str, BaselinePredictions]] = {task.name: {} for task in tasks}
    for task in tasks:
        for name in names:
            if not len(rows.of("train", task, "none")[1]) or not len(rows.of("test", task, "none")[1]):
                continue
            if name == "nearest_flows" and not _has_sizes(rows):
                continue
            predict = _PREDICT.get(name) or _one_family(cast(Family, name))
            found[task.name][name] = predict(task, rows, seed)
    return found


def _majority(task: Task, rows: BaselineRows, seed: int) -> BaselinePredictions:
    found = majority(task, rows.of("train", task, "none"), rows.of("test", task, "none"), seed)
    return BaselinePredictions(found.labels, found.probabilities)


def _one_family(family: Family) -> Callable[[Task, BaselineRows, int], BaselinePredictions]:
    def predict(task: Task, rows: BaselineRows, seed: int) -> BaselinePredictions:
        return _predicted(task, rows, family, _fitted(task, rows, seed, family), {})

    return predict


def _fitted(task: Task, rows: BaselineRows, seed: int, family: Family) -> Estimator:
    """Returns a model that is fitted on the train rows."""
    train, labels = rows.of("train", task, CANDIDATES[family])
    return fit(FitSettings(family, FOREST_TREES, seed=seed), train, labels, len(task.vocabulary))


def _predicted(
    task: Task, rows: BaselineRows, family: Family, model: Estimator, facts: Mapping[str, Any]
) -> BaselinePredictions:
    """Returns the predictions of a fitted model for the test rows."""
    found = rows.predicted(task, CANDIDATES[family], model)
    known = {**facts, "train_rows": len(rows.of("train", task, "none")[1])}
    return BaselinePredictions(found.labels, found.probabilities, known)


def _best_classical(task: Task, rows: BaselineRows, seed: int) -> BaselinePredictions:
    """Predicts by the model of `CANDIDATES` with the highest macro F1 on the validation rows.

    Boosted trees and logistic regression are no candidates beyond `SLOW_WORK`.
    """
    _, labels = rows.of("train", task, "none")
    _, judged = rows.of("validation", task, "none")
    slow = len(labels) * len(task.vocabulary) > SLOW_WORK
    skipped = list(_SLOW) if slow and len(judged) else []
    candidates = [family for family in CANDIDATES if family not in skipped]
    scores: dict[str, float | None] = {}
    if not len(judged):
        return _predicted(
            task, rows, candidates[0], _fitted(task, rows, seed, candidates[0]), _choice(candidates[0], scores, skipped)
        )
    fitted = {family: _fitted(task, rows, seed, family) for family in candidates}
    for family, model in fitted.items():
        given, known = rows.of("validation", task, CANDIDATES[family])
        scores[family] = headline(Predictions(known, model.probabilities(given).astype(np.float32)))["macro_f1"]
    best = max(candidates, key=lambda family: scores[family] or 0.0)
    return _predicted(task, rows, best, fitted[best], _choice(best, scores, skipped))


def _choice(family: str, scores: Mapping[str, float | None], skipped: Sequence[str]) -> dict[str, Any]:
    """Returns the facts of a choice for metrics.json."""
    return {"family": family, "validation_macro_f1": dict(scores), "skipped": list(skipped)}


def _nearest_flows(task: Task, rows: BaselineRows, seed: int) -> BaselinePredictions:
    """Predicts by the labels of the train flows with the most similar sizes and directions of the first packets."""
    (train, labels), (given, known) = rows.of("train", task, "signed_sizes"), rows.of("test", task, "signed_sizes")
    judged, judged_labels = rows.of("validation", task, "signed_sizes")
    classes = len(task.vocabulary)
    nearest = nearest_flows(train, judged, max(NEIGHBOURS)) if len(judged_labels) else np.empty((0, 1), np.int64)
    neighbours, scores = choose_neighbours(nearest, labels, judged_labels, classes)
    kept = thinned(len(known))
    probabilities = votes(nearest_flows(train, given[kept], neighbours), labels, classes)
    facts = {"neighbours": neighbours, "validation_macro_f1": scores, "train_rows": len(labels), "rows": len(kept)}
    return BaselinePredictions(known[kept], probabilities, facts)


_PREDICT: dict[str, Callable[[Task, BaselineRows, int], BaselinePredictions]] = {
    "majority": _majority,
    "best_classical": _best_classical,
    "nearest_flows": _nearest_flows,
}


def _has_sizes(rows: BaselineRows) -> bool:
    return isinstance(rows.units, FeatureSpec) and "size" in rows.units.channels


def check_baselines(names: Sequence[str]) -> None:
    """Raises if a baseline does not exist.

    Raises:
      FlowloomError: naming the baseline and those that exist.
    """
    for name in names:
        if name not in BASELINES:
            raise FlowloomError(
                f"baselines must be among {', '.join(BASELINES)}, got {name!r}{did_you_mean(name, BASELINES)}"
            )
