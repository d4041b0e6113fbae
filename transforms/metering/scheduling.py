"""Readings: capture groups become pieces of work, one for each worker that reads: a whole group, or one range of it."""

import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Sequence

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.groups import CaptureGroup
from flowloom.transforms.captures.ranges import CaptureRange, Stretch, chain_stretches, stretches
from flowloom.transforms.flows.meter import WHOLE, RangePlace
from flowloom.transforms.packets.ip_fragments import LIFETIME_NS


@dataclasses.dataclass(frozen=True)
class ReadingTask:
    """Consecutive ranges of one group for one worker, one task `of` several; the arguments of a `GroupReading`."""

    group: str
    ranges: tuple[CaptureRange, ...]
    sha256: dict[str, str]
    place: RangePlace
    earlier: tuple[CaptureRange, ...]
    of: int = 1

    @property
    def captures_done(self) -> int:
        """Captures that end in it."""
        return sum(part.stop is None for part in self.ranges)


@dataclasses.dataclass(frozen=True)
class DigestTask:
    """A capture whose bytes are to be digested, side by side with the reading of others."""

    uri: str


def group_stretches(group: CaptureGroup, definition: FlowDefinition, split_bytes: int) -> list[Stretch]:
    """Return the stretches of a group's captures that have to be indexed before the group can be split.

    None for a group that is read in one piece: a single small capture, or a definition that cannot be joined.
    """
    if not definition.associative:
        return []
    if len(group.captures) == 1 and group.captures[0].size <= split_bytes:
        return []
    return [stretch for capture in group.captures for stretch in stretches(capture.uri, split_bytes)]


def plan_readings(group: CaptureGroup, indexed: Iterable[Stretch], definition: FlowDefinition) -> Iterator[ReadingTask]:
    """Yield the tasks of a group: one for each range, or a single one where the definition cannot be joined.

    A range knows the latest time before it, unless an earlier range has not been indexed (a compressed capture).
    """
    by_uri: dict[str, list[Stretch]] = {}
    for stretch in indexed:
        by_uri.setdefault(stretch.uri, []).append(stretch)
    ranges = [part for capture in group.captures for part in chain_stretches(capture.uri, by_uri.get(capture.uri, []))]
    sha256 = {capture.uri: capture.sha256 or "" for capture in group.captures}
    if len(ranges) == 1 or not definition.associative:
        yield ReadingTask(group.group, tuple(ranges), sha256, WHOLE, ())
        return
    clocks = _clocks(ranges)
    for at, part in enumerate(ranges):
        place = RangePlace(at, at == len(ranges) - 1, clocks[at])
        digest = {part.uri: sha256[part.uri]}
        yield ReadingTask(
            group.group, (part,), digest, place, _within_lifetime(ranges[:at], clocks[: at + 1]), len(ranges)
        )


def _clocks(ranges: Sequence[CaptureRange]) -> list[int | None]:
    """Return the latest time before each range, None where that is not known or nothing lies before."""
    clocks: list[int | None] = [None]
    for at, part in enumerate(ranges):
        before = clocks[-1]
        if part.clock_ns is None or (at > 0 and before is None):
            clocks.append(None)
        else:
            clocks.append(part.clock_ns if before is None else max(before, part.clock_ns))
    return clocks


def _within_lifetime(earlier: Sequence[CaptureRange], clocks: Sequence[int | None]) -> tuple[CaptureRange, ...]:
    """Return the ranges before a place that may hold first fragments which are still waited for there."""
    now = clocks[-1]
    first = len(earlier)
    while first > 0:
        reached = clocks[first]
        if now is not None and reached is not None and reached < now - LIFETIME_NS:
            break
        first -= 1
    return tuple(earlier[first:])


def deal(costs: Sequence[float], lanes: int) -> list[int]:
    """Return a lane for each cost so that all lanes bear about the same: the dearest first, to the least loaded."""
    loads = [(0.0, lane) for lane in range(lanes)]
    dealt = [0] * len(costs)
    for at in sorted(range(len(costs)), key=lambda at: (-costs[at], at)):
        load, dealt[at] = heapq.heappop(loads)
        heapq.heappush(loads, (load + costs[at], dealt[at]))
    return dealt
