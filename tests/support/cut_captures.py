"""Capture groups cut at any bytes, and metered by the pipeline's functions in the form of the reference meter."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
from reference_meter import Account, Metered

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures import records
from flowloom.transforms.captures.groups import Capture, CaptureGroup
from flowloom.transforms.captures.ranges import Stretch, index_stretch, stretches
from flowloom.transforms.metering.meter_ranges import join_partitions, meter_ranges
from flowloom.transforms.metering.open_flows import crowded_groups
from flowloom.transforms.metering.scheduling import MeterTask, plan_group

GROUP = "00c0ffee00c0ffee"


@dataclasses.dataclass
class Cut:
    """Places where the captures of a group are cut.

    Attributes:
      edges: for each file the bytes where ranges end; None for a file that is not indexed.
      chunk_records: records that are decoded at a time.
    """

    edges: Sequence[Sequence[int] | None]
    chunk_records: int = records.CHUNK_RECORDS


def tasks(uris: Sequence[str], definition: FlowDefinition, cut: Cut, *, alone: bool = False) -> list[MeterTask]:
    """Plans the tasks of a group as the pipeline does, from ranges that end at the cuts."""
    indexed, idle_ns = [], round(definition.idle_s * 1e9)
    for uri, edges in zip(uris, cut.edges, strict=True):
        if edges is not None and definition.associative:
            indexed += [index_stretch(stretch, idle_ns) for stretch in cut_stretches(uri, edges)]
    captures = tuple(
        Capture(uri, Path(uri).stat().st_size, f"{origin:016x}", "", None, ()) for origin, uri in enumerate(uris)
    )
    return list(plan_group(CaptureGroup(GROUP, captures), indexed, definition, alone=alone))


def cut_stretches(uri: str, edges: Sequence[int]) -> list[Stretch]:
    """Returns the stretches of a capture that end at some bytes."""
    size = Path(uri).stat().st_size
    template = stretches(uri, size // 2 + 1)
    if not template:
        return []
    preamble = template[-1].before
    edges = [0, *sorted({edge for edge in edges if 0 < edge < size}), size]
    return [
        Stretch(uri, begin, end, None if begin else 0, None, preamble if begin else b"", b"", 0, None, 0)
        for begin, end in itertools.pairwise(edges)
    ]


def metered(uris: Sequence[str], definition: FlowDefinition, cut: Cut) -> Metered:
    """Meters a group with the pipeline's functions, and returns it in the form of the reference meter."""
    found, crowded = metered_once(uris, definition, cut)
    if crowded:
        found, crowded = metered_once(uris, definition, cut, alone=True)
    assert not crowded
    return found


def metered_once(
    uris: Sequence[str], definition: FlowDefinition, cut: Cut, *, alone: bool = False
) -> tuple[Metered, list[str]]:
    """Meters a group as `metered` does; also returns its name if it must be metered in one piece."""
    planned = tasks(uris, definition, cut, alone=alone)
    with tempfile.TemporaryDirectory() as job, patched(records, CHUNK_RECORDS=cut.chunk_records):
        results = meter_ranges(planned, definition, job)
        joined = join_partitions(results.fragments, definition, numbered=False)
        accounts = [*results.accounts, *(each.account for each in joined)]
        flows = [*results.flows, *(each.flows for each in joined)]
        table = pa.Table.from_batches(flows, FLOWS).combine_chunks()
    table = table.set_column(2, "start", table["start"].cast(pa.int64()))
    ranges = [(row, each.rejects.to_pylist()) for each in results.accounts for row in each.captures.to_pylist()]
    short = sum(each.flows_short for each in accounts)
    found = Metered(table.to_pylist(), short, [merged(ranges, uri) for uri in uris])
    return found, crowded_groups(accounts, definition)


@contextlib.contextmanager
def patched(module: ModuleType, **values: Any) -> Iterator[None]:
    """Sets names of a module for a while."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def merged(accounts: Sequence[tuple[dict, list[dict]]], uri: str) -> Account:
    """Adds up the accounts of the ranges of one capture."""
    total = Account()
    for row, rejects in accounts:
        if row["uri"] != uri:
            continue
        total.records += row["records"]
        total.metered += row["metered"]
        total.metered_cut += row["metered_cut"]
        total.clock_jumps += row["clock_jumps"]
        total.steps_back += row["steps_back"]
        for reason in DropReason:
            if row[reason.column]:
                total.dropped[reason] = total.dropped.get(reason, 0) + row[reason.column]
        total.link_types.update(row["link_types"])
        times = [time for time in (total.first_ns, total.last_ns, row["first_ns"], row["last_ns"]) if time is not None]
        total.first_ns, total.last_ns = min(times, default=None), max(times, default=None)
        if row["rejects"]:
            (total.damage,) = ((reject["reason"], reject["offset"]) for reject in rejects if reject["uri"] == uri)
    return total


def assert_equal(found: Metered, expected: Metered) -> None:
    """Asserts that two meterings have the same flows and accounts."""
    assert in_order(found.flows) == in_order(expected.flows)
    assert found.flows_short == expected.flows_short
    assert found.captures == expected.captures


def in_order(flows: Sequence[dict[str, Any]]) -> list[tuple]:
    """Returns rows as tuples in sorted order."""
    return sorted(
        tuple(tuple(row[name]) if isinstance(row[name], list) else row[name] for name in FLOWS.names) for row in flows
    )
