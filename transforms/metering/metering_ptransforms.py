"""PTransforms of the metering job: planning, metering, joining, and the cache of metered captures."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import RowBuffer
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import Stretch, index_stretch
from flowloom.transforms.flows.identities import IdentityKey
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.io.progress import tally
from flowloom.transforms.io.spill import spill_batches
from flowloom.transforms.metering.join_packets import (
    PacketCounts,
    RangeJoin,
    RangePackets,
    join_packets,
    join_ranges,
    mark_flows,
)
from flowloom.transforms.metering.meter_cache import KeptReading, ReadingStore, keep_reading
from flowloom.transforms.metering.meter_groups import (
    GroupAccount,
    Partition,
    RangeFragments,
    digest_capture,
    join_partition,
    meter_reading,
    recall_reading,
)
from flowloom.transforms.metering.scheduling import DigestTask, ReadingTask, deal, group_stretches, plan_readings


@dataclasses.dataclass
class JoinPackets(beam.PTransform):
    """`join_ranges` and `join_packets` over what `MeterGroups` gives of packets."""

    key: IdentityKey | None
    job: str

    def expand(self, ranges_flows: Any) -> Any:
        """Return rows as `rows` and `PacketCounts` as `counts`.

        Args:
          ranges_flows: a pair of (group, `RangePackets`), and batches of labelled and divided flows.
        """
        ranges, flows = ranges_flows
        marks = flows | "Mark" >> beam.FlatMap(mark_flows, self.job)
        return (
            {"ranges": ranges, "marks": marks}
            | "OncePerGroup" >> beam.CoGroupByKey()
            | "Join" >> beam.FlatMap(_joined, self.key, self.job).with_output_types(RangeJoin)
            | "Spread" >> beam.Reshuffle()
            | "Attach" >> beam.FlatMap(_tagged).with_outputs("counts", main="rows")
        )


def _joined(element: tuple[str, Any], key: IdentityKey | None, job: str) -> Iterator[RangeJoin]:
    group, found = element
    return join_ranges(group, found["ranges"], found["marks"], key, job)


def _tagged(join: RangeJoin) -> Iterator[Any]:
    for found in join_packets(join):
        yield beam.pvalue.TaggedOutput("counts", found) if isinstance(found, PacketCounts) else found


@dataclasses.dataclass
class KeepReadings(beam.PTransform):
    """From a pipeline: `keep_reading` of tasks, dealt to as many lanes as there are workers, by the captures' sizes."""

    tasks: Sequence[ReadingTask]
    sizes: Mapping[str, int]
    store: ReadingStore
    job: str
    lanes: int | None = None

    def expand(self, root: Any) -> Any:
        """Return nothing but None for every task."""
        costs = [sum(self.sizes[part.uri] for part in task.ranges) for task in self.tasks]
        dealt = deal(costs, self.lanes or len(costs) or 1)
        tasks = root | "Tasks" >> beam.Create(list(zip(dealt, self.tasks, strict=True)), reshuffle=False)
        spread = tasks | "Spread" >> beam.GroupByKey() | "Dealt" >> beam.FlatMapTuple(lambda _, tasks: tasks)
        return spread | "Keep" >> beam.Map(_kept, self.store, self.job)


@dataclasses.dataclass
class RecallReadings(beam.PTransform):
    """From a pipeline to `KeptReading`s, for `MeterGroups` in the place of what `PlanReadings` gives."""

    readings: Sequence[KeptReading]
    lanes: int | None = None

    def expand(self, root: Any) -> Any:
        """Return the readings, dealt evenly."""
        lanes = self.lanes or len(self.readings) or 1
        dealt = [(at % lanes, reading) for at, reading in enumerate(self.readings)]
        spread = root | "Readings" >> beam.Create(dealt, reshuffle=False) | "Spread" >> beam.GroupByKey()
        return spread | "Dealt" >> beam.FlatMapTuple(lambda _, readings: readings)


def _kept(task: ReadingTask, store: ReadingStore, job: str) -> None:
    keep_reading(task, store)
    tally(job).add(captures=len(task.ranges))


_EVERYWHERE = -1
"""In the place of a range: the numbers of joined flows are those of several."""


@dataclasses.dataclass
class MeterGroups(beam.PTransform):
    """`meter_reading` or `recall_reading` over what `PlanReadings` or `RecallReadings` gives, then `join_partition`."""

    definition: FlowDefinition
    job: str
    packet_view: PacketView | None = None

    def expand(self, tasks: Any) -> Any:
        """Return flows that are whole, joined ones, packets and findings of `ReadingTask`, `DigestTask`, `KeptReading`.

        The packets are two PCollections of (group, `RangePackets`), empty without a packets view. Findings are
        `GroupAccount`s, `CaptureDigest`s, `PacketCounts` and reject rows. The two kinds of flows are apart because to
        flatten them would carry them through the runner.
        """
        metered = tasks | "Meter" >> beam.ParDo(_Meter(self.definition, self.job, self.packet_view)).with_outputs(
            "fragments", "packets", "findings", main="flows"
        )
        join = _Join(self.definition, self.job, self.packet_view)
        joined = (
            metered.fragments
            | "OncePerPartition" >> beam.GroupByKey()
            | "Join" >> beam.ParDo(join).with_outputs("packets", "findings", main="flows")
        )
        packets = (metered.packets, joined.packets)
        return metered.flows, joined.flows, packets, (metered.findings, joined.findings)


class _HoldsFlowsBack(beam.DoFn):
    """Holds flows back until they fill a batch: a thousand tiny captures are not a thousand batches."""

    def __init__(self, definition: FlowDefinition, job: str, packet_view: PacketView | None):
        self._definition = definition
        self._job = job
        self._packet_view = packet_view

    def start_bundle(self) -> None:
        self._buffer = RowBuffer(TAKE_FLOWS)

    def finish_bundle(self) -> Iterator[Any]:
        for flows in self._buffer.flush():
            yield GlobalWindows.windowed_value(flows)

    def _held(self, flows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Add flows, and yield a batch if there are enough of them."""
        tally(self._job).add(flows=flows.num_rows)
        yield from self._buffer.add(flows)


class _Meter(_HoldsFlowsBack):
    def process(self, task: ReadingTask | DigestTask | KeptReading) -> Iterator[Any]:
        if isinstance(task, DigestTask):
            yield beam.pvalue.TaggedOutput("findings", digest_capture(task))
            return
        for piece in self._pieces(task):
            if isinstance(piece, (GroupAccount, PacketCounts)):
                yield beam.pvalue.TaggedOutput("findings", piece)
            elif isinstance(piece, tuple):
                packets = isinstance(piece[1], RangePackets)
                yield beam.pvalue.TaggedOutput("packets" if packets else "fragments", piece)
            else:
                yield from self._held(piece)
        tally(self._job).add(captures=task.captures_done)

    def _pieces(self, task: ReadingTask | KeptReading) -> Iterator[Any]:
        if isinstance(task, KeptReading):
            return recall_reading(task, self._job)
        return meter_reading(task, self._definition, self._job, self._packet_view)


class _Join(_HoldsFlowsBack):
    def process(self, element: tuple[Partition, Iterable[RangeFragments]]) -> Iterator[Any]:
        for piece in join_partition(*element, self._definition, numbered=self._packet_view is not None):
            if isinstance(piece, GroupAccount):
                yield beam.pvalue.TaggedOutput("findings", piece)
            elif piece.schema == FLOWS:
                yield from self._held(piece)
            elif piece.num_rows:
                (group, _), (place,) = element[0], spill_batches([piece], self._job)
                yield beam.pvalue.TaggedOutput("packets", (group, RangePackets(_EVERYWHERE, (), (place,))))


_DIGEST_COST = 0.75
"""What digesting a byte costs of what metering one costs, measured with 400 bytes a packet."""


_TASK_COST = 1 << 20
"""What beginning a task costs, in bytes of metering."""


@dataclasses.dataclass
class PlanReadings(beam.PTransform):
    """From a pipeline to the tasks of a corpus: `plan_readings` of its groups, whose stretches all workers index.

    Args:
      lanes: how many workers the runner gives a fixed share of the elements each, whatever they cost; so the shares are
        made equal beforehand. None where it gives elements to whoever is idle.
      digests: whether captures whose digest is not known yet are digested; metering does not need it.
    """

    groups: Sequence[CaptureGroup]
    definition: FlowDefinition
    split_bytes: int
    lanes: int | None = None
    digests: bool = True

    def expand(self, root: Any) -> Any:
        """Return `ReadingTask`s, and a `DigestTask` for every capture whose digest is not known yet."""
        at_once: list[DigestTask | ReadingTask] = []
        costs: list[float] = []
        stretched: list[tuple[str, Stretch]] = []
        for group in self.groups:
            undigested = [capture for capture in group.captures if capture.sha256 is None and self.digests]
            at_once += [DigestTask(capture.uri) for capture in undigested]
            costs += [capture.size * _DIGEST_COST for capture in undigested]
            found = group_stretches(group, self.definition, self.split_bytes)
            stretched += [(group.group, stretch) for stretch in found]
            if not found:
                at_once += plan_readings(group, (), self.definition)
                costs.append(sum(capture.size for capture in group.captures) + _TASK_COST)
        costs += [stretch.end - stretch.begin + _TASK_COST for _, stretch in stretched]
        dealt = deal(costs, self.lanes or len(costs) or 1)
        tasks = root | "Tasks" >> beam.Create(list(zip(dealt, at_once, strict=False)), reshuffle=False)
        if stretched:
            lanes = {
                (stretch.uri, stretch.begin): lane
                for lane, (_, stretch) in zip(dealt[len(at_once) :], stretched, strict=True)
            }
            split = {group.group: group for group in self.groups if group.group in dict(stretched)}
            indexed = (
                root
                | "Stretches" >> beam.Create(stretched)
                | "Index" >> beam.MapTuple(lambda group, stretch: (group, index_stretch(stretch)))
                | "Gather" >> beam.GroupByKey()
                | "Plan" >> beam.FlatMap(_planned, split, self.definition, self.split_bytes, lanes)
            )
            tasks = (tasks, indexed) | beam.Flatten()
        return tasks | "Spread" >> beam.GroupByKey() | "Dealt" >> beam.FlatMapTuple(lambda _, tasks: tasks)


def _planned(
    element: tuple[str, Iterable[Stretch]],
    groups: Mapping[str, CaptureGroup],
    definition: FlowDefinition,
    split_bytes: int,
    lanes: Mapping[tuple[str, int], int],
) -> Iterator[tuple[int, ReadingTask]]:
    """Yield tasks with the lanes of the stretches that their ranges begin in."""
    name, indexed = element
    for task in plan_readings(groups[name], indexed, definition):
        first = task.ranges[0]
        yield lanes.get((first.uri, first.start // split_bytes * split_bytes), 0), task
