"""The dense network on bits and waves, beside its layers in NumPy."""

import keras
import numpy as np
import pytest

from flowloom.pipelines.reproduce.mtc.dense_ablation import ByteDense

TASKS = {"tra": 5, "vpn": 2}


def scrambled(model):
    generator = np.random.default_rng(1)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(generator.uniform(0.1, 1.0, variable.shape) - (0.5 if "kernel" in variable.path else 0.0))
    return model


def by_hand(model, seen):
    """One dense layer, normalised and rectified, and a softmax of each task."""
    weights = {variable.path: variable.numpy() for variable in model.variables}
    norm = {name: weights[f"readout_norm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    read = (seen @ weights["readout/kernel"] - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-5)
    read = np.maximum(read * norm["gamma"] + norm["beta"], 0)
    said = {}
    for task in TASKS:
        scores = read @ weights[f"{task}_head/kernel"] + weights[f"{task}_head/bias"]
        said[task] = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return said


def test_it_reads_all_bits_of_all_bytes():
    model = scrambled(ByteDense(20, TASKS))
    rows = np.random.default_rng(2).integers(0, 256, (6, 20), dtype=np.uint8)
    bits = np.unpackbits(rows[:, :, None], axis=2, bitorder="little")
    seen = np.concatenate([rows[:, :, None] / 255, bits], axis=2).reshape(6, -1).astype(np.float32)
    expected = by_hand(model, seen)
    said = model({"bytes": rows})
    np.testing.assert_allclose(said["tra"], expected["tra"], rtol=1e-4)
    np.testing.assert_allclose(said["vpn"], expected["vpn"][:, 1:], rtol=1e-4)
    assert model.macs == 20 * 9 * 256 + 256 * (5 + 2)


def test_it_reads_all_waves_of_all_features():
    model = scrambled(ByteDense(6, TASKS, "features"))
    rows = np.random.default_rng(2).random((4, 6), np.float32)
    angles = np.pi * 2 ** np.arange(8) * rows[:, :, None].astype(np.float64)
    seen = np.concatenate([rows[:, :, None], np.sin(angles), np.cos(angles)], axis=2).reshape(4, -1)
    np.testing.assert_allclose(model({"features": rows})["tra"], by_hand(model, seen)["tra"], rtol=1e-3)


def test_it_is_saved_whole_and_tells_its_variables(tmp_path):
    model = scrambled(ByteDense(20, TASKS, masked=0.5))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    rows = {"bytes": np.random.default_rng(2).integers(0, 256, (6, 20), dtype=np.uint8)}
    np.testing.assert_array_equal(model(rows)["tra"], again(rows)["tra"])
    assert again.get_config() == model.get_config()
    own = [variable for task in TASKS for variable in model.task_variables(task)]
    assert len(model.shared_variables) + len(own) == len(model.trainable_variables)
    assert model.last_shared_variables[0].shape == (180, 256)


def test_some_bytes_are_hidden_in_training_only():
    model = ByteDense(20, TASKS, masked=0.9)
    rows = {"bytes": np.full((50, 20), 255, np.uint8)}
    shown = keras.Model(model.input, model.get_layer("mask").output)
    assert float(np.mean(shown(rows, training=True))) == pytest.approx(0.1, abs=0.03)
    assert float(np.mean(shown(rows, training=False))) == 1.0
