"""What a label window is: a five-tuple or a part of one, and a time in which a source says one word of one task."""

from collections.abc import Sequence

import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS

WINDOW_KEY = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol")
"""The columns that may say which flows a window means; a column that a source does not have means any value."""

UNKNOWN_WORD = -1
"""The code of a window whose word is none of its task: the source knows the flow, and not its label."""


def label_windows(key: Sequence[str]) -> pa.Schema:
    """Return the schema of label windows that are told apart by some of `WINDOW_KEY`; ends may be in either order.

    `code` is a position in the task's vocabulary or `UNKNOWN_WORD`, `confidence` what the source says of its own word.
    """
    return pa.schema(
        [
            *(FLOWS.field(name) for name in WINDOW_KEY if name in key),
            pa.field("first_ns", pa.int64(), nullable=False),
            pa.field("last_ns", pa.int64(), nullable=False),
            pa.field("code", pa.int32(), nullable=False),
            pa.field("confidence", pa.uint8()),
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
"""One flow as NFStream and nDPI see it; times are cut to milliseconds."""
