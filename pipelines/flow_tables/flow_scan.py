"""Flows of captures in batches, one capture after another, with an account of everything that was read."""

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS, RejectReason
from flowloom.schemas.arrow.address_texts import text_address_schema, with_text_addresses
from flowloom.schemas.arrow.rows import FLOWS, GROUP_DIGITS
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError, placed_message
from flowloom.schemas.printable import printable
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.arrays.columns import batch, filled, repeated_text
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    capture_fingerprint,
    capture_sha256,
    match_captures,
    name_fault,
    stream_fingerprint,
)
from flowloom.transforms.captures.capture_folders import folder_captures
from flowloom.transforms.captures.groups import origin_of
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.io.streams import is_stream, open_stream
from flowloom.transforms.metering.group_reader import GroupReader

CAPTURE = pa.field("capture", pa.string(), nullable=False)
"""Column with the path or URL of a flow's capture."""

Captures = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One capture, glob, folder or URL, or several."""
Definition = str | FlowDefinition | Mapping[str, Any]
"""Name of a preset, a flow definition, or the keys of one."""


class RejectWarning(UserWarning):
    """Warning that a capture, or a part of it, could not be read; the flows before that place were.

    Example:

    >>> import warnings
    >>> import flowloom as fl
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", fl.RejectWarning)  # stop at the first place
    ...     flows = fl.read_flows("captures/web/nginx/plain-01.pcap.zst")
    """


@dataclasses.dataclass(frozen=True)
class FlowColumns:
    """Columns of a table of flows beyond `schemas.rows.FLOWS`.

    Attributes:
      text_addresses: whether addresses are text (`192.0.2.1`) rather than 16 bytes.
      capture: whether the last column, `capture`, is the path of the flow's capture.
    """

    text_addresses: bool = False
    capture: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The schema of the table."""
        schema = text_address_schema(FLOWS) if self.text_addresses else FLOWS
        return schema.append(CAPTURE) if self.capture else schema

    def table(self, flows: pa.RecordBatch, uri: str) -> pa.RecordBatch:
        """Returns flows of one capture with these columns."""
        rows = with_text_addresses(flows) if self.text_addresses else flows
        if not self.capture:
            return rows
        columns = [*rows.columns, repeated_text(printable(uri), rows.num_rows)]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


class FlowScan(Iterator[pa.RecordBatch]):
    """Iterator over the flows of captures; only the open flows of one capture and one batch are in memory.

    Args:
      captures: paths, globs, folders or URLs; each file is a capture group of its own, and read once.
      definition: what counts as one flow.
      columns: the columns of the batches.
      batch_rows: rows of a batch at least, but for the last.
      limits: how many bytes a compressed capture may become.
      sha256: whether to read each capture again for the SHA-256 of its stored bytes.
      progress: called before and after each capture.

    Attributes:
      captures: the account of each capture that was read so far, as rows of `schemas.accounting.CAPTURES`.
      rejects: the places that could not be read so far, as rows of `schemas.accounting.REJECTS`.
      ended_early: number of flows that ended for lack of resources.
      seconds: time spent in each stage.
      files: number of capture files that were begun.
    """

    def __init__(
        self,
        captures: Sequence[str],
        definition: FlowDefinition,
        columns: FlowColumns = FlowColumns(),
        batch_rows: int = TAKE_FLOWS,
        limits: CaptureLimits = NO_LIMITS,
        sha256: bool = False,
        progress: Callable[[Progress], None] = ignore_progress,
    ):
        if batch_rows < 1:
            raise FlowloomError(f"batch_size must be at least 1, got {batch_rows}")
        if not captures:
            raise FlowloomError("captures must name at least 1 file, glob or folder, got none; name one")
        self.captures: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.ended_early = 0
        self.seconds = dict.fromkeys(("read", "decode", "meter"), 0.0)
        self.files = self._warned = 0
        self.schema = columns.schema
        self._patterns, self._definition, self._columns = captures, definition, columns
        self._limits, self._sha256, self._progress = limits, sha256, progress
        self._batches = filled(self._all_flows(), 1 if any(map(is_stream, captures)) else batch_rows)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            flows = next(self._batches, None)
            if flows is None and not self.captures:
                raise FlowloomError("no capture could be read: " + "; ".join(map(reject_sentence, self.rejects)))
        finally:
            self._warn()
        if flows is None:
            raise StopIteration
        return flows

    @property
    def packets(self) -> int:
        """Number of metered packets so far."""
        return sum(capture["metered"] for capture in self.captures)

    def captures_batch(self) -> pa.RecordBatch:
        """Returns the account of each capture that was read so far (`schemas.accounting.CAPTURES`)."""
        return batch(self.captures, CAPTURES)

    def rejects_batch(self) -> pa.RecordBatch:
        """Returns the places that could not be read so far (`schemas.accounting.REJECTS`)."""
        return batch(self.rejects, REJECTS)

    def _warn(self) -> None:
        """Warns of each reject once a capture was read, unless a function for progress gets them."""
        if self._progress is ignore_progress and self.captures:
            while self._warned < len(self.rejects):
                self._warned += 1
                warnings.warn(reject_sentence(self.rejects[self._warned - 1]), RejectWarning, stacklevel=3)

    def _all_flows(self) -> Iterator[pa.RecordBatch]:
        for uri in self._uris():
            self._progress(Progress(f"metering {uri}", self.files, stays=True))
            self.files += 1
            for flows in self._flows(uri):
                yield self._columns.table(flows, uri)

    def _uris(self) -> Iterator[str]:
        """Yields the files of all patterns, each once; a pattern without any becomes a reject."""
        seen: set[str] = set()
        for pattern in self._patterns:
            for uri in self._matched(pattern):
                if uri not in seen and (fault := name_fault(uri)):
                    self._reject(printable(uri), RejectReason.UNREADABLE, fault)
                elif uri not in seen:
                    yield uri
                seen.add(uri)

    def _matched(self, pattern: str) -> Sequence[str]:
        if is_stream(pattern):
            return [pattern]
        if not os.path.isdir(pattern):
            files = match_captures(pattern)
            if not files:
                detail = "no such file, and no file matches it as a glob; check the path"
                self._reject(pattern, RejectReason.NO_MATCH, detail)
            return files
        found = folder_captures(pattern)
        for uri, reason, detail in found.rejects(pattern):
            self._reject(uri, reason, detail)
        if found.others:
            text = f"{pattern}: {len(found.others):,} files are no captures, such as {printable(found.others[0])}"
            self._progress(Progress(text, self.files, stays=True))
        return found.captures

    def _flows(self, uri: str) -> Iterator[pa.RecordBatch]:
        """Yields the flows of one capture, and adds its account."""
        begun = time.perf_counter()
        stream, sha256 = None, None
        try:
            if is_stream(uri):
                stream = open_stream(uri)
                fingerprint = stream_fingerprint(stream)
            else:
                _, fingerprint = capture_fingerprint(uri)
                sha256 = capture_sha256(uri) if self._sha256 else None
        except CaptureError as damage:
            self._reject(uri, damage.reason, damage.detail, damage.offset)
            return
        except OSError as error:
            self._reject(uri, RejectReason.UNREADABLE, f"cannot read the stream: {error}; check its writer")
            return
        self.seconds["read"] += time.perf_counter() - begun
        with contextlib.closing(stream) if stream else contextlib.nullcontext():
            part = CaptureRange(uri, origin=origin_of(fingerprint), limits=self._limits, stream=stream)
            reading = GroupReader([part], fingerprint[:GROUP_DIGITS], self._definition, prompt=stream is not None)
            yield from reading.flows()
        rows = [{**row, "sha256": sha256} for row in reading.captures().to_pylist()]
        self.captures += rows
        for row in rows:
            facts = {name: row[name] for name in ("uri", "records", "metered", "rejects")}
            self._progress(Progress(f"metered {row['uri']}", event="capture", facts=facts))
        self.ended_early += reading.ended_early
        self.rejects += reading.rejects().to_pylist()
        for stage, seconds in dataclasses.asdict(reading.seconds).items():
            self.seconds[stage] += seconds

    def _reject(self, uri: str, reason: RejectReason, detail: str, offset: int = 0) -> None:
        self.rejects.append({"uri": uri, "offset": offset, "reason": reason, "detail": detail})


def scan_flows(
    captures: Captures,
    definition: Definition = "default",
    *,
    k: int | None = None,
    batch_size: int = TAKE_FLOWS,
    text_addresses: bool = False,
    capture: bool = False,
) -> FlowScan:
    """Returns an iterator over the flows of captures, as `flowloom flows` writes them, in batches.

    Memory holds the open flows of one capture, at most `max_open_flows` of the definition, and one batch, however
    large the captures are. Nothing is read before the first batch is asked for.

    Args:
      captures: a file (pcap, pcapng or snoop, plain or in gz, zst, xz, bz2, lz4), a ZIP or tar of captures, a glob, a
        folder (every capture below it), a URL, a pipe, `-` for standard input, or a list of these. Each file is read
        alone and once. With a stream, a batch comes as soon as flows have ended.
      definition: a preset (`default`, `nfstream`, `multitask-cnn`, `datazoo-30`, `packet-windows`), a `FlowDefinition`,
        or its keys in a mapping.
      k: packets in a flow's sequences; None takes that of the definition.
      batch_size: rows of a batch at least, but for the last.
      text_addresses: whether `src_ip` and `dst_ip` are text rather than 16 bytes (IPv4 in its IPv4-mapped form).
      capture: whether to add the column `capture`, the path of a flow's file.

    Returns:
      An iterator of `pa.RecordBatch`; its columns are those of `flowloom flows` (docs/flow-definitions.md): times in
      ns, sizes in bytes, sequences as lists over the first k packets. Its attributes `captures` and `rejects` say what
      was read, and what could not be. A place that cannot be read also gives a `RejectWarning`.

    Raises:
      FlowloomError: at once if an argument is invalid; at the end if no capture could be read.

    Example:

    >>> import flowloom as fl
    >>> scan = fl.scan_flows("captures/web/nginx/plain-*", definition="nfstream", k=20)
    >>> sum(batch.num_rows for batch in scan) > 50
    True
    >>> len(scan.captures), scan.rejects
    (6, [])
    """
    columns = FlowColumns(text_addresses, capture)
    return FlowScan(capture_names(captures), flow_definition(definition, k), columns, batch_size)


def read_flows(
    captures: Captures,
    definition: Definition = "default",
    *,
    k: int | None = None,
    text_addresses: bool = False,
    capture: bool = False,
) -> pa.Table:
    """Returns the flows of captures as one Arrow table, as `flowloom flows` writes them.

    Args:
      captures, definition, k, text_addresses, capture: as of `scan_flows`.

    Returns:
      A table for `polars.from_arrow`, `.to_pandas()` or `fl.load_model(...).score`.

    Raises:
      FlowloomError: if an argument is invalid or no capture could be read. A place that cannot be read in one of
        several captures gives a `RejectWarning`.

    Example:

    >>> import flowloom as fl
    >>> flows = fl.read_flows("captures/web/nginx/plain-01.pcap.zst", text_addresses=True)
    >>> flows.num_rows
    16
    >>> flows["dst_port"][0].as_py() in (80, 443)
    True
    """
    scan = scan_flows(captures, definition, k=k, text_addresses=text_addresses, capture=capture)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RejectWarning)
        batches = list(scan)
    for each in caught:
        warnings.warn(each.message, each.category, stacklevel=2)
    return pa.Table.from_batches(batches, scan.schema)


def capture_names(captures: Captures) -> tuple[str, ...]:
    """Returns one or several captures as texts."""
    several = [captures] if isinstance(captures, str | os.PathLike) else captures
    return tuple(os.fspath(each) for each in several)


def flow_definition(definition: Definition, k: int | None = None) -> FlowDefinition:
    """Returns a flow definition by its preset or its keys, with another number of packets if `k` is not None.

    Raises:
      FlowloomError: if the preset or a key is unknown, or a value is out of range.
    """
    if isinstance(definition, FlowDefinition):
        keys = definition.model_dump()
    else:
        keys = {"preset": definition} if isinstance(definition, str) else dict(definition)
    overrides = {name: value for name, value in keys.items() if name != "preset"} | ({} if k is None else {"k": k})
    try:
        return FlowDefinition.of(keys.get("preset", "default"), **overrides)
    except pydantic.ValidationError as error:
        places = [(".".join(("definition", *map(str, each["loc"]))), each) for each in error.errors()]
        raise FlowloomError("; ".join(placed_message(place, each) for place, each in places)) from None


def reject_sentence(reject: Mapping[str, Any]) -> str:
    """Returns a row of the rejects table as a sentence."""
    return f"{reject['uri']}: {reject['reason']} at byte {reject['offset']}: {reject['detail']}"
