"""Schedules: divide capture groups into tasks for single workers, each a whole group or one range."""

import dataclasses
import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.capture_files import FileStamp
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import CaptureRange, Stretch, chain_stretches, index_stretch, stretches
from flowloom.transforms.flows.meter import WHOLE, RangePlace
from flowloom.transforms.packets.ip_fragments import LIFETIME_NS

_DIGEST_COST = 0.75
"""Cost of the SHA-256 of a byte relative to metering one, measured with 400 bytes a packet."""

_TASK_COST = 1 << 20
"""Cost of starting a task, in bytes of metering."""


@dataclasses.dataclass(frozen=True)
class MeterTask:
    """Arguments of one worker's `GroupReader`: consecutive ranges of a group that has `of` tasks.

    Attributes:
      digests: digests that are known before metering, by uri.
      earlier_clock_ns: latest time before the first of the `earlier` ranges; None if nothing lies before it.
    """

    group: str
    ranges: tuple[CaptureRange, ...]
    digests: dict[str, str]
    place: RangePlace
    earlier: tuple[CaptureRange, ...]
    of: int = 1
    earlier_clock_ns: int | None = None

    @property
    def captures_done(self) -> int:
        """Number of captures that end in the task."""
        return sum(part.stop is None for part in self.ranges)


@dataclasses.dataclass(frozen=True)
class Sha256Task:
    """Capture whose SHA-256 is wanted, with the stamp of its file."""

    uri: str
    stamp: FileStamp | None = None


@dataclasses.dataclass(frozen=True)
class WorkerShare:
    """Part of one worker's share of a job: captures to meter, and captures whose SHA-256 is wanted."""

    tasks: tuple[MeterTask, ...] = ()
    sha256_tasks: tuple[Sha256Task, ...] = ()


@dataclasses.dataclass(frozen=True)
class DraftPlan:
    """Tasks that are known before any capture is indexed, and the stretches to index.

    Attributes:
      stretches: (group, stretch) pairs for the groups that are split.
      costs: costs of SHA-256 tasks, other tasks and stretches, in this order, in bytes of metering.
    """

    sha256_tasks: tuple[Sha256Task, ...]
    tasks: tuple[MeterTask, ...]
    stretches: tuple[tuple[str, Stretch], ...]
    costs: tuple[float, ...]


def draft_metering(
    groups: Sequence[CaptureGroup],
    definition: FlowDefinition,
    split_bytes: int,
    whole: Collection[str] = (),
    *,
    sha256: bool = False,
) -> DraftPlan:
    """Returns the part of the plan that does not need the contents of the captures.

    Args:
      split_bytes: size of the stretches that a capture is split into.
      whole: names of groups that are metered in one piece.
      sha256: whether the SHA-256 of captures is wanted beside their digest.
    """
    unhashed = [capture for group in groups for capture in group.captures if sha256]
    tasks: list[MeterTask] = []
    sizes: list[int] = []
    stretched: list[tuple[str, Stretch]] = []
    for group in groups:
        found = [] if group.group in whole else group_stretches(group, definition, split_bytes)
        stretched += [(group.group, stretch) for stretch in found]
        if not found:
            tasks += plan_group(group, (), definition, alone=group.group in whole)
            sizes.append(sum(capture.size for capture in group.captures))
    sizes += [stretch.end - stretch.begin for _, stretch in stretched]
    costs = [capture.size * _DIGEST_COST for capture in unhashed] + [size + _TASK_COST for size in sizes]
    return DraftPlan(
        tuple(Sha256Task(capture.uri, capture.stamp) for capture in unhashed),
        tuple(tasks),
        tuple(stretched),
        tuple(costs),
    )


def plan_metering(
    groups: Sequence[CaptureGroup],
    definition: FlowDefinition,
    split_bytes: int,
    whole: Collection[str] = (),
    *,
    sha256: bool = False,
) -> tuple[list[MeterTask], list[Sha256Task]]:
    """Returns the tasks of groups, and the captures whose SHA-256 is wanted (arguments as of `draft_metering`)."""
    draft = draft_metering(groups, definition, split_bytes, whole, sha256=sha256)
    tasks = list(draft.tasks)
    indexed: dict[str, list[Stretch]] = {}
    for group, stretch in draft.stretches:
        indexed.setdefault(group, []).append(index_stretch(stretch, definition.idle_ns))
    for each in groups:
        if each.group in indexed:
            tasks += plan_group(each, indexed[each.group], definition)
    return tasks, list(draft.sha256_tasks)


def group_stretches(group: CaptureGroup, definition: FlowDefinition, split_bytes: int) -> list[Stretch]:
    """Returns the stretches of a group's captures that must be indexed before the group is split.

    There are none if one task reads the group: a single small capture, or fragments that cannot be joined.
    """
    if not definition.associative:
        return []
    if len(group.captures) == 1 and group.captures[0].size <= split_bytes:
        return []
    return [stretch for capture in group.captures for stretch in stretches(capture.uri, split_bytes)]


def plan_group(
    group: CaptureGroup, indexed: Iterable[Stretch], definition: FlowDefinition, *, alone: bool = False
) -> Iterator[MeterTask]:
    """Yields the tasks of a group: one for each range, or one if `alone` or if fragments cannot be joined.

    The latest time before a range is known, unless an earlier range is not indexed (a compressed capture).
    """
    by_uri: dict[str, list[Stretch]] = {}
    for stretch in indexed:
        by_uri.setdefault(stretch.uri, []).append(stretch)
    origins = group.origins
    ranges = [
        dataclasses.replace(part, origin=origins[capture.uri], stamp=capture.stamp, limits=capture.limits)
        for capture in group.captures
        for part in chain_stretches(capture.uri, by_uri.get(capture.uri, []), definition.idle_ns)
    ]
    digests = {capture.uri: capture.digest or "" for capture in group.captures}
    if alone or len(ranges) == 1 or not definition.associative:
        yield MeterTask(group.group, tuple(ranges), digests, WHOLE, ())
        return
    clocks = _clocks(ranges)
    for at, part in enumerate(ranges):
        place = RangePlace(at, at == len(ranges) - 1, clocks[at])
        digest = {part.uri: digests[part.uri]}
        first = first_within_lifetime(clocks[: at + 1])
        yield MeterTask(
            group.group, (part,), digest, place, tuple(ranges[first:at]), len(ranges), clocks[first]
        )  # fmt: skip


def _clocks(ranges: Sequence[CaptureRange]) -> list[int | None]:
    """Returns the latest time before each range, None if it is unknown or the range is the first."""
    clocks: list[int | None] = [None]
    for at, part in enumerate(ranges):
        before = clocks[-1]
        if part.clock_ns is None or (at > 0 and before is None):
            clocks.append(None)
        else:
            clocks.append(part.clock_ns if before is None else max(before, part.clock_ns))
    return clocks


def first_within_lifetime(clocks: Sequence[int | None]) -> int:
    """Returns the first range that may hold first IP fragments of datagrams that are still incomplete after the last.

    Args:
      clocks: the latest time before each range, and before the one that follows them.
    """
    now = clocks[-1]
    first = len(clocks) - 1
    while first > 0:
        reached = clocks[first]
        if now is not None and reached is not None and reached < now - LIFETIME_NS:
            break
        first -= 1
    return first


def deal(costs: Sequence[float], workers: int) -> list[int]:
    """Returns a worker's number for each cost: the largest cost first, each to the worker with the least load."""
    loads = [(0.0, worker) for worker in range(workers)]
    dealt = [0] * len(costs)
    for at in sorted(range(len(costs)), key=lambda at: (-costs[at], at)):
        load, dealt[at] = heapq.heappop(loads)
        heapq.heappush(loads, (load + costs[at], dealt[at]))
    return dealt
