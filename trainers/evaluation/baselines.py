"""Baselines for models: the majority class, and trees on the same inputs."""

from collections.abc import Callable, Sequence

import numpy as np
import sklearn.ensemble

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.feed.feed import Feed

FOREST_ROWS = 20_000
"""Largest number of labelled train rows for trees, drawn by the shuffled feed."""
FOREST_TREES = 100

Rows = tuple[np.ndarray, np.ndarray]
"""Flattened inputs, float32 (for flows [N, k * C + 1] with the length last), and labels, int32 [N]."""


def labelled_rows(feed: Feed, limit: int | None = None) -> dict[str, Rows]:
    """Returns the first `limit` labelled rows of each task in one epoch of a feed."""
    tasks = [task.name for task in feed.dataset.tasks]
    features: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    labels: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    room = dict.fromkeys(tasks, np.iinfo(np.int64).max if limit is None else limit)
    for number in range(len(feed.windows(0))):
        *inputs, known = feed.tensors(0, number)
        flat = np.hstack([array.reshape(len(array), -1).astype(np.float32) for array in inputs])
        for column, task in enumerate(tasks):
            chosen = np.flatnonzero(known[:, column] >= 0)[: room[task]]
            features[task].append(flat[chosen])
            labels[task].append(known[chosen, column])
            room[task] -= len(chosen)
        if not any(room.values()):
            break
    return {task: (np.concatenate(features[task]), np.concatenate(labels[task])) for task in tasks}


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


BASELINES: dict[str, Callable[[Task, Rows, Rows, int], Predictions]] = {
    "majority": majority,
    "random_forest": random_forest,
    "boosted_trees": boosted_trees,
}
DEFAULT_BASELINES = ("majority", "random_forest")
"""Baselines without a choice; boosted trees are slow, because they grow trees per class."""


def baseline_predictions(
    tasks: Sequence[Task], train: Feed, test: Feed, seed: int, names: Sequence[str] = DEFAULT_BASELINES
) -> dict[str, dict[str, Predictions]]:
    """Returns {task: {baseline: predictions}}; a task without labelled rows in either feed has no baselines.

    Raises:
      FlowloomError: if a name is not in `BASELINES`.
    """
    check_baselines(names)
    train_rows, test_rows = labelled_rows(train, FOREST_ROWS), labelled_rows(test)
    return {
        task.name: {
            name: BASELINES[name](task, train_rows[task.name], test_rows[task.name], seed)
            for name in names
            if len(train_rows[task.name][1]) and len(test_rows[task.name][1])
        }
        for task in tasks
    }


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
