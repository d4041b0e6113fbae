"""MTC against a network of Keras layers alone, and the sizes of MTC and its baselines."""

import keras
import numpy as np
import plain_mtc
import pytest
import tensorflow as tf

from flowloom.trainers.layers.byte_mask import ByteMask
from flowloom.trainers.models.byte_cnn import ByteCNN
from flowloom.trainers.models.byte_transformer import ByteTransformer, positions
from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.models.tokens import as_tokens, with_bits

TASKS = {"app": 4, "tunnel_traffic": 6, "traffic": 3}
SUMS = {"traffic": {"of": "tunnel_traffic", "classes": [0, 1, 2, 0, 1, 2]}}
ISCX = {"app": 17, "tunnel_traffic": 12, "traffic": 6}
CICIDS = {"family": 6, "attack": 2}
SMALL = {"transformer_tasks": ["app"], "repetitions": (1, 1, 1)}


def packets(length, rows=3):
    return {"bytes": np.random.default_rng(0).integers(0, 256, (rows, length)).astype(np.uint8)}


LITE = {"expanded": True, "positions": True, "readout": "wide", "masked": 0.2}


def both(stem, lite=False):
    """Returns MTC over 72 bytes (8 tokens of 9), and the plain network with the same changed weights."""
    keras.utils.set_random_seed(1)  # of weights drawn anew a rare one puts a unit on its kink, where rounding decides
    model = MTC(72, TASKS, **SMALL, stem=stem, attention_heads=5, **(LITE if lite else {}))
    plain = plain_mtc.plain_mtc((8, 9), TASKS, ["app"], stem=stem, repetitions=(1, 1, 1), attention_heads=5, lite=lite)
    generator = np.random.default_rng(1)
    for variable in plain.weights:
        if "seed" not in variable.path:
            variable.assign(variable + generator.uniform(0, 0.1, variable.shape))
    plain_mtc.copy_weights(plain, model)
    return model, plain


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("stem", "lite"), [(1, False), (3, False), (9, True)])
def test_outputs_gradients_and_statistics_are_those_of_the_plain_network(monkeypatch, stem, lite, training):
    """Without dropout, so that both networks are deterministic."""
    monkeypatch.setattr("flowloom.trainers.layers.dropout.Dropout.gain", lambda layer, training: 1.0)
    monkeypatch.setattr("flowloom.trainers.layers.dropout.Dropout._kept", lambda layer, x: tf.ones_like(x, tf.bool))
    monkeypatch.setattr("keras.layers.Dropout.call", lambda layer, x, training=False: x)
    monkeypatch.setattr("flowloom.trainers.layers.byte_mask.ByteMask.call", lambda layer, x, training=False: x)
    model, plain = both(stem, lite)
    given, said, slopes = packets(72, rows=8), [], []
    for network in (model, plain):
        with tf.GradientTape() as tape:
            outputs = network(given, training=training)
            loss = tf.add_n([tf.reduce_sum(tf.math.log(outputs[task][:, 0])) for task in TASKS])
        said.append(outputs)
        variables = network.trainable_variables
        found = tape.gradient(loss, [variable.value for variable in variables])
        slopes.append({id(variable): np.asarray(slope) for variable, slope in zip(variables, found, strict=True)})
    for task in TASKS:
        np.testing.assert_allclose(said[0][task], said[1][task], atol=1e-5)
    for other, own in plain_mtc.paired_weights(plain, model):
        if "seed" in own.path:
            continue
        if own.trainable:
            expected = slopes[1][id(other)].reshape(own.shape)
            furthest = 2e-3 * max(float(np.abs(expected).max()), 1e-2)
            np.testing.assert_allclose(slopes[0][id(own)], expected, atol=furthest, err_msg=own.path)
        else:
            np.testing.assert_allclose(own, other.numpy().reshape(own.shape), rtol=1e-3, atol=1e-5, err_msg=own.path)


@pytest.mark.parametrize(
    ("make", "parameters", "statistics"),
    [
        (lambda: ByteTransformer(1500, ISCX), 845_453, 0),
        (lambda: ByteCNN(1500, ISCX), 10_109_935, 800),
        (lambda: ByteTransformer(49, CICIDS, "features", attention_heads=7), 109_537, 0),
        (lambda: ByteCNN(49, CICIDS, "features"), 468_558, 800),
        pytest.param(lambda: MTC(1500, ISCX, ["app"]), 1_608_923, 3_700, marks=pytest.mark.slow),
        pytest.param(lambda: MTC(1500, ISCX, ["app"], stem=10), 1_610_273, 3_700, marks=pytest.mark.slow),
        pytest.param(
            lambda: MTC(49, CICIDS, ["family"], "features", attention_heads=7), 395_136, 3_700, marks=pytest.mark.slow
        ),
    ],
)
def test_sizes_count_the_statistics_of_batches(make, parameters, statistics):
    model = make()
    assert model.count_params() == parameters
    trained = sum(np.size(variable) for variable in model.trainable_variables)
    assert parameters - trained == statistics


def test_the_size_of_the_paper_by_its_parts():
    """All encoders have one size, so a MTC with three encoders gives the size with twelve."""
    model = MTC(1500, ISCX, **SMALL)
    encoder = 4 * 50 * 48 + 2 * 50 * 1024 + 1024 + 50 + 4 * 50
    assert model.count_params() + 9 * encoder == 1_608_923
    assert encoder == sum(np.size(v) for v in model.trainable_variables if v.path.startswith("encoder_1_0"))


def test_macs_are_those_of_kernels_and_scores():
    model = MTC(72, TASKS, **SMALL, stem=3, attention_heads=5)
    kernels = {v.path: int(np.prod(v.shape)) for v in model.trainable_variables if len(v.shape) > 1}
    steps = {"bottleneck": 24, "encoder": 8, "down": 8, "up": 8, "app": 1, "tunnel": 1, "traffic": 1}
    expected = sum(size * steps[path.split("_")[0]] for path, size in kernels.items())
    assert model.macs == expected + 3 * 2 * 8 * 8 * 5


def test_tasks_read_the_branch_they_are_given():
    """A change of the last bottleneck reaches the tasks of the CNN branch alone."""
    model = MTC(72, TASKS, transformer_tasks=["tunnel_traffic", "app"], repetitions=(0, 0, 1))
    before = model(packets(72))
    weight = next(v for v in model.trainable_variables if v.path == "bottleneck_2_1/third/weight")
    weight.assign(weight + 1.0)
    after = model(packets(72))
    changed = {task: not np.array_equal(before[task], after[task]) for task in TASKS}
    assert changed == {"app": False, "tunnel_traffic": False, "traffic": True}


MAKERS = {
    "mtc": lambda length, source="bytes", **more: MTC(length, TASKS, ["app"], source, repetitions=(0, 1, 0), **more),
    "transformer": lambda length, source="bytes", **more: ByteTransformer(length, TASKS, source, encoders=1, **more),
    "cnn": lambda length, source="bytes", **more: ByteCNN(length, TASKS, source, filters=3, **more),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_variables_divide_into_shared_and_own(make):
    model = make(40, sums=SUMS)
    parts = [model.shared_variables, *(model.task_variables(task) for task in TASKS)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert len(paths) == len(set(paths))
    assert [len(model.task_variables(task)) for task in TASKS] == [2, 2, 0]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("length", [19, 120])
def test_any_length_is_possible(make, length):
    said = make(length)(packets(length))
    for task, classes in TASKS.items():
        assert said[task].shape == (3, classes)
        np.testing.assert_allclose(np.sum(said[task], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_saved_model_predicts_the_same(make, tmp_path):
    model = make(40, "features", sums=SUMS, name="again")
    given = {"features": np.random.default_rng(0).random((3, 40), np.float32)}
    model(given, training=True)  # statistics of batches are saved too
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for task in model.tasks:
        np.testing.assert_array_equal(loaded(given)[task], model(given)[task])


def test_positions_equal_the_equations():
    table = positions(30, 7)
    for place in (0, 1, 17, 29):
        for i in range(7):
            angle = place * 10_000 ** (-2 * (i // 2) / 7)
            assert table[place, i] == pytest.approx(np.sin(angle) if i % 2 == 0 else np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MTC(72, TASKS, stem=5), r"stem must divide the 9 values of a token, .*\[1, 3, 9\], got 5"),
        (lambda: MTC(72, TASKS, repetitions=(1, 5)), r"repetitions must be 3 numbers >= 0, got \[1, 5\]"),
        (lambda: MTC(72, TASKS, ["apps"]), r"transformer_tasks must be among app, .*got \['apps'\]"),
        (lambda: MTC(72, {}), "at least one task"),
        (lambda: MTC(72, TASKS, attention_heads=0), "heads"),
        (lambda: ByteTransformer(72, TASKS, encoders=0), "encoders must be >= 1, got 0"),
        (lambda: ByteCNN(18, TASKS), "length must be >= 19 for the convolutions, got 18"),
        (lambda: ByteCNN(72, TASKS, filters=0), "filters must be >= 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("readout", "read"), [("all", 24 * 200), ("wide", 256)])
def test_the_lite_settings_are_saved_and_loaded(tmp_path, readout, read):
    """Every weight is shared or of one task, and a file gives the same network."""
    lite = {**LITE, "readout": readout}
    model = MTC(72, TASKS, ["app"], repetitions=(0, 1, 0), stem=3, **lite)
    model.save(tmp_path / "lite.keras")
    again = keras.saving.load_model(tmp_path / "lite.keras")
    assert again.get_config() == model.get_config()
    given = packets(72)
    for task in TASKS:
        np.testing.assert_array_equal(model(given)[task], again(given)[task])
    own = sum(np.size(v) for task in TASKS for v in model.task_variables(task))
    assert sum(np.size(v) for v in model.shared_variables) + own == sum(np.size(v) for v in model.trainable_variables)
    assert model.task_variables("traffic")[0].shape == (read, 3)
    kernels = {v.path: int(np.prod(v.shape)) for v in model.trainable_variables if len(v.shape) > 1}
    steps = {"bottleneck": 24, "encoder": 8, "down": 8, "up": 8, "token": 8, "step": 0}
    expected = sum(size * steps.get(path.split("_")[0], 1) for path, size in kernels.items())
    assert model.macs == expected + 2 * 8 * 8 * 6


def test_bits_behind_a_mask_are_exact_in_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = MTC(256, TASKS, repetitions=(0, 0, 0), expanded=True, masked=0.2)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    seen = keras.Model(model.input, with_bits(as_tokens(model.get_layer("mask").output)))
    every = np.arange(256, dtype=np.uint8)
    bits = np.asarray(seen({"bytes": every[None]}), np.float32).reshape(-1, 9)[:256, 1:]
    np.testing.assert_array_equal(bits, np.unpackbits(every[:, None], axis=1, bitorder="little"))


def test_a_network_is_trained_without_masked_values(monkeypatch):
    monkeypatch.setattr("flowloom.trainers.layers.dropout.Dropout._kept", lambda layer, x: tf.ones_like(x, tf.bool))
    model, whole = (MTC(72, TASKS, repetitions=(0, 0, 0), masked=masked) for masked in (0.9, 0.0))
    whole.set_weights([each.numpy() for each in model.weights])
    given = packets(72)
    for task in TASKS:
        np.testing.assert_array_equal(model(given)[task], whole(given)[task])
    assert np.abs(model(given, training=True)["app"] - whole(given, training=True)["app"]).max() > 1e-3


def test_a_mask_hides_values_in_training_alone():
    mask, values = ByteMask(0.2), np.ones((50, 200), np.float32)
    np.testing.assert_array_equal(mask(values), values)
    hidden = np.asarray(mask(values, training=True))
    assert set(np.unique(hidden)) == {0.0, 1.0}
    assert 0.17 < np.mean(hidden == 0) < 0.23
    with pytest.raises(ValueError, match="rate must be >= 0 and < 1, got 1"):
        ByteMask(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"readout": "last"}, "readout must be one of mean, all, wide, got 'last'"),
    ],
)
def test_bad_lite_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MTC(72, TASKS, **SMALL, **settings)
