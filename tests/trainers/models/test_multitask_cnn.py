"""The multi-task CNN against the layers of the paper one by one, and its published sizes."""

import keras
import numpy as np
import pytest

from flowloom.trainers.models.multitask_cnn import MultitaskCNN, fitting_blocks

QUIC = {"bandwidth": 5, "duration": 5, "app": 5}
SIX = [(32, 32), (64, 64), (128, 128)]


def inputs(k, channels=2, rows=4):
    generator = np.random.default_rng(0)
    return {
        "sequence": generator.normal(size=(rows, k, channels)).astype(np.float32),
        "length": generator.integers(1, k + 1, rows).astype(np.int32),
    }


def plain(k):
    """Returns table II in Keras, for k = 60 or without the last convolution."""
    sequence = keras.Input((k, 2))
    x = sequence
    for filters, convolutions in ((32, 2), (64, 2), (128, 2 if k > 45 else 1)):
        for _ in range(convolutions):
            x = keras.layers.Conv1D(filters, 3, activation="relu")(x)
        x = keras.layers.MaxPooling1D(2)(x)
    x = keras.layers.Flatten()(x)
    for _ in range(2):
        x = keras.layers.Dense(256, activation="relu")(x)
    outputs = {task: keras.layers.Dense(classes, activation="softmax")(x) for task, classes in QUIC.items()}
    return keras.Model(sequence, outputs)


@pytest.mark.parametrize("k", [30, 45, 60])
def test_forward_equals_the_layers_one_by_one(k):
    keras.utils.set_random_seed(1)
    model, other = MultitaskCNN(k, 2, QUIC), plain(k)
    other.set_weights(model.get_weights())
    given = inputs(k)
    said = model(given)
    for task, expected in other(given["sequence"]).items():
        assert said[task].shape == (4, 5)
        np.testing.assert_allclose(said[task], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "parameters"), [(30, 149_263), (45, 214_799), (60, 296_847), (90, 395_151), (120, 526_223)]
)
def test_published_sizes(k, parameters):
    model = MultitaskCNN(k, 2, QUIC)
    assert model.count_params() == parameters
    kernels = [weights for weights in model.get_weights() if weights.ndim > 1]
    assert parameters == sum(kernel.size + kernel.shape[-1] for kernel in kernels)
    if k == 60:
        assert 2 * model.macs == pytest.approx(2.97e6, rel=0.01)


def test_short_flows_have_fewer_convolutions():
    for k in range(1, 130):
        blocks, most = fitting_blocks(k, "paper"), fitting_blocks(k, "fit")
        layers, all_layers = [sum(map(len, each)) for each in (blocks, most)]
        assert layers == (min(5, all_layers) if k <= 45 else 6)
        steps = k
        for widths in most:
            steps -= 2 * len(widths)
            assert steps >= 1
            steps = max(1, steps // 2)
        if most != SIX:
            assert k < 36, "k = 36 is the least that six convolutions fit in: 34, 32, 16, 14, 12, 6, 4, 2, 1"
    assert fitting_blocks(36, "fit") == SIX
    assert fitting_blocks(45, "paper") == [(32, 32), (64, 64), (128,)]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_any_number_of_packets_is_possible(k):
    model = MultitaskCNN(k, 3, {"app": 3, "attack": 2})
    said = model(inputs(k, channels=3))
    assert (said["app"].shape, said["attack"].shape) == ((4, 3), (4, 1))


def test_variables_divide_into_convolutions_dense_and_heads():
    model = MultitaskCNN(30, 2, QUIC)
    parts = [model.shared_variables, *(model.task_variables(task) for task in QUIC)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert len(paths) == len(set(paths))
    assert [variable.path for variable in model.convolution_variables] == [
        path for path in paths if path.startswith("convolution_")
    ]


def test_shared_weights_are_adopted():
    given = inputs(30)
    learned, model = MultitaskCNN(30, 2, {"duration": 4}), MultitaskCNN(30, 2, {"app": 3})
    head = model.task_variables("app")[0].numpy()
    model.adopt(learned)
    for own, others in zip(model.shared_variables, learned.shared_variables, strict=True):
        np.testing.assert_array_equal(own, others)
    np.testing.assert_array_equal(model.task_variables("app")[0], head)
    assert model(given)["app"].shape == (4, 3)


def test_a_saved_model_predicts_the_same(tmp_path):
    model = MultitaskCNN(40, 2, {"app": 3, "attack": 2}, convolutions="fit", name="again")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for task in model.tasks:
        np.testing.assert_array_equal(loaded(inputs(40))[task], model(inputs(40))[task])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"tasks": {}}, "at least one task"),
        ({"tasks": {"a": 1}}, "2 or more classes"),
        ({"convolutions": "all"}, "convolutions must be paper or fit, got 'all'"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MultitaskCNN(**{"k": 10, "channels": 2, "tasks": QUIC, **change})
