"""LMMoE against a forward pass in NumPy, its parameter formula, and its shared variables."""

import keras
import numpy as np
import pytest

from flowloom.trainers.models.lmmoe import LMMoE

TASKS = {"app": 3, "attack": 2}
K, C = 5, 4


def inputs(rows=7):
    generator = np.random.default_rng(0)
    length = np.array([1, 2, 3, 4, 5, 5, 1][:rows], np.int32)
    sequence = generator.normal(size=(rows, K, C)).astype(np.float32)
    sequence[np.arange(K)[None, :] >= length[:, None]] = 0
    return {"sequence": sequence, "length": length}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def dense(layer, x):
    kernel, bias = layer.get_weights()
    return x @ kernel + bias


def lstm(layer, sequence, length):
    """Returns the last states of flows, computed packet by packet up to the flow's length."""
    kernel, recurrent, bias = layer.get_weights()
    states = []
    for flow, packets in zip(sequence, length, strict=True):
        h = c = np.zeros(recurrent.shape[0])
        for packet in flow[:packets]:
            i, f, g, o = np.split(packet @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def by_hand(model, sequence, length):
    hidden = [lstm(model.get_layer(f"expert_{n}"), sequence, length) for n in range(model.experts)]
    view = {
        "flatten": lambda: sequence.reshape(len(sequence), -1),
        "first_packet": lambda: sequence[:, 0],
        "mean": lambda: np.stack([flow[:packets].mean(axis=0) for flow, packets in zip(sequence, length, strict=True)]),
    }[model.gate_input]()
    outputs = {}
    for task, classes in TASKS.items():
        gate = softmax(dense(model.get_layer(f"{task}_gate"), view)) if model.experts > 1 else np.ones((len(view), 1))
        x = sum(gate[:, [n]] * hidden[n] for n in range(model.experts))
        for n in range(len(model.tower)):
            x = np.maximum(dense(model.get_layer(f"{task}_tower_{n}"), x), 0)
        head = dense(model.get_layer(f"{task}_head"), x)
        outputs[task] = softmax(head) if classes > 2 else sigmoid(head)
    return outputs


@pytest.mark.parametrize("gate_input", ["flatten", "mean", "first_packet"])
@pytest.mark.parametrize(("experts", "tower"), [(1, (3,)), (2, ()), (3, (6, 4))])
def test_forward_equals_the_one_by_hand(gate_input, experts, tower):
    keras.utils.set_random_seed(experts)
    model = LMMoE(K, C, TASKS, experts=experts, units=6, gate_input=gate_input, tower=tower)
    given = inputs()
    said = model(given)
    for task, expected in by_hand(model, **given).items():
        assert said[task].shape == (7, 3 if task == "app" else 1)
        np.testing.assert_allclose(said[task], expected, atol=1e-6)


def test_padding_is_ignored():
    model = LMMoE(K, C, TASKS, gate_input="mean")
    given = inputs()
    padding = np.arange(K)[None, :] >= given["length"][:, None]
    noisy = {**given, "sequence": np.where(padding[:, :, None], 9.0, given["sequence"]).astype(np.float32)}
    for task in TASKS:
        np.testing.assert_array_equal(model(given)[task], model(noisy)[task])


@pytest.mark.parametrize(("gate_input", "width"), [("flatten", K * C), ("mean", C), ("first_packet", C)])
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_parameter_formula(gate_input, width, experts):
    units, tower = 6, 5
    model = LMMoE(K, C, TASKS, experts=experts, units=units, gate_input=gate_input, tower=(tower,))
    gates = len(TASKS) * experts * (width + 1) if experts > 1 else 0
    towers = 2 * (units * tower + tower) + (tower * 3 + 3) + (tower + 1)
    assert model.count_params() == experts * 4 * units * (C + units + 1) + gates + towers


def test_the_published_sizes():
    """The counts are for 20 packets of 12 features, 3 binary tasks, 32 units and towers of 16.

    With one expert there are no gates.
    """
    tasks = dict.fromkeys(("a", "b", "c"), 2)
    assert LMMoE(20, 12, tasks, experts=2, gate_input="first_packet").count_params() == 13_233
    single = LMMoE(20, 12, tasks, experts=1)
    assert single.count_params() == 7_434 - 3 * 13
    assert single.macs == 112_640 + 3 * (32 * 16 + 16)


def test_variables_divide_into_shared_and_own():
    model = LMMoE(K, C, TASKS, experts=3)
    parts = [model.shared_variables, *(model.task_variables(task) for task in TASKS)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert len(paths) == len(set(paths))
    assert {path.split("/")[0] for path in (variable.path for variable in model.task_variables("app"))} == {
        "app_gate", "app_tower_0", "app_head",
    }  # fmt: skip


def test_gates_are_shares_that_weight_the_experts():
    model = LMMoE(K, C, TASKS, experts=3)
    weights = model.gates(inputs())
    for task in TASKS:
        np.testing.assert_allclose(np.sum(weights[task], axis=1), 1, rtol=1e-6)
    kernel, _ = model.get_layer("app_gate").get_weights()
    model.get_layer("app_gate").set_weights([0 * kernel, np.array([50.0, 0, 0])])
    np.testing.assert_allclose(model.gates(inputs())["app"], np.tile([1.0, 0, 0], (7, 1)), atol=1e-6)
    assert LMMoE(K, C, TASKS, experts=1).gates is None


def test_a_saved_model_predicts_the_same(tmp_path):
    model = LMMoE(K, C, TASKS, experts=2, units=3, gate_input="mean", tower=(4, 2), name="again")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for task in TASKS:
        np.testing.assert_array_equal(loaded(inputs())[task], model(inputs())[task])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 0}, "experts must be >= 1, got 0"),
        ({"tasks": {}}, "at least one task"),
        ({"tasks": {"a": 1}}, "2 or more classes"),
        ({"gate_input": "last"}, "gate_input must be flatten, mean or first_packet, got 'last'"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LMMoE(**{"k": K, "channels": C, "tasks": TASKS, **change})
