"""Residual layers and poolings over packets against NumPy, flow by flow."""

import numpy as np
import pytest

from flowloom.trainers.layers.packets.masked_pooling import AttentionPooling, masked_max, masked_mean
from flowloom.trainers.layers.packets.residual_attention import ResidualAttention
from flowloom.trainers.layers.packets.residual_convolution import ResidualConvolution

K, WIDTH = 5, 6
LENGTHS = (1, 3, 5)


def packets():
    generator = np.random.default_rng(1)
    there = (np.arange(K)[None] < np.array(LENGTHS)[:, None]).astype(np.float32)[..., None]
    return generator.normal(size=(3, K, WIDTH)).astype(np.float32), there


def learned(layer, *inputs):
    """Gives a layer random weights."""
    layer(*inputs)
    generator = np.random.default_rng(2)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    return {variable.path.split("/", 1)[1]: np.asarray(variable) for variable in layer.trainable_variables}


def normalised(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}/gamma"]
        + weights[f"{name}/beta"]
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_reads_zeros_outside_of_the_flow(kernel):
    x, there = packets()
    layer = ResidualConvolution(kernel)
    weights = learned(layer, x, there)
    taps = np.reshape(weights["kernel"], (kernel, WIDTH, WIDTH))
    found = np.asarray(layer(x, there))
    for flow, (row, length) in enumerate(zip(x, LENGTHS, strict=True)):
        for place in range(length):
            total = weights["bias"].copy()
            for tap in range(kernel):
                if 0 <= (near := place + tap - kernel // 2) < length:
                    total += row[near] @ taps[tap]
            expected = normalised(row[place] + np.maximum(total, 0), weights, "norm")
            np.testing.assert_allclose(found[flow, place], expected, atol=1e-4)
    assert layer.macs(K) == K * kernel * WIDTH * WIDTH


def test_attention_reads_the_packets_of_the_flow_alone():
    x, there = packets()
    layer = ResidualAttention(heads=2)
    weights = learned(layer, x, there)
    found = np.asarray(layer(x, there))
    for flow, (row, length) in enumerate(zip(x, LENGTHS, strict=True)):
        q, k, v = np.split(row[:length] @ weights["queries"], 3, axis=1)
        heads = []
        for part in np.split(np.arange(WIDTH), 2):
            scores = q[:, part] @ k[:, part].T / np.sqrt(WIDTH / 2)
            shares = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(shares / shares.sum(1, keepdims=True) @ v[:, part])
        y = normalised(row[:length] + np.hstack(heads) @ weights["mix"], weights, "norm_0")
        fed = np.maximum(y @ weights["kernel"] + weights["bias"], 0)
        np.testing.assert_allclose(found[flow, :length], normalised(y + fed, weights, "norm_1"), atol=1e-4)


def test_poolings_skip_padding():
    x, there = packets()
    attention = AttentionPooling()
    scores = learned(attention, x, there)["kernel"][:, 0]
    for flow, (row, length) in enumerate(zip(x, LENGTHS, strict=True)):
        shares = np.exp(row[:length] @ scores)
        pooled = shares @ row[:length] / shares.sum()
        np.testing.assert_allclose(masked_mean(x, there)[flow], row[:length].mean(0), atol=1e-6)
        np.testing.assert_array_equal(masked_max(x, there)[flow], row[:length].max(0))
        np.testing.assert_allclose(attention(x, there)[flow], pooled, atol=1e-5)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="kernel must be odd and >= 1, got 2"):
        ResidualConvolution(2)
    with pytest.raises(ValueError, match="heads must divide the width 6, got 4"):
        ResidualAttention(4)(*packets())
