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


@dataclasses.dataclass
class PlanLayout(beam.PTransform):
    """`lay_out` over a PCollection of labelled and divided flow batches."""

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    identity: Identity = "keep"

    def expand(self, flows: Any) -> Any:
        """Return (stripe, rows) from labelled and divided batches."""
        return flows | beam.FlatMap(lay_out, self.tasks, self.layout, self.identity).with_output_types(
            tuple[str, pa.RecordBatch]
        )


@dataclasses.dataclass
class CountRows(beam.PTransform):
    """Rows of the batches that `PlanLayout` gives, summed by stripe; what the written shards are checked against."""

    def expand(self, stripes: Any) -> Any:
        """Return (stripe, count) from (stripe, rows)."""
        return (
            stripes
            | beam.MapTuple(lambda stripe, rows: (stripe, rows.num_rows)).with_output_types(tuple[str, int])
            | beam.CombinePerKey(sum)
        )
