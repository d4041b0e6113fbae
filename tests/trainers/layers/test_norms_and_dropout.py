"""Normalisations, dropout and products against those of Keras and TensorFlow, with gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.trainers.layers.batch_norm import BatchNormalization
from flowloom.trainers.layers.dropout import Dropout
from flowloom.trainers.layers.layer_norm import LayerNormalization
from flowloom.trainers.layers.tall_matmul import tall_matmul

ROWS, C = 37, 6
X = np.random.default_rng(0).normal(3, 2, (ROWS, C)).astype(np.float32)
UPSTREAM = np.random.default_rng(1).normal(size=(ROWS, C)).astype(np.float32)


def with_gradients(function, *inputs):
    """Returns the outputs of a function, and its gradients for one upstream gradient."""
    tensors = [tf.constant(value) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        said = function(*tensors)
    return said, tape.gradient(said, tensors, output_gradients=UPSTREAM[:, : said.shape[1]])


def layer_gradients(layer, **call):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        said = layer(x, **call)
    return [said, *tape.gradient(said, [x, *layer.trainable_variables], output_gradients=UPSTREAM)]


def pair(own, peer):
    """Returns both layers with the same weights, all different from their first values."""
    for layer in (own, peer):
        layer.build((None, C))
        layer.set_weights([np.linspace(0.5, 1.5, C, dtype=np.float32) * (1 + n) for n in range(len(layer.weights))])
    return own, peer


@pytest.mark.parametrize("training", [False, True])
def test_batch_normalisation_equals_keras(training):
    own, peer = pair(BatchNormalization(), keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9))
    for said, expected in zip(
        layer_gradients(own, training=training), layer_gradients(peer, training=training), strict=True
    ):
        np.testing.assert_allclose(said, expected, atol=2e-5)
    for moving, expected in zip(own.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(moving, expected, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_gain_scales_the_outputs(training):
    one, other = pair(BatchNormalization(), BatchNormalization())
    scaled = one(X, training=training, gain=1.25)
    np.testing.assert_allclose(scaled, 1.25 * other(X, training=training).numpy(), rtol=1e-4, atol=1e-5)


def test_a_batch_of_one_row_is_its_own_mean():
    layer = BatchNormalization()
    np.testing.assert_allclose(layer(X[:1], training=True), np.zeros((1, C)), atol=1e-6)
    assert np.isfinite(layer.moving_variance).all()


@pytest.mark.parametrize("affine", [False, True])
def test_layer_normalisation_equals_keras(affine):
    own, peer = pair(
        LayerNormalization(center=affine, scale=affine),
        keras.layers.LayerNormalization(epsilon=1e-5, center=affine, scale=affine),
    )
    for said, expected in zip(layer_gradients(own), layer_gradients(peer), strict=True):
        np.testing.assert_allclose(said, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(C, 2), (C, C), (2, C), (1, C)])
def test_products_and_their_gradients_equal_matmul(shape):
    rows, kernel = X[:, : shape[0]], np.random.default_rng(2).normal(size=shape).astype(np.float32)
    said, gradients = with_gradients(tall_matmul, rows, kernel)
    expected, of_peer = with_gradients(tf.matmul, rows, kernel)
    np.testing.assert_allclose(said, expected, rtol=1e-5)
    for gradient, other in zip(gradients, of_peer, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.9), st.integers(1, 9))
def test_dropout_keeps_the_expectation(rate, width):
    layer = Dropout(rate, seed=5)
    ones = np.ones((20_000, width), np.float32)
    said = layer(ones, training=True).numpy()
    levels = np.unique(said)
    assert set(levels) <= {0.0, np.float32(layer.gain(True))}
    assert 1 / layer.gain(True) == pytest.approx(1 - rate, abs=1 / 131_072)
    tolerance = 5 * np.sqrt(rate / (1 - rate) / said.size) + 1e-6
    assert said.mean() == pytest.approx(1, abs=tolerance)
    np.testing.assert_array_equal(layer(ones), ones)


def test_dropout_draws_the_same_from_the_same_seed():
    x = np.ones((50, 7), np.float32)
    layer, same = Dropout(0.3, seed=5), Dropout(0.3, seed=5)
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(same(x, training=True), first)
    dropped = first == 0
    independent = 0.3**2  # values side by side share a random word, but no bits
    assert (dropped[:, 0] & dropped[:, 1]).mean() == pytest.approx(independent, abs=0.15)


def test_rectified_dropout_and_its_gradient_are_relu_and_dropout():
    layer = Dropout(0.4, seed=5)
    centred = X - 3
    x = tf.constant(centred)
    with tf.GradientTape() as tape:
        tape.watch(x)
        said = layer.rectify(x, training=True)
    kept = Dropout(0.4, seed=5)(np.ones_like(X), training=True).numpy() > 0
    np.testing.assert_array_equal(said, np.where(kept & (centred > 0), centred, 0))
    np.testing.assert_array_equal(
        tape.gradient(said, x, output_gradients=UPSTREAM), np.where(kept & (centred > 0), UPSTREAM, 0)
    )
    np.testing.assert_array_equal(layer.rectify(x), np.maximum(centred, 0))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        Dropout(rate)
