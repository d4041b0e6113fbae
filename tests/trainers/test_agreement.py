"""A task's own output layer beside the sum of another one's."""

import numpy as np
import pytest

from flowloom.trainers.agreement import agreement, class_sums

TUNNEL = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2], [0.25, 0.3, 0.25, 0.2]])
TRAFFIC = [0, 1, 0, 1]


def test_probabilities_of_classes_that_mean_the_same_are_added():
    np.testing.assert_allclose(class_sums(TUNNEL, TRAFFIC), [[0.4, 0.6], [0.7, 0.3], [0.5, 0.5]])


def test_both_are_measured_on_the_same_rows():
    own = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    found = agreement(own, TUNNEL[[0, 1, 1]], TRAFFIC, np.array([1, 0, 0]))
    assert found["own"] == {"accuracy": pytest.approx(1 / 3), "macro_f1": pytest.approx(0.25)}
    assert found["sum"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert found["agree"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("classes", [[0, 1, 0], [0, 2, 0, 2]])
def test_every_class_must_be_meant(classes):
    with pytest.raises(ValueError, match="classes must be 4 numbers"):
        class_sums(TUNNEL, classes)
