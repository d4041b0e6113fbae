"""PTransforms of the metering job: planning, metering, joining, and the cache of metered captures."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import RowBuffer
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import Stretch, index_stretch
from flowloom.transforms.flows.identities import IdentityKey
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.io.tally import tally
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount, Partition, RangeFragments
from flowloom.transforms.metering.join_packets import (
    PacketCounts,
    RangeJoin,
    attach_labels,
    join_ranges,
    mark_flows,
)
from flowloom.transforms.metering.meter_cache import CachedMetering, MeterCache, cache_metering
from flowloom.transforms.metering.meter_ranges import (
    CachedRanges,
    GroupPackets,
    Metering,
    join_partition,
    open_metering,
    sha256_captures,
)
from flowloom.transforms.metering.scheduling import MeterTask, Sha256Task, WorkerShare, deal, draft_metering, plan_group
from flowloom.transforms.packets.byte_rows import no_drops

Task = TypeVar("Task")


class MeterPlan(NamedTuple):
    """Outputs of `PlanMetering`: tasks, and captures whose SHA-256 is wanted, dealt to workers by the cost of both."""

    tasks: beam.PCollection[MeterTask]
    sha256_tasks: beam.PCollection[Sha256Task]


@dataclasses.dataclass
class PlanMetering(beam.PTransform):
    """`plan_metering` of capture groups; all workers index stretches.

    Args:
      workers: number of workers if the runner gives each the same number of keys, whatever their cost; tasks are then
        dealt to as many keys of about equal cost. None if the runner gives elements to idle workers.
      whole: names of groups that are metered in one piece.
      sha256: whether the SHA-256 of captures is wanted beside their digest.
    """

    groups: Sequence[CaptureGroup]
    definition: FlowDefinition
    split_bytes: int
    workers: int | None = None
    whole: Collection[str] = ()
    sha256: bool = False

    @beam.typehints.no_annotations
    def expand(self, root: beam.pvalue.PBegin) -> MeterPlan:
        """Deals metering and hashing to workers."""
        draft = draft_metering(self.groups, self.definition, self.split_bytes, self.whole, sha256=self.sha256)
        dealt = iter(deal(draft.costs, self.workers or len(draft.costs) or 1))
        shares = [(next(dealt), WorkerShare(sha256_tasks=(task,))) for task in draft.sha256_tasks]
        shares += [(next(dealt), WorkerShare(tasks=(task,))) for task in draft.tasks]
        known = root | "Shares" >> beam.Create(shares, reshuffle=False)
        if draft.stretches:
            keys = {(stretch.uri, stretch.begin): next(dealt) for _, stretch in draft.stretches}
            groups = {name: group for group in self.groups if (name := group.group) in dict(draft.stretches)}
            indexed = (
                root
                | "Stretches" >> beam.Create(draft.stretches)
                | "Index" >> beam.Map(_indexed, self.definition.idle_ns)
                | "Gather" >> beam.GroupByKey()
                | "Plan" >> beam.FlatMap(_planned, groups, self.definition, self.split_bytes, keys)
            )
            known = (known, indexed) | "AllShares" >> beam.Flatten()
        grouped = known | "OncePerWorker" >> beam.GroupByKey()
        tasks = grouped | "Deal" >> beam.ParDo(_Deal()).with_outputs("sha256_tasks", main="tasks")
        return MeterPlan(tasks.tasks, tasks.sha256_tasks)


class _Deal(beam.DoFn):
    def process(
        self, element: tuple[int, Iterable[WorkerShare]]
    ) -> Iterator[MeterTask | TaggedOutput[Literal["sha256_tasks"], Sha256Task]]:
        shares = list(element[1])
        for share in shares:
            for task in share.sha256_tasks:
                yield TaggedOutput("sha256_tasks", task)
        for share in shares:
            yield from share.tasks


def _indexed(element: tuple[str, Stretch], idle_ns: int) -> tuple[str, Stretch]:
    group, stretch = element
    return group, index_stretch(stretch, idle_ns)


def _planned(
    element: tuple[str, Iterable[Stretch]],
    groups: Mapping[str, CaptureGroup],
    definition: FlowDefinition,
    split_bytes: int,
    keys: Mapping[tuple[str, int], int],
) -> Iterator[tuple[int, WorkerShare]]:
    """Yields tasks, each with the key of the stretch in which its range begins."""
    name, indexed = element
    for task in plan_group(groups[name], indexed, definition):
        first = task.ranges[0]
        yield keys.get((first.uri, first.start // split_bytes * split_bytes), 0), WorkerShare(tasks=(task,))


class HashedCaptures(NamedTuple):
    """Outputs of `Sha256Captures`: SHA-256, and reject rows of captures that can no longer be read."""

    hashed: beam.PCollection[CaptureSha256]
    rejects: beam.PCollection[pa.RecordBatch]


@dataclasses.dataclass
class Sha256Captures(beam.PTransform):
    """`sha256_captures` over a PCollection of tasks."""

    @beam.typehints.no_annotations
    def expand(self, tasks: beam.PCollection[Sha256Task]) -> HashedCaptures:
        """Hashes each capture."""
        found = tasks | "Hash" >> beam.ParDo(_Hash()).with_outputs("rejects", main="hashed")
        return HashedCaptures(found.hashed, found.rejects)


class _Hash(beam.DoFn):
    def process(self, task: Sha256Task) -> Iterator[CaptureSha256 | TaggedOutput[Literal["rejects"], pa.RecordBatch]]:
        hashed, rejects = sha256_captures([task])
        yield from hashed
        for reject in rejects:
            yield TaggedOutput("rejects", reject)


class MeteredRanges(NamedTuple):
    """Outputs of metering: complete flows, fragments for `JoinPartitions`, packet rows, drop counts and accounts."""

    flows: beam.PCollection[pa.RecordBatch]
    fragments: beam.PCollection[tuple[Partition, RangeFragments]]
    packets: beam.PCollection[GroupPackets]
    counts: beam.PCollection[PacketCounts]
    accounts: beam.PCollection[GroupAccount]


@dataclasses.dataclass
class MeterRanges(beam.PTransform):
    """`meter_ranges` over a PCollection of tasks; `packets` and `counts` are empty without a packets view."""

    definition: FlowDefinition
    job: str | None
    packet_view: PacketView | None = None

    @beam.typehints.no_annotations
    def expand(self, tasks: beam.PCollection[MeterTask]) -> MeteredRanges:
        """Meters the captures of each task."""
        return _metered(tasks | "Meter" >> _outputs(_MeterRanges(self.definition, self.job, self.packet_view)))


@dataclasses.dataclass
class ReadCachedMetering(beam.PTransform):
    """`read_cached_metering` of cached captures, in place of `PlanMetering` and `MeterRanges`."""

    cached: Sequence[CachedMetering]
    job: str | None
    workers: int | None = None

    @beam.typehints.no_annotations
    def expand(self, root: beam.pvalue.PBegin) -> MeteredRanges:
        """Reads the cache, dealt evenly to workers."""
        workers = self.workers or len(self.cached) or 1
        dealt = [(at % workers, cached) for at, cached in enumerate(self.cached)]
        return _metered(_deal(root, dealt, CachedMetering) | "Read" >> _outputs(_ReadCachedMetering(self.job)))


@dataclasses.dataclass
class CacheMetering(beam.PTransform):
    """`cache_metering` of tasks, dealt to workers by the sizes of their captures.

    Args:
      sizes: bytes of the captures, by uri.
    """

    tasks: Sequence[MeterTask]
    sizes: Mapping[str, int]
    cache: MeterCache
    job: str | None
    workers: int | None = None

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[str]:
        """Returns the folder of each cached task."""
        costs = [sum(self.sizes[part.uri] for part in task.ranges) for task in self.tasks]
        dealt = deal(costs, self.workers or len(costs) or 1)
        tasks = _deal(root, list(zip(dealt, self.tasks, strict=True)), MeterTask)
        return tasks | "Cache" >> beam.Map(_cached, self.cache, self.job)


def _cached(task: MeterTask, cache: MeterCache, job: str | None) -> str:
    (folder,) = cache_metering([task], cache)
    tally(job).add(captures=len(task.ranges))
    return folder


def _deal(root: beam.pvalue.PBegin, tasks: Sequence[tuple[int, Task]], kind: type[Task]) -> beam.PCollection[Task]:
    """Returns tasks, those of one worker in one bundle."""
    return (
        root
        | "Tasks" >> beam.Create(tasks, reshuffle=False)
        | "OncePerWorker" >> beam.GroupByKey()
        | "Deal" >> beam.FlatMapTuple(lambda _, dealt: dealt).with_output_types(kind)
    )


def _outputs(fn: "_Meters") -> beam.PTransform:
    return beam.ParDo(fn).with_outputs("fragments", "packets", "counts", "accounts", main="flows")


def _metered(results: beam.pvalue.DoOutputsTuple) -> MeteredRanges:
    return MeteredRanges(results.flows, results.fragments, results.packets, results.counts, results.accounts)


class _BuffersFlows(beam.DoFn):
    """Base of steps that yield flows in full batches: a thousand tiny captures do not give a thousand batches."""

    def start_bundle(self) -> None:
        self._buffer = RowBuffer(TAKE_FLOWS)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for flows in self._buffer.flush():
            yield GlobalWindows.windowed_value(flows)


_Results: TypeAlias = Iterator[
    pa.RecordBatch
    | TaggedOutput[Literal["fragments"], tuple[Partition, RangeFragments]]
    | TaggedOutput[Literal["packets"], GroupPackets]
    | TaggedOutput[Literal["counts"], PacketCounts]
    | TaggedOutput[Literal["accounts"], GroupAccount]
]


class _Meters(_BuffersFlows):
    """Base of steps that yield the results of metering."""

    def __init__(self, job: str | None):
        self._job = job

    def _results(self, metering: Metering, captures: int) -> _Results:
        for flows in metering.flows():
            tally(self._job).add(flows=flows.num_rows)
            yield from self._buffer.add(flows)
        yield from (TaggedOutput("fragments", each) for each in metering.fragments())
        yield from (TaggedOutput("packets", each) for each in metering.packets())
        yield from (TaggedOutput("counts", each) for each in metering.counts())
        yield TaggedOutput("accounts", metering.account())
        tally(self._job).add(captures=captures)


class _MeterRanges(_Meters):
    def __init__(self, definition: FlowDefinition, job: str | None, packet_view: PacketView | None):
        super().__init__(job)
        self._definition = definition
        self._packet_view = packet_view

    def process(self, task: MeterTask) -> _Results:
        metering = open_metering(task, self._definition, self._job, self._packet_view)
        yield from self._results(metering, task.captures_done)
        tally(self._job).read((part.uri, part.start, part.stop) for part in task.ranges)


class _ReadCachedMetering(_Meters):
    def process(self, cached: CachedMetering) -> _Results:
        yield from self._results(CachedRanges(cached, self._job), cached.captures_done)


class JoinedPartitions(NamedTuple):
    """Outputs of `JoinPartitions`: flows, the numbers of their packets, and accounts."""

    flows: beam.PCollection[pa.RecordBatch]
    packets: beam.PCollection[GroupPackets]
    accounts: beam.PCollection[GroupAccount]


@dataclasses.dataclass
class JoinPartitions(beam.PTransform):
    """`join_partitions` over the fragments of all ranges, with each partition on one worker.

    Args:
      numbered: whether packet rows need the flow of each fragment.
    """

    definition: FlowDefinition
    job: str | None
    numbered: bool = False

    @beam.typehints.no_annotations
    def expand(self, fragments: beam.PCollection[tuple[Partition, RangeFragments]]) -> JoinedPartitions:
        """Joins the fragments of each partition."""
        join = beam.ParDo(_JoinPartition(self.definition, self.job, self.numbered))
        joined = (
            fragments
            | "OncePerPartition" >> beam.GroupByKey()
            | "Join" >> join.with_outputs("packets", "accounts", main="flows")
        )
        return JoinedPartitions(joined.flows, joined.packets, joined.accounts)


class _JoinPartition(_BuffersFlows):
    def __init__(self, definition: FlowDefinition, job: str | None, numbered: bool):
        self._definition = definition
        self._job = job
        self._numbered = numbered

    def process(
        self, element: tuple[Partition, Iterable[RangeFragments]]
    ) -> Iterator[
        pa.RecordBatch
        | TaggedOutput[Literal["packets"], GroupPackets]
        | TaggedOutput[Literal["accounts"], GroupAccount]
    ]:
        joined = join_partition(*element, self._definition, numbered=self._numbered)
        if joined is None:
            return
        tally(self._job).add(flows=joined.flows.num_rows)
        yield from self._buffer.add(joined.flows)
        yield from (TaggedOutput("packets", each) for each in joined.packets(self._job))
        yield TaggedOutput("accounts", joined.account)


class PacketsAndFlows(NamedTuple):
    """Inputs of `JoinPackets`: spilled packets of groups, and labelled batches of all their flows."""

    packets: beam.PCollection[GroupPackets]
    flows: beam.PCollection[pa.RecordBatch]


class JoinedPackets(NamedTuple):
    """Outputs of `JoinPackets`: rows of the packets view, and the counts of each range."""

    rows: beam.PCollection[pa.RecordBatch]
    counts: beam.PCollection[PacketCounts]


@dataclasses.dataclass
class JoinPackets(beam.PTransform):
    """`join_packets` of the packet rows that metering spilled, with the ids, labels and splits of their flows."""

    key: IdentityKey | None
    job: str

    @beam.typehints.no_annotations
    def expand(self, inputs: PacketsAndFlows) -> JoinedPackets:
        """Joins the packets of each group to its flows."""
        marks = inputs.flows | "Mark" >> beam.FlatMap(mark_flows, self.job)
        joined = (
            {"packets": inputs.packets, "marks": marks}
            | "OncePerGroup" >> beam.CoGroupByKey()
            | "Join" >> beam.FlatMap(_joined, self.key, self.job).with_output_types(RangeJoin)
            | "Spread" >> beam.Reshuffle()
            | "Attach" >> beam.ParDo(_AttachLabels()).with_outputs("counts", main="rows")
        )
        return JoinedPackets(joined.rows, joined.counts)


def _joined(element: tuple[str, Mapping[str, Iterable[Any]]], key: IdentityKey | None, job: str) -> Iterator[RangeJoin]:
    group, found = element
    return join_ranges(group, found["packets"], found["marks"], key, job)


class _AttachLabels(beam.DoFn):
    def process(self, join: RangeJoin) -> Iterator[pa.RecordBatch | TaggedOutput[Literal["counts"], PacketCounts]]:
        dropped, rows = no_drops(), 0
        for batch in attach_labels(join, dropped):
            rows += batch.num_rows
            yield batch
        yield TaggedOutput("counts", PacketCounts(rows, tuple(dropped.tolist())))
