"""Bytes of packets and features of tables as models of long rows take them: scaled, and divisible into tokens."""

import itertools
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

Source = Literal["bytes", "features"]


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


def with_bits(tokens: Any) -> Any:
    """Put the eight bits of each byte, the lowest first, behind its value: [B, n, d], bytes / 255, to [B, n, 9 d]."""
    n, d = tokens.shape[1:]
    values = ops.expand_dims(tokens, -1)
    # a half above, where rounding does not matter: LiteRT loses a rounding before this
    bits = ops.mod(ops.floor((values * 255.0 + 0.5) / 2.0 ** np.arange(8, dtype=np.float32)), 2.0)
    return ops.reshape(ops.concatenate([values, bits], axis=-1), (-1, n, 9 * d))
