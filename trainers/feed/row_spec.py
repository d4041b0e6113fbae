"""Row specs: the columns that a model needs of a row, and the input arrays made from them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError

TENSOR_ALIGNMENT = 64
"""Bytes; TensorFlow uses NumPy memory without a copy if it begins at a multiple of this."""


class Input(NamedTuple):
    """Shape and type of an input array of a model."""

    shape: tuple[int, ...]
    """Shape for one row."""
    dtype: type[np.generic]


class RowSpec(Protocol):
    """Input arrays of a model, made from the rows of one view."""

    @property
    def view(self) -> View:
        """The view of the rows."""

    @property
    def seen(self) -> str:
        """The input in words, for reports: its first 20 packets."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values along the last axis of the first input; empty if they have none."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to decode."""

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The input arrays of a model, by name."""

    def prepared(self, rows: pa.RecordBatch, further: int = 0) -> pa.RecordBatch:
        """Returns decoded rows with the work done that is the same in every epoch.

        Args:
          rows: a batch with at least `columns`.
          further: packets of each flow to keep beyond those that a row shows.
        """

    def renderer(self, rows: pa.RecordBatch) -> Callable[..., tuple[np.ndarray, ...]]:
        """Returns a function from positions in `prepared` rows, int64 [N], to their `inputs`, [N, ...] each.

        For flows it accepts `Draws` as two more arguments, and an `Augmentation` by name. Several threads call the
        function at once; it keeps no reference to the arrays that it returns.
        """


def require_view(card: DatasetCard, view: View) -> None:
    """Raises unless a dataset has rows of a view.

    Raises:
      FlowloomError: naming the dataset's views, and the way to get the missing one.
    """
    if view not in card.views:
        raise FlowloomError(
            f"dataset {card.name!r} has no {view} view, only {', '.join(card.views)}; use a model of these views, or "
            f"build the dataset with views: [{', '.join([view, *card.views])}]"
        )


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an uninitialised array that TensorFlow can use without a copy."""
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(wanted + TENSOR_ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % TENSOR_ALIGNMENT
    return memory[start : start + wanted].view(dtype).reshape(shape)
