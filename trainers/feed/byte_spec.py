"""The bytes of packets and sessions as a model sees them: as they are stored, uint8."""

from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.row_spec import Input, aligned_empty, require_view


class ByteSpec(pydantic.BaseModel):
    """The first bytes of a row of the packets view; a model casts and scales them itself, at a fourth of the copying.

    Source: MTC, section 3.2: 1,500 bytes of a packet, divided by 255.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "packets"

    length: int = pydantic.Field(ge=1)
    """Bytes of a row."""

    @classmethod
    def of(cls, card: DatasetCard, length: int | None = None) -> Self:
        """Return the representation of a dataset's packets, of all bytes of a row unless told fewer.

        Raises:
          FlowloomError: if the dataset has no packets, or fewer bytes of each.
        """
        require_view(card, cls.view)
        stored = card.packet_bytes or 0
        if length is not None and not 1 <= length <= stored:
            raise FlowloomError(
                f"length must be from 1 to {stored}, the bytes that dataset {card.name!r} has of a packet, got {length}"
            )
        return cls(length=length or stored)

    @property
    def seen(self) -> str:
        """What of a row a model sees, in words."""
        return f"its first {self.length:,} bytes"

    @property
    def names(self) -> tuple[str, ...]:
        """None: bytes have no names."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that must be decoded."""
        return ("bytes",)

    @property
    def inputs(self) -> dict[str, Input]:
        """What a model is given of a packet."""
        return {"bytes": Input((self.length,), np.uint8)}

    def prepared(self, rows: pa.RecordBatch, furthest_start: int = 0) -> pa.RecordBatch:
        """Return rows as they are: the bytes are seen as they are stored."""
        return rows

    def renderer(self, rows: pa.RecordBatch) -> Callable[[npt.NDArray[np.int64]], tuple[np.ndarray, ...]]:
        """Return a function from int64 [N], positions in `rows`, to their bytes, uint8 [N, length]."""
        column = rows["bytes"]
        width = column.type.byte_width
        stored = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
        first = stored.reshape(-1, width)[:, : self.length]

        def gathered(positions: npt.NDArray[np.int64]) -> tuple[np.ndarray]:
            # mode: others would gather into a copy of `out` first, in case that a position is none
            return (
                np.take(
                    first, positions, axis=0, out=aligned_empty((len(positions), self.length), np.uint8), mode="clip"
                ),
            )

        return gathered
