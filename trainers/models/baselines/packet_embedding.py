"""Embeddings of packet sizes and gaps: the input layer of CESNET's 30pktTCNET."""

from typing import Any

import keras
import numpy as np
from keras import ops

LARGEST_SIZE = 1500
"""Bytes; larger packets count as this size."""
SIZE_WIDTH, SIZE_STEP = 20, 100
"""Width of a size's vector, and bytes between the thresholds of its first values."""
MICROSECONDS = 1000.0
"""Microseconds of a millisecond, the unit of the gaps' bins."""


def gap_sections() -> list[np.ndarray]:
    """Returns the upper edges of the bins of gaps, in milliseconds, in ten sections.

    Each section has a value of the first vectors. Bins widen with the gap: 1 ms up to 10 ms, 1 s beyond 15 s; the last
    one is open.
    """
    runs = (
        ((0, 1, 1),), ((1, 11, 1),), ((12, 32, 2), (33, 63, 3)), ((65, 205, 5),), ((210, 510, 10),),
        ((525, 1025, 25),), ((1050, 2050, 50),), ((2100, 5100, 100),), ((5250, 7750, 250), (8000, 15500, 500)),
        ((16000, 32000, 1000),),
    )  # fmt: skip
    return [np.concatenate([np.arange(*run) for run in section]) for section in runs]


def piecewise_linear(values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """Returns how far values [n] are from each low to its high, float32 [n, T] in [0, 1].

    Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022, section 3.2.
    """
    return np.clip((values[:, None] - lows) / (highs - lows), 0, 1).astype(np.float32)


def first_size_vectors() -> np.ndarray:
    """Returns the first vectors of sizes from 0 to 1,500 bytes, float32 [1501, 20]."""
    lows = np.arange(0, LARGEST_SIZE, SIZE_STEP)
    encoded = piecewise_linear(np.arange(LARGEST_SIZE + 1), lows, lows + SIZE_STEP)
    return np.pad(encoded, ((0, 0), (0, SIZE_WIDTH - len(lows))))


def first_gap_vectors() -> np.ndarray:
    """Returns the first vectors of the bins of gaps, float32 [200, 10]: the encoding of their upper edges."""
    sections = gap_sections()
    ends = np.array([section[-1] for section in sections])
    lows = np.concatenate([[-1], ends[:-1]])  # the first section is the gap of 0 alone, which the others are above
    encoded = piecewise_linear(np.concatenate(sections), lows, ends)
    encoded[0] = 0
    return encoded


@keras.saving.register_keras_serializable(package="flowloom")
class PacketEmbedding(keras.layers.Layer):
    """Each packet as the learned vectors of its gap and size, with its direction in two places.

    The vectors of a gap of 0 and of a size of 0 are zero and not trained, as in the original: padding becomes zeros.
    Gaps are cut to whole milliseconds, in which CESNET's flow exporter stores them.

    Input shape:
      float [B, k, 3]: size in bytes, gap in microseconds, direction; other channels have no place.

    Output shape:
      [B, k, 32].

    Reference:
      Luxemburk et al., Universal Embedding Function for Traffic Classification via QUIC Domain Recognition Pretraining,
      IEEE TNSM, 2025 (arXiv:2502.12930); network 30pktTCNET.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # sizes and gaps need all bits of single precision

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the vectors, with piecewise linear encodings as first values."""
        sizes, gaps = first_size_vectors(), first_gap_vectors()
        self.sizes = self.add_weight(shape=sizes.shape, name="sizes", initializer=_values(sizes))
        self.gaps = self.add_weight(shape=gaps.shape, name="gaps", initializer=_values(gaps))

    def call(self, packets: Any) -> Any:
        """Returns the vectors of packets, [B, k, 32]."""
        size, gap, direction = packets[..., 0], packets[..., 1], packets[..., 2:3]
        size = ops.cast(ops.clip(size, 0, LARGEST_SIZE), "int32")
        edges = np.concatenate(gap_sections())[:-1].astype(np.float32)
        whole = ops.floor(gap / MICROSECONDS)[..., None]  # [B, k, 1]
        bins = ops.sum(ops.cast(ops.greater(whole, edges), "int32"), axis=-1)  # [B, k]
        sides = ops.concatenate([ops.greater(direction, 0), ops.less(direction, 0)], axis=-1)
        vectors = [_vectors(self.gaps, bins), ops.cast(sides, "float32"), _vectors(self.sizes, size)]
        return ops.cast(ops.concatenate(vectors, axis=-1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns [B, k, 32]."""
        return (*input_shape[:-1], first_gap_vectors().shape[1] + 2 + SIZE_WIDTH)


def _vectors(table: Any, rows: Any) -> Any:
    """Returns rows of a table; row 0 is zeros whatever the table holds."""
    return ops.take(table, rows, axis=0) * ops.cast(ops.greater(rows, 0), "float32")[..., None]


def _values(values: np.ndarray) -> Any:
    """Returns an initialiser with given values."""
    return lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype)
