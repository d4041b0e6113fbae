"""Metering: capture groups become flow batches, and each group one account of what became of its records."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.definition import FlowDefinition
from flowloom.transforms.groups import CaptureGroup
from flowloom.transforms.reading import GroupReading
from flowloom.transforms.tally import tally


@dataclasses.dataclass(frozen=True)
class GroupAccount:
    """What became of one group: flows in the dataset, flows too short for it, its captures and rejects rows."""

    group: str
    flows: int
    flows_short: int
    captures: pa.RecordBatch
    rejects: pa.RecordBatch


def meter_group(group: CaptureGroup, definition: FlowDefinition) -> Iterator[pa.RecordBatch | GroupAccount]:
    """Yield a group's flows (`schemas.rows.FLOWS`) in bounded batches, and its account at the end."""
    sha256 = {capture.uri: capture.sha256 for capture in group.captures}
    reading = GroupReading(list(sha256), group.group, definition, sha256=sha256)
    flows = 0
    for batch in reading.flows():
        flows += batch.num_rows
        yield batch
    yield GroupAccount(group.group, flows, reading.flows_short, reading.captures(), reading.rejects())


@dataclasses.dataclass
class MeterGroups(beam.PTransform):
    """`meter_group` over the groups of one `GroupPlan`: flow batches, and a `GroupAccount` for each group."""

    definition: FlowDefinition
    job: str

    def expand(self, plan: Any) -> Any:
        """Return flow batches and accounts from one `GroupPlan`."""
        metered = (
            plan
            | "Groups" >> beam.FlatMap(lambda plan: plan.groups).with_output_types(CaptureGroup)
            | "SpreadGroups" >> beam.Reshuffle()
            | "Meter" >> beam.ParDo(_Meter(self.definition, self.job)).with_outputs("accounts", main="flows")
        )
        return metered.flows, metered.accounts


class _Meter(beam.DoFn):
    def __init__(self, definition: FlowDefinition, job: str):
        self._definition = definition
        self._job = job

    def process(self, group: CaptureGroup) -> Iterator[Any]:
        for piece in meter_group(group, self._definition):
            if isinstance(piece, GroupAccount):
                yield beam.pvalue.TaggedOutput("accounts", piece)
            else:
                tally(self._job).add(flows=piece.num_rows)
                yield piece
        tally(self._job).add(captures=len(group.captures))
