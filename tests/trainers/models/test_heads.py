"""Output layers, and tasks whose probabilities are sums of another task's."""

import keras
import numpy as np
import pytest

from flowloom.trainers.models.heads import SoftmaxHeads

TASKS = {"app": 3, "tunnel_traffic": 4, "traffic": 2}
SUMS = {"traffic": {"of": "tunnel_traffic", "classes": [0, 1, 0, 1]}}
X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def model_of(tasks=TASKS, sums=None):
    heads, x = SoftmaxHeads(tasks, sums or {}), keras.Input((6,))
    return heads, keras.Model(x, heads(dict.fromkeys(tasks, x)))


def test_every_task_has_its_own_softmax():
    heads, model = model_of()
    predicted = model(X)
    for task, classes in TASKS.items():
        kernel, bias = heads.variables(task)
        logits = X @ kernel.numpy() + bias.numpy()
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert kernel.shape == (6, classes)
        np.testing.assert_allclose(predicted[task], expected if classes > 2 else expected[:, 1:], atol=1e-6)
    assert heads.macs == 6 * (3 + 4 + 2)


def test_a_sum_agrees_with_its_other_task():
    heads, model = model_of(sums=SUMS)
    said = {task: answer.numpy() for task, answer in model(X).items()}
    np.testing.assert_allclose(said["traffic"][:, 0], said["tunnel_traffic"][:, [1, 3]].sum(axis=1), rtol=1e-5)
    assert heads.variables("traffic") == []
    assert sum(np.size(weight) for weight in model.get_weights()) == 7 * (3 + 4)
    three = {"traffic": {"of": "tunnel_traffic", "classes": [0, 1, 0, 2]}}
    _, model = model_of({**TASKS, "traffic": 3}, three)
    said = {task: answer.numpy() for task, answer in model(X).items()}
    np.testing.assert_allclose(said["traffic"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(said["traffic"][:, 1:], said["tunnel_traffic"][:, [1, 3]], rtol=1e-5)


@pytest.mark.parametrize(
    ("tasks", "sums", "message"),
    [
        ({}, {}, "at least one task"),
        ({"app": 1}, {}, "2 or more classes"),
        (TASKS, {"kind": SUMS["traffic"]}, "sums must name tasks among app, .* got 'kind'"),
        (TASKS, {"traffic": {"of": "traffic", "classes": [0, 1]}}, "each the sum of a task that is not a sum itself"),
        (TASKS, {"traffic": {"of": "app", "classes": [0, 1, 0, 1]}}, "must be 3 numbers from 0 to 1, got"),
        (TASKS, {"traffic": {"of": "app", "classes": [0, 1, 2]}}, "must be 3 numbers from 0 to 1, got"),
    ],
)
def test_bad_sums_are_refused(tasks, sums, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxHeads(tasks, sums)
