"""`flowloom compare-definitions`: compares the flows of one capture under two flow definitions."""

import contextlib
import dataclasses
import functools
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa
from rich import box
from rich.table import Table

from flowloom.schemas.arrow.rows import FLOWS, GROUP_DIGITS
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.captures.capture_files import CaptureError, capture_fingerprint
from flowloom.transforms.captures.groups import origin_of
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.compare_definitions import EQUAL, Cause, compare_flows
from flowloom.transforms.io.ahead import Ahead
from flowloom.transforms.metering.group_reader import GroupReader


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of `flowloom compare-definitions`.

    Attributes:
      capture: path of one capture.
      a, b: the definitions to compare.
      examples: rows to show of each cause.
      workers: number of threads; each meters by one definition; None for all cores.
    """

    capture: str
    a: FlowDefinition
    b: FlowDefinition
    examples: int = 3
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if self.examples < 0:
            raise ValueError(f"examples must be >= 0, got {self.examples}")
        for definition in (self.a, self.b):
            if definition.decision != "flow":
                raise FlowloomError(f"flows can be compared, and {definition.preset} gives a row for each packet")


@dataclasses.dataclass(frozen=True)
class Difference:
    """The flows that differ by one cause.

    Attributes:
      cause: a `transforms.comparison.Cause`.
      only_a, only_b: flows whose beginning the other definition lacks, or leaves out as too short.
      both: flows that begin together and differ.
      examples: some of them: addresses, ports, protocol, start, and what each side has there (null = no flow).
    """

    cause: str
    only_a: int
    only_b: int
    both: int
    examples: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class CompareReport:
    """Comparison of two definitions on one capture; `flows[x] == equal + sum(only_x + both)` for x = a, b.

    Attributes:
      capture: the path.
      options: the fields of the definitions that differ, by name: [of a, of b].
      flows: how many each definition gives.
      equal: how many are equal in all but id and end reason.
      differences: by cause, the most frequent first.
    """

    capture: str
    options: dict[str, list[Any]]
    flows: dict[str, int]
    equal: int
    differences: list[Difference]


def compare_definitions(
    options: CompareOptions, progress: Callable[[Progress], None] = ignore_progress
) -> CompareReport:
    """Meters a capture by two definitions and compares their flows.

    Raises:
      FlowloomError: if the capture cannot be read.
    """
    tables = []
    definitions = (options.a, options.b)
    jobs = [
        functools.partial(_flows, options.capture, definition.model_copy(update={"min_packets": 1}))
        for definition in definitions
    ]
    with contextlib.closing(Ahead(jobs, options.workers or usable_cores(), 1)) as metered:
        for done, definition in enumerate(definitions):
            text = f"metering {options.capture} by {definition.preset}"
            progress(Progress(text, done, len(definitions), stays=True))
            table, unread = next(metered)
            tables.append(table)
    for sentence in unread:
        progress(Progress(sentence, len(definitions), len(definitions), stays=True))
    pairs = compare_flows(tables[0], tables[1], options.a, options.b)
    differing = pairs.filter(pl.col("cause") != EQUAL)
    differences = [_difference(Cause(cause), rows, options.examples) for (cause,), rows in differing.group_by("cause")]
    fields = [definition.model_dump(mode="json") for definition in definitions]
    return CompareReport(
        capture=options.capture,
        options={name: [one[name] for one in fields] for name in fields[0] if fields[0][name] != fields[1][name]},
        flows={side: int(pairs[f"in_{side}"].sum()) for side in "ab"},
        equal=pairs.height - differing.height,
        differences=sorted(differences, key=lambda one: (-(one.only_a + one.only_b + one.both), one.cause)),
    )


def comparison_table(report: CompareReport, a: str, b: str) -> Table:
    """Returns one row per cause, with an example below it; `a` and `b` are what to call the definitions."""
    title = (
        f"{report.capture}: {report.flows['a']:,} flows by {a}, {report.flows['b']:,} by {b}, {report.equal:,} equal"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("flows differ by")
    for name in (f"only {a}", f"only {b}", "both"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in report.differences:
        table.add_row(found.cause, *(f"{count:,}" for count in (found.only_a, found.only_b, found.both)))
        for row in found.examples:
            table.add_row(_ends(row), *(_side(row[side]) for side in "ab"), "", style="dim")
        table.add_section()
    return table


def _ends(row: dict[str, Any]) -> str:
    return f"  {row['src_ip']} {row['src_port']} > {row['dst_ip']} {row['dst_port']}, protocol {row['protocol']}"


def _side(shown: dict[str, Any] | None) -> str:
    return f"{shown['packets']:,} packets, {shown['duration_s']:.3f} s" if shown else "-"


def _flows(capture: str, definition: FlowDefinition) -> Iterator[tuple[pa.Table, list[str]]]:
    """Yields the flows, and sentences on what of the capture could not be read, once."""
    try:
        _, fingerprint = capture_fingerprint(capture)
    except CaptureError as damage:
        raise FlowloomError(f"{capture}: {damage.detail}") from None
    part = CaptureRange(capture, origin=origin_of(fingerprint))
    reading = GroupReader([part], fingerprint[:GROUP_DIGITS], definition)
    flows = pa.Table.from_batches(reading.flows(), FLOWS)
    unread = [f"{capture}: {reject['detail']}" for reject in reading.rejects().to_pylist()]
    if unread and not flows.num_rows:
        raise FlowloomError(unread[0])
    yield flows, unread


def _difference(cause: Cause, rows: pl.DataFrame, examples: int) -> Difference:
    in_a, in_b = rows["in_a"], rows["in_b"]
    chosen = rows.sort("start_ns", "low_ip", "low_port", "high_ip", "high_port").head(examples)
    return Difference(
        cause=cause.value,
        only_a=int((in_a & ~in_b).sum()),
        only_b=int((in_b & ~in_a).sum()),
        both=int((in_a & in_b).sum()),
        examples=[_example(row) for row in chosen.to_dicts()],
    )


def _example(row: dict[str, Any]) -> dict[str, Any]:
    sides = {}
    for side in "ab":
        sides[side] = row[f"in_{side}"] and {
            "packets": row[f"packets_{side}"],
            "duration_s": row[f"duration_ns_{side}"] / 1e9,
            "end_reason": EndReason(row[f"end_reason_{side}"]).name.lower().replace("_", "-"),
        }
    low_first = row["forward_is_low_a"] if row["in_a"] else row["forward_is_low_b"]
    src, dst = ("low", "high") if low_first else ("high", "low")
    return {
        "src_ip": _text(row[f"{src}_ip"]),
        "src_port": row[f"{src}_port"],
        "dst_ip": _text(row[f"{dst}_ip"]),
        "dst_port": row[f"{dst}_port"],
        "protocol": row["protocol"],
        "start_ns": row["start_ns"],
        **{side: shown or None for side, shown in sides.items()},
    }


def _text(address: bytes) -> str:
    six = ipaddress.IPv6Address(address)
    return str(six.ipv4_mapped or six)
