"""Baselines learn from the labelled rows of the train split alone."""

import numpy as np
import pytest

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation import metrics
from flowloom.trainers.evaluation.baselines import CANDIDATES, baseline_predictions, boosted_trees
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.trees.labelled_rows import labelled_rows


def feeds(path):
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, 10, tuple(CHANNELS), "standard")
    return dataset, Feed(dataset, "train", features, 64, seed=1), Feed(dataset, "test", features, 64)


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_rows_are_the_labelled_ones(synthetic, layout):
    dataset, train, _ = feeds(synthetic(layout=layout))
    rows = labelled_rows(train)
    for task in dataset.tasks:
        features, labels = rows[task.name]
        counts = np.bincount(labels, minlength=len(task.vocabulary))
        assert dict(zip(task.vocabulary, counts, strict=True)) == dataset.card.splits["train"].classes[task.name]
        assert features.shape == (len(labels), 10 * 18 + 1)


def test_the_limit_is_kept(synthetic):
    _, train, _ = feeds(synthetic())
    assert {len(labels) for _, labels in labelled_rows(train, 50).values()} == {50}


def test_the_forest_learns_and_the_majority_does_not(synthetic):
    dataset, train, test = feeds(synthetic())
    found = baseline_predictions(dataset.tasks, train, test, 0, ("majority", "random_forest"))
    for task in dataset.tasks:
        majority, forest = (metrics.headline(found[task.name][name]) for name in ("majority", "random_forest"))
        assert majority["auc"] == 0.5
        assert forest["auc"] > 0.9
        said = found[task.name]["majority"].probabilities.argmax(axis=1)
        classes = dataset.card.splits["train"].classes[task.name]
        assert {task.vocabulary[c] for c in said} == {max(classes, key=classes.__getitem__)}


def test_boosted_trees_are_fitted_where_asked_for(synthetic):
    path = synthetic(automatic=True, rows=(200, 10, 60))
    dataset = Dataset.open(path).restricted(["app"])
    features = FeatureSpec.of(dataset.card, 4, ("size",), "linear")
    train, test = Feed(dataset, "train", features, 64, seed=1), Feed(dataset, "test", features, 64)
    found = baseline_predictions(dataset.tasks, train, test, seed=0, names=("boosted_trees",))
    assert set(found["app"]) == {"boosted_trees"}
    assert metrics.headline(found["app"]["boosted_trees"])["auc"] > 0.8
    np.testing.assert_allclose(found["app"]["boosted_trees"].probabilities.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(FlowloomError, match="got 'boosted_tree'; did you mean 'boosted_trees'"):
        baseline_predictions(dataset.tasks, train, test, seed=0, names=("boosted_tree",))


def test_the_best_classical_model_is_chosen_on_validation_rows(synthetic, monkeypatch):
    dataset, train, test = feeds(synthetic(rows=(300, 60, 60)))
    validation = Feed(dataset, "validation", train.features, 64, seed=1)
    found = baseline_predictions(dataset.tasks, train, test, 0, ("best_classical", "nearest_flows"), validation)
    for task in dataset.tasks:
        best, nearest = found[task.name]["best_classical"], found[task.name]["nearest_flows"]
        scores = best.facts["validation_macro_f1"]
        assert set(scores) == set(CANDIDATES)
        assert scores[best.facts["family"]] == max(scores.values())
        assert metrics.headline(best)["auc"] > 0.9
        assert nearest.facts["neighbours"] in (1, 5)
        assert nearest.facts["rows"] == len(nearest.labels) == len(best.labels)
        np.testing.assert_array_equal(nearest.labels, best.labels)
    monkeypatch.setattr("flowloom.trainers.evaluation.baselines.SLOW_WORK", 300)
    found = baseline_predictions(dataset.tasks, train, test, 0, ("best_classical",), validation)
    assert found["app"]["best_classical"].facts["skipped"] == ["boosted_trees", "logistic"]
    assert set(found["app"]["best_classical"].facts["validation_macro_f1"]) == {"extra_trees", "random_forest"}
    found = baseline_predictions(dataset.tasks, train, test, 0, ("best_classical",))
    assert found["app"]["best_classical"].facts["family"] == "extra_trees", "nothing to choose on"


def test_boosting_on_one_class_predicts_the_majority():
    task = Task(name="app", kind="multiclass", vocabulary=("a", "b", "c"))
    train = np.zeros((5, 2), np.float32), np.ones(5, np.int32)
    said = boosted_trees(task, train, (np.zeros((2, 2), np.float32), np.array([0, 1], np.int32)), seed=0)
    np.testing.assert_array_equal(said.probabilities, [[0, 1, 0], [0, 1, 0]])


def test_a_task_without_test_rows_has_no_baselines(synthetic):
    dataset, train, test = feeds(synthetic(rows=(100, 10, 1), layout="rainbow"))
    found = baseline_predictions(dataset.tasks, train, test, seed=0)
    assert {task: set(baselines) for task, baselines in found.items()} == {
        "app": {"majority", "best_classical", "nearest_flows"}, "attack": set(), "bulk": set(),
    }  # fmt: skip
