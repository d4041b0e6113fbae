"""Rejected rows of published files, each with its place, a reason and a sentence."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.transforms.arrays.columns import column, concatenated, repeated_text


class Rejects:
    """Collects the rows and files that a reader of published files cannot read, so that all are counted."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []

    def add(self, uri: str, offsets: Sequence[int] | npt.NDArray[np.int64], reason: RejectReason, detail: str) -> None:
        """Adds rows of one file by their positions, from 0; a whole file has position 0."""
        rows = len(offsets)
        if rows:
            texts = [repeated_text(text, rows) for text in (uri, str(reason), detail)]
            offset = column(np.asarray(offsets, np.int64), REJECTS.field("offset").type)
            self._batches.append(pa.RecordBatch.from_arrays([texts[0], offset, *texts[1:]], schema=REJECTS))

    def rows(self) -> pa.RecordBatch:
        """Returns all rejects as `schemas.arrow.accounting.REJECTS`, in the order of adding."""
        return concatenated(self._batches, REJECTS)

    def counts(self) -> dict[str, int]:
        """Returns the number of rejects by reason."""
        counts: dict[str, int] = {}
        for batch in self._batches:
            reason = batch["reason"][0].as_py()
            counts[reason] = counts.get(reason, 0) + batch.num_rows
        return counts
