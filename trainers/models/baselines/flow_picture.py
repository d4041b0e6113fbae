"""FlowPic: a flow as a picture, in which each pixel counts the packets of a size and a time."""

from typing import Any

import keras
import numpy as np
from keras import ops

LARGEST_SIZE = 1500
"""Bytes at the upper edge of the picture; larger packets count as this size."""
MOST = 255
"""Largest value of a pixel."""
MICROSECONDS = 1e6


@keras.saving.register_keras_serializable(package="flowloom")
class FlowPicture(keras.layers.Layer):
    """Counts the packets of each cell of a grid of sizes (rows) and times since the first packet (columns).

    A packet of s bytes at t microseconds is in row s * pixels / 1,500 and column t * pixels / window, both rounded
    down; s = 1,500 is in the last row. Packets outside of the window are left out. Sums of times are of whole
    microseconds, so that all platforms give the same picture.

    Args:
      pixels: rows and columns, P.
      window_s: seconds that the columns cover.

    Input shape:
      float [B, k, 3] with sizes in bytes, gaps in microseconds and directions, and int [B], the number of packets.

    Output shape:
      float [B, P, P, 1], numbers of packets, at most 255.

    Raises:
      ValueError: if `pixels` is below 1, `window_s` does not lie between a millisecond and 60 s, or k windows take
        2,147 s or more.

    Reference:
      Shapira and Shavitt, FlowPic: A Generic Representation for Encrypted Traffic Classification and Applications
      Identification, IEEE TNSM, 2021, section III; mini-FlowPic: Horowicz et al., A Few Shots Traffic Classification
      with mini-FlowPic Augmentations, IMC 2022, section 2.1.
    """

    def __init__(self, pixels: int, window_s: float, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # sizes and gaps need all bits of single precision
        if pixels < 1:
            raise ValueError(f"pixels must be >= 1, got {pixels}")
        if not 1e-3 <= window_s <= 60:
            raise ValueError(f"window_s must be from 0.001 to 60 s, got {window_s}")
        self.pixels, self.window_s = pixels, window_s

    def build(self, input_shape: tuple[int | None, ...], *others: Any) -> None:
        """Checks that sums of gaps, each at most the window, are integers of 32 bits."""
        k = input_shape[1]
        assert k is not None
        if k * round(self.window_s * MICROSECONDS) >= 1 << 31:
            raise ValueError(f"k times window_s must be below 2,147 s, got k={k} and window_s={self.window_s:g}")

    def call(self, packets: Any, length: Any) -> Any:
        """Draws the first `length` [B] packets of each flow [B, k, 3]."""
        window = round(self.window_s * MICROSECONDS)
        size = ops.cast(ops.clip(packets[..., 0], 0, LARGEST_SIZE), "int32")  # [B, k]
        time = ops.cumsum(ops.cast(ops.clip(packets[..., 1], 0, window), "int32"), axis=1)  # [B, k]
        there = ops.less(ops.arange(packets.shape[1]), length[:, None]) & ops.less(time, window)
        row = ops.minimum(size * self.pixels // LARGEST_SIZE, self.pixels - 1)
        return self._counts(row, self._column(time, window), there)

    def _column(self, time: Any, window: int) -> Any:
        """Returns the columns of times [B, k] by comparison with all edges, as products would overflow."""
        edges = -(-np.arange(1, self.pixels, dtype=np.int64) * window // self.pixels)  # first microsecond of a column
        return ops.sum(ops.cast(ops.greater_equal(time[..., None], edges.astype(np.int32)), "int32"), axis=-1)

    def _counts(self, row: Any, column: Any, there: Any) -> Any:
        """Counts the packets of each row and column [B, k], of those that are there."""
        cells = np.arange(self.pixels)
        rows = ops.cast(ops.equal(row[..., None], cells) & there[..., None], "float32")  # [B, k, P]
        columns = ops.cast(ops.equal(column[..., None], cells), "float32")
        counts = ops.matmul(ops.transpose(rows, (0, 2, 1)), columns)  # [B, P, P]
        return ops.cast(ops.minimum(counts, MOST)[..., None], self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...], *others: Any) -> tuple[int | None, ...]:
        """Returns [B, P, P, 1]."""
        return (input_shape[0], self.pixels, self.pixels, 1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "pixels": self.pixels, "window_s": self.window_s}
