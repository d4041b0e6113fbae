"""Bottlenecks and the fusion of branches against loops over rows and steps."""

import numpy as np
import pytest

from flowloom.trainers.layers.bottleneck import Bottleneck, Convolution
from flowloom.trainers.layers.fusion import FuseDown, FuseUp

B, STEPS, N = 2, 12, 4


def features(channels, seed=0, steps=STEPS):
    return np.random.default_rng(seed).normal(size=(B, steps, channels)).astype(np.float32)


def scrambled(layer):
    """Sets every weight to a random value, variances to positive ones."""
    generator = np.random.default_rng(2)
    layer.set_weights([np.abs(generator.normal(1, 0.3, weight.shape)) for weight in layer.get_weights()])
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape, scale=0.4))
    return layer


def batch_normalised(norm, x, batch):
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    if batch:
        mean, variance = x.mean((0, 1)), x.var((0, 1))
    return (x - mean) / np.sqrt(variance + 1e-5) * norm.gamma.numpy() + norm.beta.numpy()


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def convolved(layer, x, batch=False):
    """Convolves one row, one step and one kernel step at a time, with zeros around the steps."""
    weight = layer.weight.numpy()
    y = np.zeros((*x.shape[:2], layer.filters))
    for row in range(len(x)):
        for step in range(x.shape[1]):
            for place, kernel in enumerate(weight):
                seen = step + place - len(weight) // 2
                if 0 <= seen < x.shape[1]:
                    y[row, step] += x[row, seen] @ kernel
    y = batch_normalised(layer.norm, y, batch)
    return y if layer.drop is None else np.maximum(y, 0)


def by_hand(layer, x, received=None, batch=False):
    y = convolved(layer.first, x, batch)
    if received is not None:
        y = y + np.repeat(received, x.shape[1] // received.shape[1], axis=1)
    between = convolved(layer.second, y, batch)
    residual = x if layer.widen is None else convolved(layer.widen, x, batch)
    return residual + convolved(layer.third, between, batch), between


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("fused", [False, True])
def test_a_bottleneck_equals_the_paper(channels, fused, batch):
    layer = Bottleneck(4, 5, 0.0)
    x, received = features(channels), features(4, 1, N) if fused else None
    layer(x, received)
    scrambled(layer)
    assert (layer.widen is None) == (channels == 5)
    for said, expected in zip(layer(x, received, training=batch), by_hand(layer, x, received, batch), strict=True):
        np.testing.assert_allclose(said, expected, atol=1e-5)


def test_features_are_added_to_tokens():
    layer, tokens, x = FuseDown(), features(6, 1, N), features(3)
    layer(tokens, x)
    scrambled(layer)
    convolved_first = x @ layer.kernel.numpy() + layer.bias.numpy()  # as the paper has it: convolve, then pool
    pooled = convolved_first.reshape(B, N, STEPS // N, 6).mean(axis=2)
    norm = layer.merge_norm
    expected = standardised(tokens + standardised(pooled)) * norm.gamma.numpy() + norm.beta.numpy()
    np.testing.assert_allclose(layer(tokens, x), expected, atol=1e-5)


@pytest.mark.parametrize("batch", [False, True])
def test_tokens_are_projected_to_features(batch):
    layer, tokens = FuseUp(3), features(6, 1, N)
    layer(tokens)
    scrambled(layer)
    upsampled = np.repeat(tokens @ layer.kernel.numpy() + layer.bias.numpy(), STEPS // N, axis=1)
    expected = batch_normalised(layer.norm, upsampled, batch)  # as the paper has it: upsample, then normalise
    said = layer(tokens, training=batch).numpy()
    np.testing.assert_allclose(np.repeat(said, STEPS // N, axis=1), expected, atol=1e-5)


def test_dropout_acts_in_training_only():
    layer, x = Bottleneck(4, 5, 0.5), features(3)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
    assert np.abs(layer(x, training=True)[0] - layer(x, training=True)[0]).max() > 1e-3


@pytest.mark.parametrize("bad", ["filters", "kernel"])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(ValueError, match=f"{bad} must be >= 1, got 0"):
        Convolution(**{"filters": 2, "kernel": 1, "dropout": None, bad: 0})
