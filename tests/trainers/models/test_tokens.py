"""Rows are cut into tokens, and a model scales bytes itself."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.trainers.models.tokens import as_tokens, row_input, token_shape, with_bits, with_waves


@pytest.mark.parametrize(
    ("length", "shape"), [(1500, (30, 50)), (784, (28, 28)), (49, (7, 7)), (1, (1, 1)), (3, (2, 2))]
)
def test_rows_of_the_papers(length, shape):
    assert token_shape(length) == shape


@given(st.integers(1, 3000))
def test_tokens_hold_the_row_and_are_nearly_square(length):
    n, d = token_shape(length)
    assert length <= n * d
    assert n <= d <= 2 * n
    for product in range(length, n * d + 1):  # every other shape that would do is larger, or further from the square
        for other in range(1, n * d + 1):
            if product % other == 0 and other <= product // other <= 2 * other:
                assert (product, -other) >= (n * d, -n)


def test_bytes_become_shares_and_zeros_follow_them():
    inputs, x = row_input("bytes", 7)
    model = keras.Model(inputs, [x, as_tokens(x)])
    row = np.array([[0, 1, 2, 3, 51, 254, 255]], np.uint8)
    scaled, tokens = model({"bytes": row})
    np.testing.assert_allclose(scaled, row / 255, rtol=1e-6)
    np.testing.assert_array_equal(np.ravel(tokens), [*np.ravel(scaled), 0])
    assert tokens.shape == (1, 2, 4)


def test_features_are_unchanged():
    inputs, x = row_input("features", 4)
    row = np.array([[0.5, -1, 3, 300]], np.float32)
    np.testing.assert_array_equal(keras.Model(inputs, as_tokens(x))({"features": row}), row.reshape(1, 2, 2))


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match="length must be >= 1, got 0"):
        token_shape(0)
    with pytest.raises(ValueError, match="source must be bytes or features, got 'packets'"):
        row_input("packets", 3)


def test_bits_of_every_byte_stand_behind_its_value():
    values = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255
    row = np.asarray(with_bits(values)).reshape(256, 9)
    np.testing.assert_array_equal(row[:, 0], values.ravel())
    np.testing.assert_array_equal(row[:, 1:] @ 2 ** np.arange(8), np.arange(256))


def test_waves_of_every_feature_stand_behind_its_value():
    values = np.random.default_rng(1).random((3, 2, 4), np.float32)
    row = np.asarray(with_waves(values)).reshape(3, 2, 4, 17)
    np.testing.assert_array_equal(row[..., 0], values)
    for octave in range(8):
        angle = np.pi * 2**octave * values.astype(np.float64)
        np.testing.assert_allclose(row[..., 1 + octave], np.sin(angle), atol=1e-4)
        np.testing.assert_allclose(row[..., 9 + octave], np.cos(angle), atol=1e-4)


def test_features_a_thousandth_apart_are_far_apart_by_their_waves():
    near = np.linspace(0.3, 0.7, 401, dtype=np.float32)
    waves = np.asarray(with_waves(near.reshape(1, -1, 1)))[0, :, 1:]
    assert np.linalg.norm(np.diff(waves, axis=0), axis=1).min() > 0.4
