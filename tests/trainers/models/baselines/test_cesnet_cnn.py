"""CESNET's CNN against its published size, its first vectors against the published rule, and its layers in NumPy."""

import math

import keras
import numpy as np
import pytest

from flowloom.trainers.models.baselines.cesnet_cnn import BLOCKS, CesnetCNN
from flowloom.trainers.models.baselines.generalised_mean import GeneralisedMean
from flowloom.trainers.models.baselines.packet_embedding import (
    PacketEmbedding,
    first_gap_vectors,
    first_size_vectors,
    gap_sections,
)

TASKS = {"app": 5, "attack": 2}
EDGES = np.concatenate(gap_sections())


def flows(k=30, rows=6):
    """Returns packets in units with padding zeros, and their numbers."""
    generator = np.random.default_rng(3)
    size = generator.integers(40, 1500, (rows, k))
    gap = np.exp(generator.uniform(0, np.log(4e7), (rows, k)))
    packets = np.stack([size, gap, generator.choice([-1, 1], (rows, k))], axis=2).astype(np.float32)
    length = generator.integers(1, k + 1, rows).astype(np.int32)
    packets[np.arange(k) >= length[:, None]] = 0
    return {"sequence": packets, "length": length}


def test_published_size():
    """30pktTCNET_256 has 1,004,117 parameters (num_params in cesnet_models/models.py), with its embedding of 256."""
    model = CesnetCNN(30, 3, TASKS)
    shared = sum(math.prod(variable.shape) for variable in model.shared_variables)
    embedding = 448 * 256 + 256 + 2 * 256
    assert shared + embedding == 1_004_117
    heads = sum(math.prod(variable.shape) for task in TASKS for variable in model.task_variables(task))
    assert heads == 449 * (5 + 1)
    assert shared + heads == sum(math.prod(variable.shape) for variable in model.trainable_variables)


def test_the_published_tables_of_vectors():
    """Figure of 30pktTCNET: 1,501 sizes in 20 values, 200 bins of gaps in 10 values, and two places for directions."""
    assert first_size_vectors().shape == (1501, 20)
    assert first_gap_vectors().shape == (len(EDGES), 10) == (200, 10)
    assert PacketEmbedding()(np.zeros((2, 30, 3), np.float32)).shape == (2, 30, 32)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 250, 1499, 1500])
def test_first_vector_of_a_size(size):
    full, rest = divmod(size, 100)
    expected = np.zeros(20)
    expected[:full] = 1
    if size < 1500:
        expected[full] = rest / 100
    np.testing.assert_allclose(first_size_vectors()[size], expected, atol=1e-7)


def test_first_vectors_of_gaps_fill_one_section_after_the_other():
    vectors, at = first_gap_vectors(), 0
    last = 0
    for number, section in enumerate(gap_sections()):
        for edge in section:
            expected = np.zeros(10)
            expected[:number] = 1
            if at:
                expected[number] = 1 if number == 0 else (edge - last) / (section[-1] - last)
            np.testing.assert_allclose(vectors[at], expected, atol=1e-6)
            at += 1
        last = section[-1]


def test_packets_become_vectors_of_their_bin():
    layer, given = PacketEmbedding(), flows()
    layer.build(given["sequence"].shape)
    generator = np.random.default_rng(1)
    layer.sizes.assign(generator.normal(size=layer.sizes.shape))
    layer.gaps.assign(generator.normal(size=layer.gaps.shape))
    found = np.asarray(layer(given["sequence"]))
    gaps, sizes = layer.gaps.numpy().copy(), layer.sizes.numpy().copy()
    gaps[0] = sizes[0] = 0
    for row, flow in zip(found, given["sequence"], strict=True):
        for vector, (size, gap, direction) in zip(row, flow, strict=True):
            # as torch.bucketize: the first bin whose upper edge is not below the gap, the last bin without an end
            place = min(np.searchsorted(EDGES, gap // 1000, side="left"), 199)
            expected = [*gaps[place], direction > 0, direction < 0, *sizes[int(size)]]
            np.testing.assert_array_equal(vector, np.float32(expected))


@pytest.mark.parametrize(("size", "gap"), [(9_000, 0), (65_535, 1e12), (-5, -1), (1500, 3.0999e7)])
def test_packets_out_of_range_are_clipped(size, gap):
    layer = PacketEmbedding()
    found = np.asarray(layer(np.array([[[size, gap, 1]]], np.float32)))[0, 0]
    assert found[:10].tolist() == first_gap_vectors()[199 if gap > 3e7 else 0].tolist()
    assert found[12:].tolist() == first_size_vectors()[max(0, min(size, 1500))].tolist()


def test_padding_is_zero_and_its_vectors_are_not_trained():
    import tensorflow as tf

    layer = PacketEmbedding()
    with tf.GradientTape() as tape:
        found = layer(tf.zeros((2, 4, 3)))
        loss = tf.reduce_sum(found + 1)
    assert not np.any(found)
    for gradient in tape.gradient(loss, layer.trainable_variables):
        assert not np.any(tf.convert_to_tensor(gradient))


def test_generalised_mean_of_numpy():
    x = np.random.default_rng(2).normal(1, 1, (3, 7, 5)).astype(np.float32)
    layer = GeneralisedMean()
    layer.build(x.shape)
    assert float(layer.exponent[0]) == 3
    layer.exponent.assign([2.5])
    expected = (np.maximum(x, 1e-6) ** 2.5).mean(axis=1) ** (1 / 2.5)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)


def normed(model, name, x):
    gamma, beta, mean, variance = model.get_layer(name).get_weights()
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def convolved(kernel, x):
    """Returns a convolution [B, k, C] with zeros around it, step by step."""
    reach = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return sum(padded[:, n : n + x.shape[1]] @ kernel[n] for n in range(len(kernel)))


def test_forward_equals_the_layers_one_by_one():
    keras.utils.set_random_seed(1)
    model, given = CesnetCNN(30, 3, TASKS), flows()
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([generator.uniform(0.5, 1.5, weights.shape) for weights in layer.get_weights()])
    x = np.asarray(model.get_layer("packets")(given["sequence"]))
    for n in range(len(BLOCKS)):
        parts = {role: model.get_layer(f"block_{n}_{role}").get_weights()[0] for role in
                 ("shortcut", "narrow", "across", "widen")}  # fmt: skip
        inner = x
        for role in ("narrow", "across"):
            inner = np.maximum(normed(model, f"block_{n}_{role}_norm", convolved(parts[role], inner)), 0)
        inner = normed(model, f"block_{n}_widen_norm", convolved(parts["widen"], inner))
        x = np.maximum(inner + normed(model, f"block_{n}_shortcut_norm", convolved(parts["shortcut"], x)), 0)
    assert x.shape == (6, 30, 448)
    x = (np.maximum(x, 1e-6) ** 3).mean(axis=1) ** (1 / 3)
    kernel, bias = model.get_layer("refine").get_weights()
    x = np.maximum(normed(model, "refine_norm", x @ kernel + bias), 0)
    kernel, bias = model.get_layer("app_head").get_weights()
    logits = x @ kernel + bias
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    said = model(given)
    np.testing.assert_allclose(said["app"], expected / expected.sum(axis=1, keepdims=True), atol=1e-4)
    assert said["attack"].shape == (6, 1)


def test_macs_count_the_products_of_a_flow():
    model = CesnetCNN(30, 3, TASKS)
    steps = 30 * sum(math.prod(w.shape) for w in model.shared_variables if len(w.shape) == 3)
    assert model.macs == steps + 448 * 448 + 448 * (5 + 1)


def test_bad_sizes_are_refused():
    for change, message in (
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"channels": 2}, r"channels must be 3 \(size, gap, direction\), got 2"),
        ({"tasks": {}}, "at least one task"),
    ):
        with pytest.raises(ValueError, match=message):
            CesnetCNN(**{"k": 10, "channels": 3, "tasks": TASKS, **change})
