"""Readings: capture groups become pieces of work, one for each worker that reads: a whole group, or one range of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from flowloom.schemas.definition import FlowDefinition
from flowloom.transforms.groups import CaptureGroup
from flowloom.transforms.ip_fragments import LIFETIME_NS
from flowloom.transforms.meter import WHOLE, RangePlace
from flowloom.transforms.ranges import CaptureRange, Stretch, chain_stretches, index_stretch, stretches


@dataclasses.dataclass(frozen=True)
class ReadingTask:
    """Consecutive ranges of one group for one worker; the arguments of a `GroupReading`."""

    group: str
    ranges: tuple[CaptureRange, ...]
    sha256: dict[str, str]
    place: RangePlace
    earlier: tuple[CaptureRange, ...]


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
        yield ReadingTask(group.group, (part,), digest, place, _within_lifetime(ranges[:at], clocks[: at + 1]))


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


@dataclasses.dataclass
class PlanReadings(beam.PTransform):
    """From a pipeline to the tasks of a corpus: `plan_readings` of its groups, whose stretches all workers index."""

    groups: Sequence[CaptureGroup]
    definition: FlowDefinition
    split_bytes: int

    def expand(self, root: Any) -> Any:
        """Return `ReadingTask`s, and a `DigestTask` for every capture whose digest is not known yet."""
        stretched = {group.group: group_stretches(group, self.definition, self.split_bytes) for group in self.groups}
        at_once: list[DigestTask | ReadingTask] = [
            DigestTask(capture.uri) for group in self.groups for capture in group.captures if capture.sha256 is None
        ]
        for group in self.groups:
            if not stretched[group.group]:
                at_once += plan_readings(group, (), self.definition)
        tasks = root | "Tasks" >> beam.Create(at_once)
        split = {group.group: group for group in self.groups if stretched[group.group]}
        if not split:
            return tasks
        indexed = (
            root
            | "Stretches" >> beam.Create([(name, stretch) for name in split for stretch in stretched[name]])
            | "Index" >> beam.MapTuple(lambda group, stretch: (group, index_stretch(stretch)))
            | "Gather" >> beam.GroupByKey()
            | "Plan" >> beam.FlatMap(_planned, split, self.definition)
        )
        return (tasks, indexed) | beam.Flatten() | "Spread" >> beam.Reshuffle()


def _planned(
    element: tuple[str, Iterable[Stretch]], groups: Mapping[str, CaptureGroup], definition: FlowDefinition
) -> Iterator[ReadingTask]:
    name, indexed = element
    return plan_readings(groups[name], indexed, definition)
