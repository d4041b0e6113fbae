"""Bytes of packets and features of tables as models of long rows take them: scaled, and divisible into tokens."""

import itertools
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

Source = Literal["bytes", "features"]
OCTAVES = 8
"""Frequencies of the waves of a feature, each twice the one before."""


def token_shape(length: int) -> tuple[int, int]:
    """Return n and d: a row is cut into n tokens of d values, n d >= length, and zeros are appended for the rest.

    The product is the least for which n <= d <= 2 n, and n the largest there. So 1,500 bytes are 30 tokens of 50, and
    49 features 7 of 7, as in MTC (sections 3.3.2 and 4.4.2); 784 bytes are 28 of 28.
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
    """Return H of MTC: 6 on bytes, and on features one for each value of a token (sections 3.3.2 and 4.4.2)."""
    return 6 if source == "bytes" else token_shape(length)[1]


def row_input(source: Source, length: int) -> tuple[dict[str, Any], Any]:
    """Return a model's input {source: [B, length]} and what is made of it, float32 [B, length].

    Bytes are uint8, and become numbers from 0 to 1 here, so that a feed moves a quarter of the memory. Features are
    float32 and scaled before.
    """
    if source not in ("bytes", "features"):
        raise ValueError(f"source must be bytes or features, got {source!r}")
    given = keras.Input((length,), dtype="uint8" if source == "bytes" else "float32", name=source)
    return {source: given}, ops.cast(given, "float32") / 255.0 if source == "bytes" else given


def as_tokens(row: Any) -> Any:
    """Cut [B, length] into [B, n, d], with zeros behind the last value where tokens need more."""
    n, d = token_shape(row.shape[1])
    if missing := n * d - row.shape[1]:
        row = ops.pad(row, ((0, 0), (0, missing)))
    return ops.reshape(row, (-1, n, d))


def with_expansion(tokens: Any, source: Source) -> Any:
    """Put what a network cannot easily tell of a number behind it: the bits of a byte, or the waves of a feature."""
    return with_bits(tokens) if source == "bytes" else with_waves(tokens)


def with_bits(tokens: Any) -> Any:
    """Put the eight bits of each byte, the lowest first, behind its value: [B, n, d], bytes / 255, to [B, n, 9 d]."""
    values = ops.expand_dims(tokens, -1)
    # a half above, where rounding does not matter: LiteRT loses a rounding before this
    bits = ops.mod(ops.floor((values * 255.0 + 0.5) / 2.0 ** np.arange(8, dtype=np.float32)), 2.0)
    return _behind(values, bits)


def with_waves(tokens: Any) -> Any:
    """Put waves of each feature behind its value: [B, n, d] to [B, n, 17 d].

    These are sin(2^i pi x) and cos(2^i pi x) for i from 0 to 7, which are for a number between 0 and 1 what bits are
    for a byte. Trees split a feature anywhere; without waves a network tells near values apart only by large weights
    (Fourier features: Tancik et al., 2020; of tables: Gorishniy et al., 2022).
    """
    values = ops.expand_dims(tokens, -1)
    angles = values * (np.pi * 2.0 ** np.arange(OCTAVES, dtype=np.float32))
    return _behind(values, ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1))


def _behind(values: Any, more: Any) -> Any:
    """Join [B, n, d, 1] and [B, n, d, m] to [B, n, d (1 + m)]."""
    n, d = values.shape[1:3]
    return ops.reshape(ops.concatenate([values, more], axis=-1), (-1, n, d * (1 + more.shape[-1])))
