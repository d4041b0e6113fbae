"""Metrics against scikit-learn and by hand; an undefined metric is null with a reason."""

import json

import numpy as np
import pytest
import sklearn.metrics

from flowloom.trainers.evaluation import metrics
from flowloom.trainers.evaluation.predictions import Predictions

WORDS = ("chat", "voip", "web")


def guesses(rows=400, classes=3, skill=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows).astype(np.int32)
    scores = generator.normal(size=(rows, classes)) + skill * np.eye(classes)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Predictions(labels, probabilities.round(2).astype(np.float32))  # rounded: ties


def test_report_agrees_with_scikit_learn():
    predictions = guesses()
    labels, said = predictions.labels, predictions.probabilities.argmax(axis=1)
    found = metrics.report(predictions, WORDS, seed=0)
    expected = sklearn.metrics.classification_report(labels, said, target_names=WORDS, output_dict=True)
    for word in WORDS:
        assert found["classes"][word]["support"] == expected[word]["support"]
        for figure, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert found["classes"][word][figure] == pytest.approx(expected[word][theirs])
    assert found["macro_f1"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["confusion"] == sklearn.metrics.confusion_matrix(labels, said).tolist()
    each = [sklearn.metrics.roc_auc_score(labels == c, predictions.probabilities[:, c]) for c in range(3)]
    assert found["auc"] == pytest.approx(np.mean(each))
    assert found["support"] == 400


def test_weighted_auc_is_the_auc_of_the_repeated_rows():
    predictions = guesses(rows=80)
    positive, scores = predictions.labels == 1, predictions.probabilities[:, 1]
    counts = np.random.default_rng(1).integers(0, 4, (25, 80))
    found = metrics.weighted_auc(positive, scores, counts)
    for weights, value in zip(counts, found, strict=True):
        assert value == pytest.approx(
            sklearn.metrics.roc_auc_score(np.repeat(positive, weights), np.repeat(scores, weights))
        )
    assert np.isnan(metrics.weighted_auc(positive, scores, positive[None].astype(int))).all()


def test_the_interval_covers_the_auc_of_the_population():
    population = metrics.auc(guesses(rows=100_000))
    inside = []
    for seed in range(1, 21):
        low, high = metrics.bootstrap_interval(guesses(rows=300, seed=seed), seed=seed)
        inside.append(low <= population <= high)
    assert 16 <= sum(inside) <= 20


def test_the_interval_is_seeded_and_narrows_with_rows(monkeypatch):
    few, many = guesses(rows=200), guesses(rows=5000)
    assert metrics.bootstrap_interval(few, 3) == metrics.bootstrap_interval(few, 3)
    assert metrics.bootstrap_interval(few, 3) != metrics.bootstrap_interval(few, 4)
    (low, high), (lower, higher) = metrics.bootstrap_interval(many, 3), metrics.bootstrap_interval(few, 3)
    assert low < metrics.auc(many) < high
    assert (high - low) * 2 < higher - lower
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROWS", 500)
    bounded_low, bounded_high = metrics.bootstrap_interval(many, 3)
    assert bounded_low < metrics.auc(many) < bounded_high
    assert bounded_high - bounded_low == pytest.approx(high - low, rel=0.3)


def test_one_class_has_no_auc_but_a_reason():
    predictions = Predictions(np.ones(5, np.int32), np.full((5, 3), 1 / 3, np.float32))
    found = metrics.report(predictions, WORDS, seed=0)
    assert found["auc"] is None
    assert found["interval"] is None
    assert found["auc_undefined"] == "every labelled row of the split is 'voip'"
    assert found["classes"]["web"]["recall"] is None
    json.dumps(found, allow_nan=False)


def test_without_rows_metrics_are_undefined():
    found = metrics.report(Predictions(np.zeros(0, np.int32), np.zeros((0, 3), np.float32)), WORDS, seed=0)
    assert found["support"] == 0
    assert found["auc_undefined"] == "no row of the split has a label of this task"
    assert [found[name] for name in ("auc", "accuracy", "macro_f1", "ece", "interval")] == [None] * 5
    json.dumps(found, allow_nan=False)


def test_macro_means_omit_absent_classes():
    predictions = guesses()
    kept = predictions.labels != 2
    found = metrics.report(Predictions(predictions.labels[kept], predictions.probabilities[kept]), WORDS, seed=0)
    assert found["macro_recall"] == pytest.approx(np.mean([found["classes"][word]["recall"] for word in WORDS[:2]]))
    absent = {"support": 0, "auc": None, "precision": 0.0, "recall": None, "f1": 0.0, "average_precision": None}
    assert found["classes"]["web"] == {**absent, "recall_at_fpr": {"0.001": None, "0.01": None}}
    assert found["auc"] == pytest.approx(np.mean([found["classes"][word]["auc"] for word in WORDS[:2]]))


def test_calibration_error_by_hand():
    """Ten predictions with confidence 0.9 and six correct ones give an error of 0.3."""
    probabilities = np.tile(np.array([0.9, 0.1], np.float32), (10, 1))
    labels = np.array([0] * 6 + [1] * 4, np.int32)
    assert metrics.calibration_error(Predictions(labels, probabilities)) == pytest.approx(0.3)


def test_recall_at_a_false_positive_rate_is_the_best_of_all_thresholds():
    draws = np.random.default_rng(5)
    labels = draws.integers(0, 3, 3_000).astype(np.int32)
    scores = np.round(draws.random((3_000, 3)) + 0.4 * np.eye(3)[labels], 2).astype(np.float32)  # with ties
    found = metrics.recalls_at(Predictions(labels, scores))
    for c in range(3):
        positive, score = labels == c, scores[:, c]
        for rate in metrics.FALSE_POSITIVE_RATES:
            allowed = [
                np.mean(score[positive] >= threshold)
                for threshold in (*np.unique(score), np.inf)
                if np.mean(score[~positive] >= threshold) <= float(rate)
            ]
            assert found[c][rate] == pytest.approx(max(allowed))


def test_average_precision_is_the_mean_precision_at_every_positive_row():
    labels = np.array([1, 0, 1, 1, 0], np.int32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    found = metrics.average_precisions(Predictions(labels, np.stack([1 - scores, scores], axis=1)))
    assert found[1] == pytest.approx(np.mean([1 / 1, 2 / 3, 3 / 4]))


def test_metrics_of_one_class_have_no_recall_at_a_rate():
    one = Predictions(np.ones(4, np.int32), np.full((4, 2), 0.5, np.float32))
    classes = metrics.report(one, ("negative", "positive"), 7)["classes"]
    assert classes["positive"]["recall_at_fpr"] == {"0.001": None, "0.01": None}
    assert classes["positive"]["average_precision"] is None
