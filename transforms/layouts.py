"""Layouts: Aurora fuses all tasks into one row; Rainbow gives each task a stripe of the rows whose label it knows."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.manifest import SPLIT_COLUMN, Identity
from flowloom.schemas.rows import FLOWS, IDENTITY, label_column, labelled
from flowloom.schemas.tasks import Task
from flowloom.transforms.labels import count_unlabelled

AURORA = ""
"""The name of Aurora's only stripe."""


def stored_schema(tasks: Sequence[Task], identity: Identity) -> pa.Schema:
    """Return the schema of a shard: flows, without host addresses under `identity: drop`, and its tasks' labels."""
    kept = pa.schema([field for field in FLOWS if identity != "drop" or field.name not in IDENTITY])
    return labelled(kept, [task.name for task in tasks])


def lay_out(
    flows: pa.RecordBatch,
    tasks: Sequence[Task],
    layout: Literal["aurora", "rainbow"],
    identity: Identity = "keep",
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield (stripe, rows) of a labelled batch; rows have the stripe's stored columns and their split at the end.

    Under Rainbow a flow goes into the stripe of every task that knows a label of it, and carries that label only.
    """
    if layout == "aurora":
        yield AURORA, flows.select([*stored_schema(tasks, identity).names, SPLIT_COLUMN])
        return
    for task in tasks:
        stripe = flows.select([*stored_schema([task], identity).names, SPLIT_COLUMN])
        stripe = stripe.filter(pc.is_valid(stripe[label_column(task.name)]))
        if stripe.num_rows:
            yield task.name, stripe


@dataclasses.dataclass(frozen=True)
class LaidOut:
    """Rows of one batch that went into each stripe, its flows that no task knows a label of, and dropped duplicates.

    Rows that are dropped later are counted below 0 then.
    """

    rows: dict[str, int]
    unlabelled: int = 0
    duplicates: int = 0


@dataclasses.dataclass
class PlanLayout(beam.PTransform):
    """`lay_out` over a PCollection of labelled and divided flow batches."""

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    identity: Identity = "keep"

    def expand(self, flows: Any) -> Any:
        """Return (stripe, rows), and a `LaidOut` for each batch, from labelled and divided batches."""
        return flows | beam.ParDo(_LayOut(self)).with_outputs("counts", main="rows")


class _LayOut(beam.DoFn):
    def __init__(self, plan: PlanLayout):
        self._tasks = plan.tasks
        self._layout = plan.layout
        self._identity = plan.identity

    def process(self, flows: pa.RecordBatch) -> Iterator[Any]:
        counts = {}
        for stripe, rows in lay_out(flows, self._tasks, self._layout, self._identity):
            counts[stripe] = rows.num_rows
            yield stripe, rows
        yield beam.pvalue.TaggedOutput("counts", LaidOut(counts, count_unlabelled(flows, self._tasks)))
