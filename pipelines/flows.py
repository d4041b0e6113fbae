"""`flowloom flows`: captures to one flow table, no labels and no Beam."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowloom.pipelines.whole_groups import tell_ended_early
from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import FLOWS, GROUP_DIGITS
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_output
from flowloom.schemas.parquet_files import parquet_writer
from flowloom.schemas.printable import printable
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.arrays.columns import filled
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    capture_fingerprint,
    capture_sha256,
    match_captures,
    name_fault,
)
from flowloom.transforms.captures.groups import origin_of
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.metering.group_reader import GroupReader, dropped_by_reason


@dataclasses.dataclass(frozen=True)
class FlowsOptions:
    """Options of `flowloom flows`.

    Attributes:
      captures: paths or globs; each file is a capture group of its own.
      output: the Parquet file to write; replaced if it exists.
      definition: what counts as one flow.
      limits: how many bytes a compressed capture may become.
      sha256: whether to read each capture again for the SHA-256 of its stored bytes.
    """

    captures: tuple[str, ...]
    output: Path
    definition: FlowDefinition = dataclasses.field(default_factory=FlowDefinition.of)
    limits: CaptureLimits = NO_LIMITS
    sha256: bool = False


@dataclasses.dataclass
class FlowsReport:
    """The accounting of a `flowloom flows` run, as `--json` prints it.

    Attributes:
      ended_early: number of flows that ended for lack of resources (`max_open_flows`).
    """

    captures: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    flows: int
    packets: int
    seconds: dict[str, float]
    ended_early: int = 0


def meter_captures(options: FlowsOptions, progress: Callable[[Progress], None] = ignore_progress) -> FlowsReport:
    """Meters captures into one Parquet file of `schemas.rows.FLOWS`.

    Raises:
      FlowloomError: if no capture could be read, the output's folder does not exist, or another process writes the
        output.
    """
    if not options.output.parent.is_dir():
        raise FlowloomError(
            f"the folder of the output must exist, got {options.output}; create {options.output.parent} first"
        )
    begun = time.perf_counter()
    report = FlowsReport([], [], 0, 0, dict.fromkeys(("read", "decode", "meter", "write"), 0.0))
    with locked_output(options.output), parquet_writer(options.output, FLOWS) as writer:
        files = itertools.count()
        for flows in filled(_all_metered(options, report, files, progress), TAKE_FLOWS):
            writing = time.perf_counter()
            writer.write(flows)
            report.seconds["write"] += time.perf_counter() - writing
            report.flows += flows.num_rows
        if not report.captures:
            raise FlowloomError("no capture could be read: " + "; ".join(_sentence(r) for r in report.rejects))
        closing = time.perf_counter()
    report.seconds["write"] += time.perf_counter() - closing
    report.seconds["total"] = time.perf_counter() - begun
    read = next(files)
    for reject in report.rejects:
        progress(Progress(_sentence(reject), read, read, stays=True, event="reject", facts=reject))
    tell_ended_early(report.ended_early, options.definition, progress)
    return report


def _all_metered(
    options: FlowsOptions, report: FlowsReport, files: Iterator[int], progress: Callable[[Progress], None]
) -> Iterator[pa.RecordBatch]:
    for uri in _files(options.captures, report):
        progress(Progress(f"metering {uri}", next(files), stays=True))
        yield from _metered(uri, options, report, progress)


def _files(patterns: tuple[str, ...], report: FlowsReport) -> Iterator[str]:
    """Yields the files of all patterns, each once; a pattern without any becomes a reject."""
    seen: set[str] = set()
    for pattern in patterns:
        files = match_captures(pattern)
        if not files:
            detail = "no such file, and no file matches it as a glob; check the path"
            report.rejects.append({"uri": pattern, "offset": 0, "reason": RejectReason.NO_MATCH, "detail": detail})
        for uri in files:
            if uri not in seen and (fault := name_fault(uri)):
                shown = printable(uri)
                report.rejects.append({"uri": shown, "offset": 0, "reason": RejectReason.UNREADABLE, "detail": fault})
            elif uri not in seen:
                yield uri
        seen.update(files)


def _metered(
    uri: str, options: FlowsOptions, report: FlowsReport, progress: Callable[[Progress], None]
) -> Iterator[pa.RecordBatch]:
    """Yields the flows of one capture and adds its accounting to the report."""
    begun = time.perf_counter()
    try:
        _, fingerprint = capture_fingerprint(uri)
        sha256 = {"sha256": capture_sha256(uri)} if options.sha256 else {}
    except CaptureError as damage:
        report.rejects.append({"uri": uri, "offset": 0, "reason": damage.reason, "detail": damage.detail})
        return
    report.seconds["read"] += time.perf_counter() - begun
    part = CaptureRange(uri, origin=origin_of(fingerprint), limits=options.limits)
    reading = GroupReader([part], fingerprint[:GROUP_DIGITS], options.definition)
    yield from reading.flows()
    for row in reading.captures().to_pylist():
        report.captures.append(
            {
                **{name: row[name] for name in ("uri", "digest")},
                **sha256,
                **{name: row[name] for name in ("records", "metered")},
                "dropped": dropped_by_reason(row),
                "rejects": row["rejects"],
            }
        )
        report.packets += row["metered"]
        facts = {name: row[name] for name in ("uri", "records", "metered", "rejects")}
        progress(Progress(f"metered {row['uri']}", event="capture", facts=facts))
    report.ended_early += reading.ended_early
    report.rejects += reading.rejects().to_pylist()
    for stage, seconds in dataclasses.asdict(reading.seconds).items():
        report.seconds[stage] += seconds


def _sentence(reject: dict[str, Any]) -> str:
    return f"{reject['uri']}: {reject['reason']} at byte {reject['offset']}: {reject['detail']}"
