"""`flowloom flows`: captures to one flow table, no labels and no Beam."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.pipelines.flow_tables.capture_flows import FlowColumns
from flowloom.pipelines.flow_tables.flow_scan import FlowScan, reject_sentence
from flowloom.pipelines.flow_tables.table_writers import TEXT_FORMATS, format_of, written_tables
from flowloom.pipelines.whole_groups import tell_ended_early
from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, DropReason
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.dataset.dataset_findings import disorder_sentences
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.metering.group_reader import dropped_by_reason


@dataclasses.dataclass(frozen=True)
class FlowsOptions:
    """Options of `flowloom flows`.

    Attributes:
      captures: paths, globs, folders or `-` for standard input; each file is a capture group of its own.
      output: the file to write, in the format of its suffix; replaced if it exists. `-` for lines of JSON on stdout.
      definition: what counts as one flow.
      limits: how many bytes a compressed capture may become.
      sha256: whether to read each capture again for the SHA-256 of its stored bytes.
      text_addresses: whether addresses are text; None for text in CSV and JSON lines alone.
      capture_column: whether to add a column with the path of the capture.
      captures_table: file for the account of each capture; None for none.
      workers: number of threads that read, decode and meter, beside the one that writes; None for all cores.
    """

    captures: tuple[str, ...]
    output: Path
    definition: FlowDefinition = dataclasses.field(default_factory=FlowDefinition.of)
    limits: CaptureLimits = NO_LIMITS
    sha256: bool = False
    text_addresses: bool | None = None
    capture_column: bool = False
    captures_table: Path | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for path in (self.output, self.captures_table):
            if path is not None:
                format_of(path)
        if self.captures_table is not None and self.captures_table.absolute() == self.output.absolute():
            raise FlowloomError(f"flows and captures must go to two files, got {self.output} for both; name another")

    @property
    def columns(self) -> FlowColumns:
        """The columns of the flow table."""
        text = format_of(self.output) in TEXT_FORMATS if self.text_addresses is None else self.text_addresses
        return FlowColumns(text, self.capture_column)


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
    """Meters captures into one file of flows, and on request their accounts into another.

    Raises:
      FlowloomError: if no capture could be read, a folder of an output does not exist, or another process writes an
        output.
    """
    begun = time.perf_counter()
    scan = FlowScan(
        options.captures, options.definition, options.columns, limits=options.limits, sha256=options.sha256,
        progress=progress, workers=options.workers,
    )  # fmt: skip
    schemas = {options.output: scan.schema}
    if options.captures_table is not None:
        schemas[options.captures_table] = CAPTURES
    rows, writing = 0, 0.0
    with written_tables(schemas) as (write_flows, *write_captures):
        for flows in scan:
            since = time.perf_counter()
            write_flows(flows)
            writing += time.perf_counter() - since
            rows += flows.num_rows
        for write in write_captures:
            write(scan.captures_batch())
        closing = time.perf_counter()
    now = time.perf_counter()
    seconds = {**scan.seconds, "write": writing + now - closing, "total": now - begun}
    accounts = [
        {
            **{name: row[name] for name in ("uri", "digest")},
            **({"sha256": row["sha256"]} if options.sha256 else {}),
            **{name: row[name] for name in ("records", "metered")},
            "dropped": dropped_by_reason(row),
            "rejects": row["rejects"],
        }
        for row in scan.captures
    ]
    report = FlowsReport(accounts, scan.rejects, rows, scan.packets, seconds, scan.ended_early)
    for reject in report.rejects:
        progress(
            Progress(reject_sentence(reject), scan.files, scan.files, stays=True, event="reject", facts=reject)
        )  # fmt: skip
    _tell_dropped(scan.captures, scan.files, progress)
    jumps, back = (sum(row[name] for row in scan.captures) for name in CLOCK_COLUMNS)
    for sentence in disorder_sentences(jumps, back, options.definition.idle_s):
        progress(Progress(f"warning: {sentence}", scan.files, scan.files, stays=True, event="warning"))
    tell_ended_early(report.ended_early, options.definition, progress)
    return report


def _tell_dropped(captures: Sequence[Mapping[str, Any]], files: int, progress: Callable[[Progress], None]) -> None:
    """Reports the dropped records by reason, and the packets whose header is cut off, if there are any."""
    dropped: collections.Counter[str] = collections.Counter()
    unread: set[int] = set()
    for row in captures:
        reasons = dropped_by_reason(row)
        dropped.update(reasons)
        if DropReason.UNSUPPORTED_LINKTYPE.label in reasons:
            unread.update(row["link_types"])
    if dropped:
        records = sum(row["records"] for row in captures)
        told = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
        text = f"dropped {sum(dropped.values()):,} of {records:,} records: {told}"
        if unread:
            text += f"; the link types of these captures are {', '.join(map(str, sorted(unread)))}"
        progress(Progress(text, files, files, stays=True, event="line", facts={"dropped": dict(dropped)}))
    if cut := sum(row["metered_cut"] for row in captures):
        text = f"{cut:,} packets are cut off behind their ports: what is missing of their TCP fields counts as 0"
        progress(Progress(text, files, files, stays=True, event="line", facts={"metered_cut": cut}))
