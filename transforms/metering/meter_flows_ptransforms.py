"""PTransform from groups of captures to flows, without a folder that workers share."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.groups import CaptureGroup, GroupPlan
from flowloom.transforms.captures.ranges import Stretch, index_stretch
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.meter_flows import account_tables, whole_tasks
from flowloom.transforms.metering.metering_ptransforms import JoinPartitions, MeteredRanges, MeterRanges
from flowloom.transforms.metering.open_flows import crowded_groups
from flowloom.transforms.metering.scheduling import MeterTask, group_stretches, plan_group

COUNTERS = "flowloom"
"""Namespace of the counters: `captures`, `records`, `metered`, `flows`, `dropped-<reason>`, `rejects-<reason>`."""

_LOGGER = logging.getLogger(__name__)


class MeteredFlows(NamedTuple):
    """Outputs of `MeterFlows(...).with_accounts()`: flows, rows of the captures table, and rows of rejects.

    The others are for `WriteShards`: accounts of groups, and the flow definition as the only element.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> names = ["captures/web/nginx/plain-01.pcap.zst", "captures/none.pcap"]
      >>> metered = names | fl.beam.ReadCaptures() | fl.beam.MeterFlows().with_accounts()
      >>> [row["records"] for batch in metered.captures for row in batch.to_pylist()]
      [348]
      >>> [row["reason"] for batch in metered.rejects for row in batch.to_pylist()]
      ['unreadable']
    """

    flows: beam.PCollection[pa.RecordBatch]
    captures: beam.PCollection[pa.RecordBatch]
    rejects: beam.PCollection[pa.RecordBatch]
    accounts: beam.PCollection[GroupAccount]
    definition: beam.PCollection[FlowDefinition]


@dataclasses.dataclass
class MeterFlows(beam.PTransform):
    """Turns groups of captures (`ReadCaptures`) into batches of flows.

    A batch has the columns of `schemas.arrow.rows.FLOWS`: times in ns since the epoch, addresses as 16 bytes, sequences
    of at most k packets. No folder has to be shared by the workers. Counters of Beam (namespace `flowloom`) have the
    numbers of captures, records, flows, dropped packets and rejects; each reject is a warning of the log, and
    `with_accounts()` gives tables of them.

    Args:
      definition: the flow definition, or the name of a preset.
      split_bytes: size above which an uncompressed capture is read in ranges by several workers. The flows are the
        same. None, the default, reads each group on one worker, and passes flows on as soon as they are complete; with
        ranges, the flows of a group wait until all its ranges were read.

    Raises:
      FlowloomError: if there is no such preset.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"]
      >>> flows = captures | fl.beam.ReadCaptures() | fl.beam.MeterFlows("default")
      >>> sum(batch.num_rows for batch in flows)
      16
    """

    definition: FlowDefinition | str = "default"
    split_bytes: int | None = None

    def __post_init__(self) -> None:
        given = self.definition
        self._definition = FlowDefinition.of(given) if isinstance(given, str) else given
        if self.split_bytes is not None and self.split_bytes < 1024:
            raise FlowloomError(f"split_bytes must be at least 1024, got {self.split_bytes}")

    def with_accounts(self) -> beam.PTransform:
        """Returns a transform with the outputs `MeteredFlows`: flows, captures and rejects."""
        return _Accounted(self._definition, self.split_bytes)

    def expand(self, plans: beam.PCollection[GroupPlan]) -> beam.PCollection[pa.RecordBatch]:
        """Returns batches of flows."""
        return (plans | "Accounted" >> self.with_accounts()).flows


@dataclasses.dataclass
class _Accounted(beam.PTransform):
    """Flows, with captures and rejects as tables beside them."""

    definition: FlowDefinition
    split_bytes: int | None = None

    @beam.typehints.no_annotations
    def expand(self, plans: beam.PCollection[GroupPlan]) -> MeteredFlows:
        """Returns flows, captures and rejects."""
        groups = plans | "Groups" >> beam.FlatMap(lambda plan: plan.groups).with_output_types(CaptureGroup)
        if self.split_bytes is None:
            metered = groups | "MeterWhole" >> _MeterWhole(self.definition)
            flows, accounts = metered.flows, metered.accounts
        else:
            flows, accounts = _meter_in_ranges(groups, self.definition, self.split_bytes)
        summed = (
            accounts
            | "ByGroup" >> beam.WithKeys(lambda account: account.group).with_output_types(tuple[str, GroupAccount])
            | "OncePerGroup" >> beam.GroupByKey()
            | "Account" >> beam.ParDo(_Account()).with_outputs("rejects", main="captures")
        )
        planned = plans | "PlannedRejects" >> beam.FlatMap(_planned_rejects).with_output_types(pa.RecordBatch)
        rejects = (summed.rejects, planned) | "AllRejects" >> beam.Flatten() | "Tell" >> beam.Map(_told)
        counted = flows | "Count" >> beam.Map(_counted).with_output_types(pa.RecordBatch)
        definition = plans.pipeline | "Definition" >> beam.Create([self.definition])
        return MeteredFlows(counted, summed.captures, rejects, accounts, definition)


@dataclasses.dataclass
class _MeterWhole(beam.PTransform):
    """Meters each group on one worker."""

    definition: FlowDefinition

    @beam.typehints.no_annotations
    def expand(self, groups: beam.PCollection[CaptureGroup]) -> MeteredRanges:
        """Returns flows and accounts; there are no fragments."""
        tasks = groups | "Tasks" >> beam.FlatMap(whole_tasks, self.definition).with_output_types(MeterTask)
        return tasks | "Meter" >> MeterRanges(self.definition, None)


def _meter_in_ranges(
    groups: beam.PCollection[CaptureGroup], definition: FlowDefinition, split_bytes: int
) -> tuple[beam.PCollection[pa.RecordBatch], beam.PCollection[GroupAccount]]:
    """Returns the flows and accounts of groups that several workers read.

    A group that may have reached `max_open_flows` in ranges is metered again in one piece, and that counts.
    """
    named = groups | "Named" >> beam.WithKeys(lambda group: group.group).with_output_types(tuple[str, CaptureGroup])
    stretches = (
        groups
        | "Stretches" >> beam.FlatMap(_stretched, definition, split_bytes).with_output_types(tuple[str, Stretch])
        | "SpreadStretches" >> beam.Reshuffle()
        | "Index" >> beam.Map(_indexed, definition.idle_ns).with_output_types(tuple[str, Stretch])
    )
    tasks = (
        {"groups": named, "stretches": stretches}
        | "Gather" >> beam.CoGroupByKey()
        | "Plan" >> beam.FlatMap(_planned, definition).with_output_types(MeterTask)
        | "SpreadTasks" >> beam.Reshuffle()
    )
    ranges = tasks | "MeterRanges" >> MeterRanges(definition, None)
    joined = ranges.fragments | "JoinPartitions" >> JoinPartitions(definition, None)
    accounts = (ranges.accounts, joined.accounts) | "Accounts" >> beam.Flatten()
    crowded = accounts | "Crowded" >> beam.CombineGlobally(_Crowded(definition))
    only = beam.pvalue.AsSingleton(crowded)
    again = (
        groups
        | "Again" >> beam.Filter(lambda group, names: group.group in names, only)
        | "MeterAgain" >> _MeterWhole(definition)
    )
    kept = (
        (ranges.flows, joined.flows)
        | "Flows" >> beam.Flatten()
        | "Keep" >> beam.FlatMap(_without, only).with_output_types(pa.RecordBatch)
    )
    settled = accounts | "Settled" >> beam.Filter(lambda account, names: account.group not in names, only)
    return (
        (kept, again.flows) | "AllFlows" >> beam.Flatten(),
        (settled, again.accounts) | "AllAccounts" >> beam.Flatten(),
    )


def _stretched(group: CaptureGroup, definition: FlowDefinition, split_bytes: int) -> Iterator[tuple[str, Stretch]]:
    for stretch in group_stretches(group, definition, split_bytes):
        yield group.group, stretch


def _indexed(element: tuple[str, Stretch], idle_ns: int) -> tuple[str, Stretch]:
    group, stretch = element
    return group, index_stretch(stretch, idle_ns)


def _planned(element: tuple[str, Mapping[str, Iterable[Any]]], definition: FlowDefinition) -> Iterator[MeterTask]:
    _, found = element
    (group,) = found["groups"]
    return plan_group(group, found["stretches"], definition)


class _Crowded(beam.CombineFn):
    """Groups that must be metered in one piece, from the accounts of all ranges."""

    def __init__(self, definition: FlowDefinition):
        self._definition = definition

    def create_accumulator(self) -> list[GroupAccount]:
        return []

    def add_input(self, accounts: list[GroupAccount], account: GroupAccount) -> list[GroupAccount]:
        empty = account.captures.slice(0, 0)
        slim = dataclasses.replace(account, captures=empty, rejects=account.rejects.slice(0, 0), leaves=())
        return [*accounts, slim] if account.open_flows else accounts

    def merge_accumulators(self, accumulators: Iterable[list[GroupAccount]]) -> list[GroupAccount]:
        return [account for accounts in accumulators for account in accounts]

    def extract_output(self, accounts: list[GroupAccount]) -> list[str]:
        return crowded_groups(accounts, self._definition)


def _without(flows: pa.RecordBatch, groups: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields the flows of other groups."""
    kept = flows
    if groups:
        kept = flows.filter(pa.array([name not in groups for name in flows["group"].to_pylist()], pa.bool_()))
    if kept.num_rows:
        yield kept


class _Account(beam.DoFn):
    """Sums the accounts of a group, and counts them."""

    def process(
        self, element: tuple[str, Iterable[GroupAccount]]
    ) -> Iterator[pa.RecordBatch | TaggedOutput[Literal["rejects"], pa.RecordBatch]]:
        captures, rejects = account_tables(list(element[1]))
        for row in captures.to_pylist():
            Metrics.counter(COUNTERS, "captures").inc()
            for name in ("records", "metered"):
                Metrics.counter(COUNTERS, name).inc(row[name])
            for reason in DropReason:
                if row[reason.column]:
                    Metrics.counter(COUNTERS, f"dropped-{reason.label}").inc(row[reason.column])
        if captures.num_rows:
            yield captures
        if rejects.num_rows:
            yield TaggedOutput("rejects", rejects)


def _planned_rejects(plan: GroupPlan) -> Iterator[pa.RecordBatch]:
    if plan.rejects.num_rows:
        yield plan.rejects


def _counted(flows: pa.RecordBatch) -> pa.RecordBatch:
    Metrics.counter(COUNTERS, "flows").inc(flows.num_rows)
    return flows


def _told(rejects: pa.RecordBatch) -> pa.RecordBatch:
    for row in rejects.to_pylist():
        Metrics.counter(COUNTERS, f"rejects-{row['reason']}").inc()
        _LOGGER.warning("%s: %s at byte %d: %s", row["uri"], row["reason"], row["offset"], row["detail"])
    return rejects
