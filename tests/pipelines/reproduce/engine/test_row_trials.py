"""Row trials: a fit is a function of its arguments, and keeps the best weights on the validation rows."""

import numpy as np
import pytest
from tiny_network import TinyNetwork

from flowloom.pipelines.reproduce.engine.row_trials import LabelledRows, RowFitPlan, RowTrials
from flowloom.schemas.corpus.tasks import Task

TASKS = (
    Task(name="kind", kind="multiclass", vocabulary=("a", "b", "c")),
    Task(name="mal", kind="binary"),
)


def rows(count, seed):
    """Rows of three kinds, visible in their values; the second label of every fourth is unknown."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, 3, count).astype(np.int32)
    values = generator.normal(size=(count, 8)).astype(np.float32)
    values[np.arange(count), kinds] += 3.0
    bad = (kinds == 2).astype(np.int32)
    return LabelledRows(values, {"kind": kinds, "mal": np.where(np.arange(count) % 4, bad, -1)})


@pytest.fixture(scope="module")
def trials():
    classes = {task.name: len(task.vocabulary) for task in TASKS}
    return RowTrials(lambda: TinyNetwork(8, classes, "features"), TASKS, learning_rate=0.02, batch_size=32)


def plan(updates, measured=(), **others):
    return RowFitPlan(**{"seed": 3, "updates": updates, "measured": measured, "keep": "best", **others})


def test_a_fit_learns_and_keeps_the_best_weights(trials):
    validation = rows(60, 2)
    fit = trials.fit(rows(200, 1), validation, plan(60, [10, 20, 40], watch=lambda: {"more": 1}))
    assert [record["update"] for record in fit.history] == [10, 20, 40, 60]
    assert all(record["more"] == 1 for record in fit.history)
    scores = {record["update"]: record["macro_f1"]["kind"] for record in fit.history}
    assert scores[fit.kept] == max(scores.values()) > 0.85
    probabilities = trials.predict(validation)
    assert probabilities["kind"].shape == (60, 3)
    assert probabilities["mal"].shape == (60, 2)
    right = probabilities["kind"].argmax(axis=1) == validation.labels["kind"]
    assert right.mean() > 0.85
    np.testing.assert_allclose(probabilities["mal"].sum(axis=1), 1.0, rtol=1e-5)


def test_a_fit_depends_on_its_arguments_alone(trials):
    train, validation = rows(100, 1), rows(40, 2)
    first = trials.fit(train, validation, plan(6, [3]))
    other = trials.fit(train, validation, plan(6, [3], seed=4))
    weighted = trials.fit(train, validation, plan(6, [3], loss_weights={"mal": 50.0}))
    assert trials.fit(train, validation, plan(6, [3])) == first
    assert first.history != other.history
    assert first.history != weighted.history


def test_measurements_do_not_change_a_fit(trials):
    train, validation = rows(100, 1), rows(40, 2)
    fits = [trials.fit(train, validation, plan(6, measured, keep="last")) for measured in ([], [1, 2, 5, 6, 9])]
    assert [len(fit.history) for fit in fits] == [1, 4]
    assert fits[0].history[-1] == fits[1].history[-1]
    assert [fit.kept for fit in fits] == [6, 6]
    for one, other in zip(fits[0].shared, fits[1].shared, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unknown_labels_train_nothing(trials):
    train, validation = rows(64, 1), rows(40, 2)
    found = []
    for filler in (-1, -7):
        labels = {**train.labels, "mal": np.where(train.labels["mal"] < 0, filler, train.labels["mal"])}
        found.append(trials.fit(LabelledRows(train.values, labels), validation, plan(4)))
    assert found[0] == found[1]


def test_a_fit_has_at_least_one_update():
    with pytest.raises(ValueError, match="updates must be >= 1, got 0"):
        plan(0)
