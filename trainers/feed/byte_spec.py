"""Row spec of bytes of packets and sessions: uint8, as stored."""

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
    """The first bytes of a row of the packets view.

    The model casts and scales them itself, so that the feed copies a fourth of the memory. Source: MTC, section 3.2:
    1,500 bytes of a packet, divided by 255.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "packets"

    length: int = pydantic.Field(ge=1)
    """Bytes of a row."""

    @classmethod
    def of(cls, card: DatasetCard, length: int | None = None) -> Self:
        """Returns the spec for a dataset's packets; without `length` it has all bytes of a row.

        Raises:
          FlowloomError: if the dataset has no packets, or fewer bytes per packet.
        """
        require_view(card, cls.view)
        stored = card.packet_bytes or 0
        if length is not None and not 1 <= length <= stored:
            raise FlowloomError(
                f"length must be from 1 to {stored}, the bytes per packet of dataset {card.name!r}, got {length}"
            )
        return cls(length=length or stored)

    @property
    def seen(self) -> str:
        """The input in words, for reports."""
        return f"its first {self.length:,} bytes"

    @property
    def names(self) -> tuple[str, ...]:
        """Empty, because bytes have no names."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to decode."""
        return ("bytes",)

    @property
    def inputs(self) -> dict[str, Input]:
        """The model input of one packet: `bytes`."""
        return {"bytes": Input((self.length,), np.uint8)}

    def prepared(self, rows: pa.RecordBatch, further: int = 0) -> pa.RecordBatch:
        """Returns the rows unchanged, because the bytes are used as stored."""
        return rows

    def renderer(self, rows: pa.RecordBatch) -> Callable[[npt.NDArray[np.int64]], tuple[np.ndarray, ...]]:
        """Returns a function from positions in `rows`, int64 [N], to their bytes, uint8 [N, length]."""
        column = rows["bytes"]
        width = column.type.byte_width
        stored = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
        first = stored.reshape(-1, width)[:, : self.length]

        def gathered(positions: npt.NDArray[np.int64]) -> tuple[np.ndarray]:
            # mode="clip": other modes buffer `out`, in case a position is out of range
            return (
                np.take(
                    first, positions, axis=0, out=aligned_empty((len(positions), self.length), np.uint8), mode="clip"
                ),
            )

        return gathered
