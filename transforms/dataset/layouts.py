"""Layouts: Aurora fuses all tasks into one row; Rainbow gives each task a stripe of the rows whose label it knows."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews

AURORA = ""
"""The name of Aurora's only stripe."""
FLOWS_ALONE = StoredViews()
"""The views of a dataset that has flows and nothing else."""


def lay_out(
    rows: pa.RecordBatch,
    tasks: Sequence[Task],
    layout: Literal["aurora", "rainbow"],
    stored: StoredViews = FLOWS_ALONE,
    view: View = "flows",
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield (stripe, rows) of a labelled batch; rows have the stripe's stored columns and their split at the end.

    Under Rainbow a row goes into the stripe of every task that knows a label of it, and carries that label only.
    """
    if layout == "aurora":
        yield AURORA, _stored(rows, stored.schema(view, tasks))
        return
    for task in tasks:
        stripe = _stored(rows, stored.schema(view, [task]))
        stripe = stripe.filter(pc.is_valid(stripe[label_column(task.name)]))
        if stripe.num_rows:
            yield task.name, stripe


def _stored(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns of a schema, which may allow more of them to be null, and the split."""
    schema = schema.append(rows.schema.field(SPLIT_COLUMN))
    return pa.RecordBatch.from_arrays([rows[name] for name in schema.names], schema=schema)


@dataclasses.dataclass(frozen=True)
class LaidOut:
    """Rows of one batch that went into each stripe, its rows that no task knows a label of, and dropped duplicates.

    Rows that are dropped later are counted below 0 then.
    """

    rows: dict[str, int]
    unlabelled: int = 0
    duplicates: int = 0
    view: View = "flows"
