"""CNN+RNN-2 against its layers one by one; its networks share no variables."""

import keras
import numpy as np
import pytest

from flowloom.trainers.models.cnn_rnn2 import CNNRNN2

TASKS = {"app": 3, "attack": 2}


def inputs(k, rows=4):
    generator = np.random.default_rng(0)
    return {
        "sequence": generator.normal(size=(rows, k, 2)).astype(np.float32),
        "length": generator.integers(1, k + 1, rows).astype(np.int32),
    }


def test_forward_equals_the_layers_one_by_one():
    layers = keras.layers
    plain = keras.Sequential([
        keras.Input((10, 2)),
        layers.Conv1D(32, 4, padding="same", activation="relu"), layers.BatchNormalization(), layers.MaxPooling1D(2),
        layers.Conv1D(64, 4, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling1D(2, padding="same"), layers.LSTM(100), layers.Dense(100, "relu"), layers.Dense(3, "softmax"),
    ])  # fmt: skip
    model = CNNRNN2(10, 2, {"app": 3})
    plain.set_weights(model.get_weights())
    given = inputs(10)
    np.testing.assert_allclose(model(given)["app"], plain(given["sequence"]), atol=1e-6)
    assert model.count_params() == plain.count_params()
    steps = 10 * 4 * 2 * 32 + 5 * 4 * 32 * 64 + 3 * 400 * (64 + 100)
    assert model.macs == steps + 100 * 100 + 100 * 3


def test_a_network_belongs_to_one_task():
    model = CNNRNN2(5, 2, TASKS)
    assert model.shared_variables == []
    paths = [variable.path for task in TASKS for variable in model.task_variables(task)]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    statistics = [variable for variable in model.non_trainable_variables if variable.path.startswith("attack")]
    before = [variable.numpy() for variable in statistics]
    given = inputs(5)
    model.network("app")(given, training=True)
    for old, variable in zip(before, statistics, strict=True):
        np.testing.assert_array_equal(old, variable)
    np.testing.assert_array_equal(model.network("app")(given)["app"], model(given)["app"])


def test_batch_statistics_are_known_after_a_short_training():
    """After 30 batches, as in 30 epochs on few labels, inference predicts as training does."""
    keras.utils.set_random_seed(1)
    model, given = CNNRNN2(10, 2, {"app": 3}), inputs(10, rows=64)

    def apart():
        return float(np.abs(model(given)["app"] - model(given, training=True)["app"]).max())

    first = apart()
    for _ in range(30):
        model(given, training=True)
    assert apart() < first / 2


@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_saved_model_of_any_length_predicts_the_same(k, tmp_path):
    model = CNNRNN2(k, 2, TASKS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for task in TASKS:
        np.testing.assert_array_equal(loaded(inputs(k))[task], model(inputs(k))[task])


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        CNNRNN2(0, 2, TASKS)
    with pytest.raises(ValueError, match="2 or more classes"):
        CNNRNN2(3, 2, {"app": 1})
