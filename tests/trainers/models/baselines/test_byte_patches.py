"""The byte Transformer: YaTC's published layers, NumPy's forward pass, and its patches."""

import math

import keras
import numpy as np
import pytest
import scipy.special

from flowloom.trainers.models.baselines.byte_patches import BytePatches, as_patches
from flowloom.trainers.models.baselines.patch_encoder import PatchEncoder

TASKS = {"app": 5, "attack": 2}


def test_the_encoder_of_yatc():
    """Width 192, 4 layers, 16 heads, hidden layers of 4 x 192, 80 patches of 4 bytes a packet (models_YaTC.py)."""
    model = BytePatches(320, TASKS, patch=4, width=192, encoders=4, attention_heads=16)
    layers = [layer for layer in model.layers if isinstance(layer, PatchEncoder)]
    attention, feed_forward, norms = 4 * (192 * 192 + 192), 2 * 192 * 768 + 768 + 192, 4 * 192
    assert [layer.count_params() for layer in layers] == [attention + feed_forward + norms] * 4 == [444_864] * 4
    assert model.get_layer("positions").places.shape == (81, 192)
    assert model.get_layer("patches").count_params() == 4 * 192 + 192


def normed(weights, x):
    gamma, beta = (np.asarray(each) for each in weights)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta


def softmax(x):
    return scipy.special.softmax(x, axis=-1)


def encoded(layer, x):
    """Returns an encoder layer of tokens [n, d] in NumPy."""
    weights = {variable.path.split("/", 1)[-1]: np.asarray(variable) for variable in layer.variables}

    def of(name):
        return next(value for path, value in weights.items() if path.endswith(name))

    z = normed((of("norm_0/gamma"), of("norm_0/beta")), x)
    heads = []
    for head in range(layer.heads):
        query, key, value = (
            z @ of(f"{name}/kernel")[:, head] + of(f"{name}/bias")[head] for name in ("query", "key", "value")
        )
        heads.append(softmax(query @ key.T / math.sqrt(query.shape[1])) @ value)
    mixed = np.einsum("hnd,hdw->nw", np.stack(heads), of("attention_output/kernel"))
    x = x + mixed + of("attention_output/bias")
    hidden = normed((of("norm_1/gamma"), of("norm_1/beta")), x) @ of("widen/kernel") + of("widen/bias")
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return x + hidden @ of("narrow/kernel") + of("narrow/bias")


def test_forward_equals_the_layers_one_by_one():
    keras.utils.set_random_seed(1)
    model = BytePatches(22, TASKS, patch=4, width=12, encoders=2, attention_heads=3)
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(generator.normal(0, 0.2, variable.shape))
    rows = generator.integers(0, 256, (3, 22), dtype=np.uint8)
    said = model({"bytes": rows})
    assert (said["app"].shape, said["attack"].shape) == ((3, 5), (3, 1))
    kernel, bias = model.get_layer("patches").get_weights()
    token, places = (model.get_layer(name).get_weights()[0] for name in ("class_token", "positions"))
    for row, probabilities in zip(rows, said["app"], strict=True):
        patches = np.pad(row, (0, 2)).reshape(6, 4) / 255
        x = np.concatenate([token[0], patches @ kernel + bias]) + places
        for n in range(2):
            x = encoded(model.get_layer(f"encoder_{n}"), x)
        x = normed(model.get_layer("norm").get_weights(), x[0])
        kernel_out, bias_out = model.get_layer("app_head").get_weights()
        np.testing.assert_allclose(probabilities, softmax(x @ kernel_out + bias_out), atol=1e-5)


def test_patches_are_bytes_in_their_order():
    row = np.arange(1, 8, dtype=np.float32)[None]
    assert np.asarray(as_patches(row, 3)).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 0, 0]]]


def test_macs_count_the_products_of_a_packet():
    model = BytePatches(320, {"app": 5}, patch=4, width=64, encoders=2, attention_heads=4)
    n, d = 81, 64
    layer = 4 * n * d * d + 2 * n * n * d + 2 * n * d * 4 * d
    assert model.macs == 80 * 4 * d + 2 * layer + d * 5


def test_variables_divide_into_shared_ones_and_heads():
    model = BytePatches(40, TASKS)
    parts = [model.shared_variables, *(model.task_variables(task) for task in TASKS)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert model.last_shared_variables[0].shape == (256, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 0}, "patch must be >= 1, got 0"),
        ({"attention_heads": 5}, "attention_heads must divide the width of a token, 64, got 5"),
        ({"tasks": {"a": 1}}, "2 or more classes"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BytePatches(**{"length": 40, "tasks": TASKS, **change})
