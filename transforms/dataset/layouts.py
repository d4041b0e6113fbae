"""Layouts: Aurora (fused) has all tasks in one row; Rainbow (striped) has rows by the task that labels them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.labels.label_flows import count_unlabelled

AURORA = ""
"""The name of Aurora's only stripe."""
FLOWS_ALONE = StoredViews()
"""The views of a dataset of flows only."""


def lay_out(
    rows: pa.RecordBatch,
    tasks: Sequence[Task],
    layout: Literal["aurora", "rainbow"],
    stored: StoredViews = FLOWS_ALONE,
    view: View = "flows",
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yields (stripe, rows) of a labelled batch; rows have the stored columns of the stripe, then their split.

    Under Rainbow a row is in the stripe of each task that labels it, with that label only.
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
    """Returns the columns of a schema and the split; the schema may allow more nulls than the rows."""
    schema = schema.append(rows.schema.field(SPLIT_COLUMN))
    return pa.RecordBatch.from_arrays([rows[name] for name in schema.names], schema=schema)


@dataclasses.dataclass(frozen=True)
class LaidOut:
    """Counts of one batch: rows of each stripe, rows without a label of any task, and dropped duplicates.

    A count below 0 subtracts rows that are dropped later from their stripe. `read` is all rows of the batch.
    """

    rows: dict[str, int]
    unlabelled: int = 0
    duplicates: int = 0
    view: View = "flows"
    read: int = 0


def count_layout(
    rows: pa.RecordBatch, stripes: Mapping[str, pa.RecordBatch], tasks: Sequence[Task], view: View
) -> LaidOut:
    """Returns the counts of a labelled batch and of its rows by stripe."""
    counts = {stripe: placed.num_rows for stripe, placed in stripes.items()}
    return LaidOut(counts, count_unlabelled(rows, tasks), view=view, read=rows.num_rows)
