"""Metering: readings become flow batches, and each one account of what became of its records."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from flowloom.schemas.accounting import CAPTURES, REJECTS
from flowloom.schemas.definition import FlowDefinition
from flowloom.transforms.columns import batch
from flowloom.transforms.fragments import fragment_partitions, join_fragments
from flowloom.transforms.packing import pack, unpack
from flowloom.transforms.reading import GroupReading
from flowloom.transforms.readings import PlanReadings, ReadingTask
from flowloom.transforms.tally import tally

PARTITIONS = 16
"""Parts into which the fragments of a group are divided for joining."""

Partition = tuple[str, int]
"""A group and one of its `PARTITIONS`."""


@dataclasses.dataclass(frozen=True)
class GroupAccount:
    """What became of one group, or a part of it.

    Attributes:
      flows, flows_short: flows in the dataset, and those too short for it.
      captures, rejects: rows of the tables of the same names; one capture may have several, one for each range.
      clock_ns: the latest time in the range at `position` and what it knew before; None without any, or after joining.
    """

    group: str
    flows: int
    flows_short: int
    captures: pa.RecordBatch
    rejects: pa.RecordBatch
    position: int | None = None
    clock_ns: int | None = None


@dataclasses.dataclass(frozen=True)
class PackedFragments:
    """Fragments of one group and partition as Arrow IPC bytes."""

    partition: Partition
    packed: bytes


def meter_reading(
    task: ReadingTask, definition: FlowDefinition
) -> Iterator[pa.RecordBatch | PackedFragments | GroupAccount]:
    """Yield a task's flows (`schemas.rows.FLOWS`) in bounded batches, its fragments, and its account at the end."""
    reading = GroupReading(
        task.ranges, task.group, definition, sha256=task.sha256, place=task.place, earlier=task.earlier
    )
    flows = 0
    for rows in reading.flows():
        flows += rows.num_rows
        yield rows
    for number, pieces in fragment_partitions(reading.fragments(), PARTITIONS):
        yield PackedFragments((task.group, number), pack([pieces]))
    yield GroupAccount(
        task.group, flows, reading.flows_short, reading.captures(), reading.rejects(),
        task.place.position, reading.clock_ns,
    )  # fmt: skip


def running_clocks(clocks: Iterable[tuple[int, int | None]]) -> list[int]:
    """Return the latest time up to the end of each range, from (position, clock) in any order."""
    before = np.iinfo(np.int64).min
    return np.maximum.accumulate([before if clock is None else clock for _, clock in sorted(clocks)]).tolist()


def join_partition(
    partition: Partition, packed: Iterable[bytes], clocks_ns: list[int], definition: FlowDefinition
) -> Iterator[pa.RecordBatch | GroupAccount]:
    """Yield the flows that the fragments of one partition form, and their account."""
    group, _ = partition
    flows, short = join_fragments(unpack(packed), clocks_ns, definition, group)
    yield flows
    yield GroupAccount(group, flows.num_rows, short, batch([], CAPTURES), batch([], REJECTS))


@dataclasses.dataclass
class MeterGroups(beam.PTransform):
    """`meter_reading` over the groups of one `GroupPlan`, and `join_partition` over their fragments."""

    definition: FlowDefinition
    split_bytes: int
    job: str

    def expand(self, plan: Any) -> Any:
        """Return flow batches and accounts from one `GroupPlan`."""
        metered = (
            plan
            | "Groups" >> beam.FlatMap(lambda plan: plan.groups)
            | "PlanReadings" >> PlanReadings(self.definition, self.split_bytes)
            | "Meter"
            >> beam.ParDo(_Meter(self.definition, self.job)).with_outputs("fragments", "accounts", main="flows")
        )
        clocks = (
            metered.accounts
            | "Clocks" >> beam.Map(lambda account: (account.group, (account.position, account.clock_ns)))
            | "ByGroup" >> beam.GroupByKey()
            | "Running" >> beam.MapTuple(lambda group, clocks: (group, running_clocks(clocks)))
        )
        joined = (
            metered.fragments
            | "OncePerPartition" >> beam.GroupByKey()
            | "Join"
            >> beam.ParDo(_Join(self.definition), beam.pvalue.AsDict(clocks)).with_outputs("accounts", main="flows")
        )
        flows = (metered.flows, joined.flows) | "Flows" >> beam.Flatten()
        accounts = (metered.accounts, joined.accounts) | "Accounts" >> beam.Flatten()
        return flows, accounts


class _Meter(beam.DoFn):
    def __init__(self, definition: FlowDefinition, job: str):
        self._definition = definition
        self._job = job

    def process(self, task: ReadingTask) -> Iterator[Any]:
        for piece in meter_reading(task, self._definition):
            if isinstance(piece, GroupAccount):
                yield beam.pvalue.TaggedOutput("accounts", piece)
            elif isinstance(piece, PackedFragments):
                yield beam.pvalue.TaggedOutput("fragments", (piece.partition, piece.packed))
            else:
                tally(self._job).add(flows=piece.num_rows)
                yield piece
        tally(self._job).add(captures=sum(part.stop is None for part in task.ranges))


class _Join(beam.DoFn):
    def __init__(self, definition: FlowDefinition):
        self._definition = definition

    def process(self, element: tuple[Partition, Iterable[bytes]], clocks: dict[str, list[int]]) -> Iterator[Any]:
        partition, packed = element
        for piece in join_partition(partition, packed, clocks[partition[0]], self._definition):
            if isinstance(piece, GroupAccount):
                yield beam.pvalue.TaggedOutput("accounts", piece)
            else:
                yield piece
