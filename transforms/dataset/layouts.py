"""Layouts: Aurora fuses all tasks into one row; Rainbow gives each task a stripe of the rows whose label it knows."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.manifest import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.labels.label_flows import count_unlabelled

AURORA = ""
"""The name of Aurora's only stripe."""
_FLOWS = StoredViews()


def lay_out(
    rows: pa.RecordBatch,
    tasks: Sequence[Task],
    layout: Literal["aurora", "rainbow"],
    stored: StoredViews = _FLOWS,
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


@dataclasses.dataclass
class PlanLayout(beam.PTransform):
    """`lay_out` over a PCollection of labelled and divided batches of one view."""

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    stored: StoredViews = _FLOWS
    view: View = "flows"

    def expand(self, flows: Any) -> Any:
        """Return (stripe, rows), and a `LaidOut` for each batch, from labelled and divided batches."""
        return flows | beam.ParDo(_LayOut(self)).with_outputs("counts", main="rows")


class _LayOut(beam.DoFn):
    def __init__(self, plan: PlanLayout):
        self._tasks = plan.tasks
        self._layout = plan.layout
        self._stored = plan.stored
        self._view = plan.view

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        counts = {}
        for stripe, rows in lay_out(batch, self._tasks, self._layout, self._stored, self._view):
            counts[stripe] = rows.num_rows
            yield stripe, rows
        laid_out = LaidOut(counts, count_unlabelled(batch, self._tasks), view=self._view)
        yield beam.pvalue.TaggedOutput("counts", laid_out)
