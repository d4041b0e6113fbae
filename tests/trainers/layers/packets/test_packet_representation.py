"""Represented packets against a plain computation of each packet, and the learned tables."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.trainers.feed.flow_spec import CHANNELS
from flowloom.trainers.layers.packets.packet_bins import FEATURES
from flowloom.trainers.layers.packets.packet_representation import PacketRepresentation

EVERY = tuple(feature for channel in CHANNELS.values() for feature in channel.features)
K = 6
LENGTHS = np.array([K, 3, 1], np.int32)


def flows(features=EVERY):
    """Returns packets in units, float32 [3, K, C], with values at the ends of their ranges."""
    generator = np.random.default_rng(3)
    columns = {
        "size": generator.choice([20, 40, 60, 1378, 1499, 1500, 1535, 1536, 65_535], (3, K)),
        "gap": generator.choice([0, 0.5, 1, 10, 31.62, 1000, 1e6, 1e7, 9e8], (3, K)),
        "direction": generator.choice([-1, 1], (3, K)),
        "ttl": generator.choice([0, 1, 63, 128, 255], (3, K)),
        "window": generator.choice([0, 1, 2, 5840, 65_535], (3, K)),
        "payload": generator.choice([0, 1, 1460, 65_535], (3, K)),
    }
    given = [columns.get(name, generator.integers(0, 2, (3, K))) for name in features]
    sequence = np.stack(given, axis=-1).astype(np.float32)
    sequence[np.arange(K)[None] >= LENGTHS[:, None]] = 0
    return sequence, np.arange(K)[None] < LENGTHS[:, None]


def gaussians(value, centres, width):
    return [math.exp(-(((value - centre) / width) ** 2) / 2) for centre in centres]


def bins_by_hand(packet, place):
    """Returns the soft bins of one packet, {feature: value}, in the order of the layer."""
    size = gaussians(min(packet["size"], 1500), [25 + 50 * n for n in range(30)], 30)
    none = [0.0] * 30
    found = size + none if packet["direction"] > 0 else none + size
    found += gaussians(min(packet["payload"], 1500), [25 + 50 * n for n in range(30)], 30)
    gap = gaussians(math.log10(max(packet["gap"], 1)), [0.25 + n / 2 for n in range(14)], 0.35)
    found += gap if place else [0.0] * 14
    found += gaussians(math.log2(1 + packet["window"]), range(17), 0.5)
    found += gaussians(packet["ttl"], [1, 32, 64, 128, 255], 10)
    return found + [packet[name] for name in EVERY if name in ("direction", *EVERY[3:15])]


def numbers_by_hand(packet, place):
    """Returns the row of one packet in each table."""
    gap = max(0, math.floor(math.log10(max(packet["gap"], 1)) * 6 + 1e-9))
    return {
        "size": min(int(packet["size"]), 1535) + 1536 * (packet["direction"] > 0),
        "gap": 1 + min(gap, 48) if place else 0,
        "window": math.floor(math.log2(1 + packet["window"]) * 4 + 1e-9),
        "ttl": int(packet["ttl"]),
        "flags": sum(int(packet[name]) << bit for bit, name in enumerate(CHANNELS["tcp_flags"].features)),
    }


def by_hand(layer, sequence):
    """Returns the outputs of a layer packet by packet."""
    width = layer.width
    found = np.zeros((*sequence.shape[:2], width))
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            packet = dict(zip(EVERY, sequence[row, place].astype(float), strict=True))
            numbers = numbers_by_hand(packet, place)
            looked_up = [np.asarray(layer.tables[name])[numbers[name]] for name in layer.tables]
            found[row, place] = np.concatenate([bins_by_hand(packet, place), *looked_up])
    return found


def test_bins_and_embeddings_equal_those_by_hand():
    sequence, present = flows()
    layer = PacketRepresentation(EVERY, embedding=8)
    layer(sequence, present)
    generator = np.random.default_rng(0)
    for table in layer.tables.values():
        table.assign(generator.normal(size=table.shape))
    assert list(layer.tables) == ["size", "gap", "window", "ttl", "flags"]
    np.testing.assert_allclose(layer(sequence, present), by_hand(layer, sequence), atol=2e-5)


def test_the_layer_represents_all_features_of_flows():
    assert sorted(FEATURES) == sorted(EVERY)


@pytest.mark.parametrize(
    ("features", "bins", "tables"),
    [
        (("size",), 30, {"size": 1536}),
        (("size", "direction"), 61, {"size": 3072}),
        (("gap",), 14, {"gap": 50}),
        (("gap", "size"), 44, {"size": 1536, "gap": 50}),
        (("size", *CHANNELS["protocol"].features), 34, {"size": 1536}),
        (("size", *CHANNELS["tcp_flags"].features), 38, {"size": 1536, "flags": 256}),
        (("ttl", "window"), 22, {"window": 64, "ttl": 256}),
    ],
)
def test_absent_features_are_left_out(features, bins, tables):
    sequence, present = flows(features)
    alone = PacketRepresentation(features, embedding=0)
    assert alone(sequence, present).shape == (3, K, bins)
    assert not alone.weights
    layer = PacketRepresentation(features, embedding=4)
    assert layer(sequence, present).shape == (3, K, layer.width)
    assert {name: table.shape[0] for name, table in layer.tables.items()} == tables


def test_padding_is_zero_whatever_it_holds():
    sequence, present = flows()
    layer = PacketRepresentation(EVERY, embedding=4)
    noisy = np.where(present[:, :, None], sequence, 777).astype(np.float32)
    np.testing.assert_array_equal(layer(noisy, present), layer(sequence, present))
    np.testing.assert_array_equal(np.asarray(layer(noisy, present))[~present], 0)


def test_only_tables_of_values_that_occur_learn():
    sequence, present = flows(("size", "direction"))
    layer = PacketRepresentation(("size", "direction"), embedding=3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(sequence, present))
    gradient = tape.gradient(loss, layer.tables["size"].value)
    assert isinstance(gradient, tf.Tensor)  # dense, as optimizers and sums over parts of a batch need it
    rows = np.minimum(sequence[..., 0], 1535) + 1536 * (sequence[..., 1] > 0)
    expected = np.bincount(rows[present].astype(int), minlength=3072)
    np.testing.assert_array_equal(gradient, np.repeat(expected[:, None], 3, 1))


def test_sizes_are_exact_under_mixed_precision():
    sequence, present = flows()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = PacketRepresentation(EVERY, embedding=4)
        outputs = layer(sequence, present)
    finally:
        keras.config.set_dtype_policy(before)
    assert outputs.dtype == tf.float32
    np.testing.assert_allclose(outputs, by_hand(layer, sequence), atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("size", "entropy")}, r"distinct names among size, .*, got \['size', 'entropy'\]"),
        ({"features": ("size", "size")}, "distinct names"),
        ({"features": ()}, "distinct names"),
        ({"embedding": -1}, "embedding must be >= 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PacketRepresentation(**{"features": ("size",), **change})
