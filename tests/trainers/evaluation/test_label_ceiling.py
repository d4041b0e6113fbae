"""Ceilings against all functions of few inputs, one by one."""

import itertools

import numpy as np
import pytest

from flowloom.trainers.evaluation.label_ceiling import label_ceiling, label_ceilings
from flowloom.trainers.feed.array_feed import ArrayFeed
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec


def best_of_all(groups, labels, classes):
    """Returns the highest accuracy and macro F1 over every function from groups to classes."""
    found = []
    actual = np.bincount(labels, minlength=classes)
    for answers in itertools.product(range(classes), repeat=groups.max() + 1):
        predicted = np.array(answers)[groups]
        right = np.bincount(labels[predicted == labels], minlength=classes)
        f1 = 2 * right / np.maximum(actual + np.bincount(predicted, minlength=classes), 1)
        found.append((right.sum() / len(labels), f1[actual > 0].mean()))
    return tuple(max(each) for each in zip(*found, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_the_ceiling_is_the_best_of_all_functions(seed):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 5, 30)
    labels = np.where(generator.random(30) < 0.5, groups % 3, generator.integers(0, 3, 30)).astype(np.int32)
    accuracy, f1 = best_of_all(groups, labels, 3)
    found = label_ceiling(groups, labels)
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["macro_f1"] <= f1 + 1e-9
    assert found["macro_f1"] >= f1 - 0.03, "the ascent may end beside the best, but near it"


def test_rows_without_conflicts_can_be_told_without_an_error():
    found = label_ceiling(np.array([0, 0, 1, 2]), np.array([4, 4, 2, 2], np.int32))
    assert found == {"accuracy": 1.0, "macro_f1": 1.0, "shared": 0.0, "rows": 4, "distinct": 3}


def test_twins_share_their_inputs():
    found = label_ceiling(np.zeros(4, np.int64), np.array([0, 0, 0, 1], np.int32))
    assert found["accuracy"] == 0.75
    assert found["shared"] == 1.0
    assert found["macro_f1"] == pytest.approx((2 * 3 / 7) / 2)


def test_no_rows_have_no_ceiling():
    assert label_ceiling(np.array([], np.int64), np.array([], np.int32))["accuracy"] is None


def test_narrower_inputs_have_lower_ceilings(synthetic):
    dataset = Dataset.open(synthetic())
    moments = dict.fromkeys(("size", "gap"), (3.0, 1.0))
    spec = FeatureSpec(k=2, channels=("size", "gap", "direction", "ttl"), scaling="standard", moments=moments)
    found = label_ceilings(ArrayFeed(dataset, "train", spec, 64))
    for task in dataset.tasks:
        whole, gapless, narrow = (found[task.name][name] for name in ("inputs", "without_gaps", "sizes_and_directions"))
        assert whole["rows"] == narrow["rows"] == sum(dataset.card.splits["train"].classes[task.name].values())
        assert whole["distinct"] >= gapless["distinct"] >= narrow["distinct"]
        assert whole["accuracy"] >= gapless["accuracy"] >= narrow["accuracy"] >= 0.5
    only = label_ceilings(ArrayFeed(dataset, "train", FeatureSpec(k=2, channels=("size",), scaling="none"), 64))
    assert set(only["app"]) == {"inputs"}
