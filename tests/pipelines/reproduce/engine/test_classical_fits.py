"""Classical models on arrays of flows learn from labelled rows alone."""

import numpy as np
import pytest

from flowloom.pipelines.reproduce.engine.classical_fits import METHODS, FlowArrays, fit_and_predict
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation.metrics import headline

FEATURES = ("size", "gap", "direction")


def flows(rows, seed):
    """Returns flows of three classes, whose sizes differ."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows).astype(np.int32)
    sequence = np.zeros((rows, 12, 3), np.float32)
    sequence[:, :, 0] = 100 + 400 * labels[:, None] + generator.integers(0, 200, (rows, 12))
    sequence[:, 1:, 1] = 10 ** generator.uniform(1, 5, (rows, 11))
    sequence[:, :, 2] = np.tile([1, -1], 6)
    return FlowArrays(sequence, np.full(rows, 12, np.int32), FEATURES), labels


@pytest.mark.parametrize("method", METHODS)
def test_few_labels_suffice_for_easy_classes(method):
    (train, labels), (test, expected) = flows(90, 0), flows(60, 1)
    few = np.where(np.arange(90) < 45, labels, -1)
    judged = np.where(np.arange(60) < 50, expected, -1)
    found = fit_and_predict(method, train, few, test, judged, 3, seed=1)
    assert len(found.labels) == 50
    assert headline(found)["accuracy"] > 0.8
    again = fit_and_predict(method, train.take(np.arange(45)), labels[:45], test, judged, 3, seed=1)
    np.testing.assert_array_equal(found.probabilities, again.probabilities, "rows without a label play no part")


def test_unknown_methods_and_rows_without_labels_are_refused():
    train, labels = flows(9, 0)
    with pytest.raises(FlowloomError, match="did you mean 'forest'"):
        fit_and_predict("forrest", train, labels, train, labels, 3, 0)
    with pytest.raises(FlowloomError, match="labels must have a known one"):
        fit_and_predict("forest", train, np.full(9, -1, np.int32), train, labels, 3, 0)
