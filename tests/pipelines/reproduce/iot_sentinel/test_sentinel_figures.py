"""Figures of the IoT Sentinel table against scikit-learn and counts by hand."""

import numpy as np
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import TWINS, merged_classes
from flowloom.pipelines.reproduce.iot_sentinel.sentinel_figures import (
    MERGED,
    figures,
    merged_twins,
    of_captures,
    perfect_memory,
)
from flowloom.trainers.evaluation.predictions import Predictions

VOCABULARY = ("Aria", "D-LinkSiren", "D-LinkSensor", "iKettle2")


def test_twins_share_a_class_and_others_keep_theirs():
    classes, merged = merged_classes(VOCABULARY)
    assert classes == ("Aria", "D-LinkSensor + D-LinkSiren", "iKettle2")
    assert merged == (0, 1, 1, 2)
    every = [device for group in TWINS for device in group]
    assert len(set(every)) == len(every) == 10


def test_probabilities_of_twins_are_summed():
    given = Predictions(np.array([2, 0], np.int32), np.float32([[0.4, 0.3, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4]]))
    found = merged_twins(given, merged_classes(VOCABULARY)[1])
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.probabilities, [[0.4, 0.6, 0.0], [0.1, 0.5, 0.4]], atol=1e-7)


def test_a_capture_is_the_mean_of_its_flows():
    probabilities = np.float32([[0.9, 0.1], [0.2, 0.8], [0.0, 1.0], [0.0, 1.0]])
    found = of_captures(Predictions(np.array([1, 0, 1, 1], np.int32), probabilities), np.array([5, 2, 5, 5]))
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.probabilities, [[0.2, 0.8], [0.3, 0.7]], atol=1e-7)


def test_macro_f1_is_scikit_learns_over_the_classes_that_occur():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 60).astype(np.int32)  # no flow of the last class
    captures = labels * 10 + generator.integers(0, 3, 60)
    probabilities = generator.dirichlet(np.ones(4), 60).astype(np.float32)
    found = figures({"device": Predictions(labels, probabilities)}, {"device": VOCABULARY}, captures)
    expected = sklearn.metrics.f1_score(
        labels, probabilities.argmax(axis=1), labels=[0, 1, 2], average="macro", zero_division=0
    )
    assert found["device"]["flow"] == 100 * expected
    summed = np.array([probabilities[captures == number].mean(axis=0) for number in np.unique(captures)])
    expected = sklearn.metrics.f1_score(
        np.unique(captures) // 10, summed.argmax(axis=1), labels=[0, 1, 2], average="macro", zero_division=0
    )
    assert found["device"]["capture"] == 100 * expected
    assert found[MERGED]["flow"] >= 0
    assert set(figures({"vendor": Predictions(labels, probabilities)}, {}, captures)) == {"vendor"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 3)), min_size=1, max_size=30))
def test_no_function_of_the_key_is_right_more_often_than_the_memory(flows):
    keys, labels = [key for key, _ in flows], np.array([label for _, label in flows], np.int32)
    found = perfect_memory(keys, labels, 4)
    right = int((found.probabilities.argmax(axis=1) == labels).sum())
    most = sum(np.bincount(labels[[key == other for other in keys]]).max() for key in set(keys))
    assert right == most
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
