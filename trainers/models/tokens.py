"""Input of networks of rows: bytes or features scaled, expanded and cut into tokens."""

import itertools
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

Source = Literal["bytes", "features"]
OCTAVES = 8
"""Number of frequencies of a feature's waves, each twice the one before."""


def token_shape(length: int) -> tuple[int, int]:
    """Returns n and d: a row becomes n tokens of d values, n d >= length, padded with zeros.

    The product n d is the least with n <= d <= 2 n, and n is the largest for it. So 1,500 bytes are 30 tokens of 50
    values, and 49 features are 7 tokens of 7, as in MTC (sections 3.3.2 and 4.4.2); 784 bytes are 28 tokens of 28.

    Raises:
      ValueError: if `length` is below 1.

    Example:

    >>> token_shape(1_500)
    (30, 50)
    """
    if length < 1:
        raise ValueError(f"length must be >= 1, got {length}")
    for product in itertools.count(length):
        shapes = [(n, product // n) for n in range(1, int(product**0.5) + 1) if product % n == 0]
        n, d = shapes[-1]
        if d <= 2 * n:
            return n, d
    raise AssertionError("an endless count has ended")


def attention_heads(source: Source, length: int) -> int:
    """Returns H of MTC: 6 for bytes, d for features (sections 3.3.2 and 4.4.2)."""
    return 6 if source == "bytes" else token_shape(length)[1]


def row_input(source: Source, length: int) -> tuple[dict[str, Any], Any]:
    """Returns a model's input {source: [B, length]} and its scaled values, float32 [B, length].

    Bytes are uint8 and are scaled to [0, 1] here, so that a feed moves a quarter of the memory. Features are float32
    that the feed has scaled.

    Raises:
      ValueError: if the source is neither `bytes` nor `features`.
    """
    if source not in ("bytes", "features"):
        raise ValueError(f"source must be bytes or features, got {source!r}")
    given = keras.Input((length,), dtype="uint8" if source == "bytes" else "float32", name=source)
    return {source: given}, ops.cast(given, "float32") / 255.0 if source == "bytes" else given


def as_tokens(row: Any) -> Any:
    """Cuts [B, length] into tokens [B, n, d], padded with zeros."""
    n, d = token_shape(row.shape[1])
    if missing := n * d - row.shape[1]:
        row = ops.pad(row, ((0, 0), (0, missing)))
    return ops.reshape(row, (-1, n, d))


def with_expansion(tokens: Any, source: Source) -> Any:
    """Appends to each value the bits of a byte or the waves of a feature.

    They separate values that are close as numbers.
    """
    return with_bits(tokens) if source == "bytes" else with_waves(tokens)


def with_bits(tokens: Any) -> Any:
    """Appends to each byte / 255 its eight bits, lowest first: [B, n, d] -> [B, n, 9 d]."""
    values = ops.expand_dims(tokens, -1)
    # plus 0.5 instead of a rounding, because LiteRT drops the rounding
    bits = ops.mod(ops.floor((values * 255.0 + 0.5) / 2.0 ** np.arange(8, dtype=np.float32)), 2.0)
    return _behind(values, bits)


def with_waves(tokens: Any) -> Any:
    """Appends to each feature its waves: [B, n, d] -> [B, n, 17 d].

    The waves are sin(2^i pi x) and cos(2^i pi x) for i from 0 to 7. They are for a number between 0 and 1 what bits are
    for a byte. Trees split a feature anywhere; a network without waves needs large weights to separate close values
    (Fourier features: Tancik et al., 2020; for tables: Gorishniy et al., 2022).
    """
    values = ops.expand_dims(tokens, -1)
    angles = values * (np.pi * 2.0 ** np.arange(OCTAVES, dtype=np.float32))
    return _behind(values, ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1))


def _behind(values: Any, more: Any) -> Any:
    """Joins [B, n, d, 1] and [B, n, d, m] to [B, n, d (1 + m)]."""
    n, d = values.shape[1:3]
    return ops.reshape(ops.concatenate([values, more], axis=-1), (-1, n, d * (1 + more.shape[-1])))
