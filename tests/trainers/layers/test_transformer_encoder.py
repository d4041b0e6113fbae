"""Attention and encoder layers against the equations in NumPy and the layers of Keras."""

import keras
import numpy as np
import pytest

from flowloom.trainers.layers.attention import SelfAttention
from flowloom.trainers.layers.transformer_encoder import EncoderLayer

B, N = 3, 4


def tokens(d, rows=B):
    return np.random.default_rng(1).normal(size=(rows, N, d)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def normalised(x, gamma, beta):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def attended(z, query, key, value, mix, heads):
    """Computes equations (1) to (3), one row and one head at a time."""
    outputs = np.zeros_like(z)
    for row, given in enumerate(z):
        parts = []
        for q, k, v in zip(*(np.split(kernel, heads, axis=1) for kernel in (query, key, value)), strict=True):
            parts.append(softmax((given @ q) @ (given @ k).T / np.sqrt(v.shape[1])) @ (given @ v))
        outputs[row] = np.concatenate(parts, axis=1) @ mix
    return outputs


@pytest.mark.parametrize(("d", "heads", "width"), [(50, 6, 8), (7, 7, 1), (28, 6, 4), (3, 6, 1)])
def test_attention_equals_the_equations_and_keras(d, heads, width):
    z, layer = tokens(d), SelfAttention(heads)
    said = layer(z)
    weights = layer.get_weights()
    assert layer.head_width == width
    np.testing.assert_allclose(said, attended(z, *weights, heads), atol=1e-5)
    peer = keras.layers.MultiHeadAttention(heads, width, use_bias=False)
    peer.build(z.shape, z.shape)
    peer.set_weights([kernel.reshape(own.shape) for kernel, own in zip(weights, peer.get_weights(), strict=True)])
    np.testing.assert_allclose(said, peer(z, z), atol=1e-5)


def by_hand(layer, z):
    first, last = layer.attention_norm, layer.output_norm
    z = normalised(z + attended(z, *layer.attention.get_weights(), layer.heads), *first.get_weights())
    fed = np.maximum(z @ layer.widen.numpy() + layer.widen_bias.numpy(), 0) @ layer.narrow.numpy()
    return normalised(z + fed + layer.narrow_bias.numpy(), *last.get_weights())


def scrambled(layer):
    """Sets every weight to a random value, because initial biases and scales hide mistakes."""
    generator = np.random.default_rng(2)
    layer.set_weights([generator.normal(size=weight.shape, scale=0.3) for weight in layer.get_weights()])
    return layer


def test_an_encoder_layer_equals_the_paper():
    z, layer = tokens(10), EncoderLayer(3, width=16)
    layer(z)
    scrambled(layer)
    np.testing.assert_allclose(layer(z), by_hand(layer, z), atol=1e-5)


def test_dropout_acts_in_training_only():
    z, layer = tokens(6), EncoderLayer(2, width=32, dropout=0.5)
    np.testing.assert_array_equal(layer(z), layer(z))
    one, other = layer(z, training=True).numpy(), layer(z, training=True).numpy()
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(("kind", "bad"), [(SelfAttention, "heads"), (EncoderLayer, "width")])
def test_bad_sizes_are_refused(kind, bad):
    with pytest.raises(ValueError, match=f"{bad} must be >= 1, got 0"):
        kind(**{"heads": 2, bad: 0})
