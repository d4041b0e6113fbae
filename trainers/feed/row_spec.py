"""What a model sees of a row, whatever its view: which columns are decoded, and which arrays are made of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError

TENSOR_ALIGNMENT = 64
"""Bytes; TensorFlow takes over NumPy's memory that begins at a multiple of it, and copies all other."""


class Input(NamedTuple):
    """One of the arrays that a model is given."""

    shape: tuple[int, ...]
    """Of one row."""
    dtype: type[np.generic]


class RowSpec(Protocol):
    """What a model sees of a row of one view."""

    @property
    def view(self) -> View:
        """The view whose rows these are."""

    @property
    def seen(self) -> str:
        """What of a row a model sees, in words: its first 20 packets."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values along the last axis of the first input; () if they have none."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that must be decoded."""

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The arrays that a model is given, by name."""

    def prepared(self, rows: pa.RecordBatch, furthest_start: int = 0) -> pa.RecordBatch:
        """Return decoded rows as they are kept over the epochs, with all that need not be computed in each of them.

        Of flows what is seen may begin at a packet up to `furthest_start`.
        """

    def renderer(self, rows: pa.RecordBatch) -> Callable[..., tuple[np.ndarray, ...]]:
        """Return a function from int64 [N], positions in `prepared` rows, to the `inputs` of these rows, [N, ...] each.

        That of flows can be told as well at which packet each begins, int64 [N].
        The function is called by several threads at once, and owns none of the arrays that it returned.
        """


def require_view(card: DatasetCard, view: View) -> None:
    """Raise unless a dataset has rows of a view.

    Raises:
      FlowloomError: what it has, and how to get the view.
    """
    if view not in card.views:
        raise FlowloomError(
            f"dataset {card.name!r} has no {view} view, only {', '.join(card.views)}; use a model that sees these, or "
            f"build the dataset with views: [{', '.join([view, *card.views])}]"
        )


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of any contents that TensorFlow can take over without a copy."""
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(wanted + TENSOR_ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % TENSOR_ALIGNMENT
    return memory[start : start + wanted].view(dtype).reshape(shape)
