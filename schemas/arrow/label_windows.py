"""Label windows: a source's label of one task for a five-tuple, or part of one, during a period."""

from collections.abc import Sequence

import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS

WINDOW_KEY = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol")
"""Columns that select the flows of a window; a column that a source lacks matches any value."""

UNKNOWN_LABEL = -1
"""Code of a window whose label is not in the task's vocabulary: the source has the flow, but not its label."""


def label_windows(key: Sequence[str]) -> pa.Schema:
    """Returns the schema of label windows with some columns of `WINDOW_KEY`; source and destination are exchangeable.

    `code` is a position in the task's vocabulary or `UNKNOWN_LABEL`; `confidence` is the source's own, null if it has
    none. `mask` has a bit for each column of `WINDOW_KEY` that counts in a window, null where all columns count.
    """
    return pa.schema(
        [
            *(FLOWS.field(name) for name in WINDOW_KEY if name in key),
            pa.field("first_ns", pa.int64(), nullable=False),
            pa.field("last_ns", pa.int64(), nullable=False),
            pa.field("code", pa.int32(), nullable=False),
            pa.field("confidence", pa.uint8()),
            pa.field("mask", pa.uint8()),
        ]
    )


INSPECTED = pa.schema(
    [
        pa.field("src_ip", pa.string(), nullable=False),
        pa.field("dst_ip", pa.string(), nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),
        pa.field("dst_port", pa.uint16(), nullable=False),
        pa.field("protocol", pa.uint8(), nullable=False),
        pa.field("first_ms", pa.int64(), nullable=False),
        pa.field("last_ms", pa.int64(), nullable=False),
        pa.field("application_name", pa.string(), nullable=False),
        pa.field("application_category_name", pa.string(), nullable=False),
        pa.field("guessed", pa.bool_(), nullable=False),
        pa.field("confidence", pa.uint8(), nullable=False),
    ]
)
"""One flow in the output of NFStream and nDPI; times are cut to milliseconds."""
