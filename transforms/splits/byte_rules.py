"""Byte rules: single bytes of packet rows that determine a label, which a model then learns instead of traffic.

The rule of a byte predicts, for each value of the byte, the commonest label of the train rows with that value. If the
rule is nearly always right, the byte is most likely an artefact of the captures (a link type, an address, a time).
"""

from collections.abc import Sequence

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import ByteRule
from flowloom.transforms.arrays.columns import view_or

HEADER_BYTES = 128
"""Number of bytes that are counted: headers of files, records, frames and packets are shorter."""

LEAK_SHARE = 0.95
"""Minimum share of rows for which the rule of a leaking byte is right."""


def count_bytes(rows: pa.RecordBatch, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Counts labelled rows of the packets view by task: uint32 [byte positions, 256 values, classes]."""
    column, width = rows["bytes"], rows["bytes"].type.byte_width
    # a buffer may be longer than its rows: gathered and mapped columns are padded to whole words
    content = np.frombuffer(column.buffers()[1], np.uint8, rows.num_rows * width, column.offset * width)
    content = content.reshape(rows.num_rows, width)
    counts = {}
    for task in tasks:
        if label_column(task.name) in rows.schema.names:
            counts[task.name] = np.zeros((min(width, HEADER_BYTES), 256, len(task.vocabulary)), np.uint32)
            _count(content, view_or(rows[label_column(task.name)], -1).astype(np.int32), counts[task.name])
    return counts


def byte_rule(task: str, counts: np.ndarray) -> ByteRule | None:
    """Returns the best rule of one byte and the positions of leaking bytes; None without rows.

    A byte leaks only if its rule also makes at most half of the errors of always predicting the commonest label.
    Otherwise every byte would leak a label that most rows have.
    """
    rows = int(counts[0].sum()) if len(counts) else 0
    if not rows:
        return None
    right = counts.max(axis=2).sum(axis=1, dtype=np.int64) / rows
    commonest = float(counts[0].sum(axis=0).max() / rows)
    leaking = np.flatnonzero((right >= LEAK_SHARE) & (1 - right <= (1 - commonest) / 2) & (right > commonest))
    best = int(right.argmax())
    return ByteRule(
        task=task,
        rows=rows,
        position=best,
        right=float(right[best]),
        commonest=commonest,
        leaking=tuple(leaking.tolist()),
    )


@numba.njit(nogil=True, cache=True)
def _count(content, codes, counts):
    """Adds each row with a label to the count of its value at each position."""
    for row in range(len(codes)):
        if codes[row] >= 0:
            for at in range(counts.shape[0]):
                counts[at, content[row, at], codes[row]] += 1
