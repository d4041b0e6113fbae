"""Flows of captures in batches, one capture after another, with an account of everything that was read."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa
import pydantic

from flowloom.pipelines.flow_tables.capture_flows import (
    PLAIN,
    CaptureBegun,
    CaptureEnded,
    CaptureItem,
    CaptureJob,
    FlowColumns,
    reject_row,
)
from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS, RejectReason
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError, placed_message
from flowloom.schemas.printable import printable
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.arrays.columns import batch, recut
from flowloom.transforms.captures.capture_files import match_captures, name_fault
from flowloom.transforms.captures.capture_folders import folder_captures
from flowloom.transforms.flows.meter import TAKE_FLOWS
from flowloom.transforms.io.ahead import Ahead
from flowloom.transforms.io.streams import is_stream

_WAITING_BYTES = 1 << 26
"""Bytes of rows of the capture that is read, and of the later ones together, that wait to be read."""

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


class FlowScan(Iterator[pa.RecordBatch]):
    """Iterator over the flows of captures, which threads meter side by side.

    Rows come in the order of the captures, for any number of workers. In memory are the open flows of as many captures
    as there are workers, and a bounded number of bytes of rows that wait.

    Args:
      captures: paths, globs, folders or URLs; each file is a capture group of its own, and read once.
      definition: what counts as one flow.
      columns: the columns of the batches.
      batch_rows: rows of a batch, but for the last; those of streams come as soon as they are known.
      limits: how many bytes a compressed capture may become.
      sha256: whether to read each capture again for the SHA-256 of its stored bytes.
      progress: called before and after each capture.
      workers: number of threads; None for all usable cores. With one, or if a capture is a stream, all work is done by
        the caller's thread, when a batch is asked for.

    Attributes:
      captures: the account of each capture that was read so far, as rows of `schemas.accounting.CAPTURES`.
      rejects: the places that could not be read so far, as rows of `schemas.accounting.REJECTS`.
      ended_early: number of flows that ended for lack of resources.
      seconds: time spent in each stage, by all threads together.
      files: number of capture files that were begun.
    """

    def __init__(
        self,
        captures: Sequence[str],
        definition: FlowDefinition,
        columns: FlowColumns = PLAIN,
        batch_rows: int = TAKE_FLOWS,
        limits: CaptureLimits = NO_LIMITS,
        sha256: bool = False,
        progress: Callable[[Progress], None] = ignore_progress,
        workers: int | None = None,
    ):
        if batch_rows < 1:
            raise FlowloomError(f"batch_size must be at least 1, got {batch_rows}")
        if workers is not None and workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {workers}")
        if not captures:
            raise FlowloomError("captures must name at least 1 file, glob or folder, got none; name one")
        self.captures: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.ended_early = 0
        self.seconds = dict.fromkeys(("read", "decode", "meter"), 0.0)
        self.files = self._warned = 0
        self._closed = False
        self.schema = columns.schema
        self._patterns, self._definition, self._columns = captures, definition, columns
        self._limits, self._sha256, self._progress = limits, sha256, progress
        streams = any(map(is_stream, captures))
        self._workers = 1 if streams else workers or usable_cores()
        batches = self._all_flows()
        self._batches = batches if streams else recut(batches, batch_rows)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            flows = next(self._batches, None)
            if flows is None and not self.captures and not self._closed:
                raise FlowloomError("no capture could be read: " + "; ".join(map(reject_sentence, self.rejects)))
        finally:
            self._warn()
        if flows is None:
            raise StopIteration
        return flows

    def close(self) -> None:
        """Ends the threads of a scan that is not read to its end; no batch comes after this."""
        self._batches.close()
        self._closed = True

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

    def _all_flows(self) -> Generator[pa.RecordBatch]:
        with contextlib.closing(self._items()) as items:
            for item in items:
                if isinstance(item, pa.RecordBatch):
                    yield item
                elif isinstance(item, CaptureBegun):
                    self._progress(Progress(f"metering {item.uri}", self.files, stays=True))
                    self.files += 1
                elif isinstance(item, CaptureEnded):
                    self._add(item)
                else:
                    self._progress(Progress(item, self.files, stays=True))

    def _items(self) -> Generator[CaptureItem]:
        """Yields the items of all jobs in their order; they are made here, or by threads."""
        jobs = list(self._jobs())
        if self._workers == 1:
            for job in jobs:
                yield from job()
            return
        with contextlib.closing(Ahead(jobs, self._workers, _WAITING_BYTES)) as items:
            yield from items

    def _jobs(self) -> Iterator[Callable[[], Iterator[CaptureItem]]]:
        """Yields a job for each file of all patterns, once, and one for each finding about a pattern."""
        seen: set[str] = set()
        for pattern in self._patterns:
            uris, findings = _matched(pattern)
            for finding in findings:
                yield functools.partial(iter, (finding,))
            for uri in uris:
                if uri in seen:
                    continue
                seen.add(uri)
                if fault := name_fault(uri):
                    rejected = reject_row(printable(uri), RejectReason.UNREADABLE, fault)
                    yield functools.partial(iter, (CaptureEnded([], [rejected]),))
                else:
                    yield CaptureJob(
                        uri, self._definition, self._columns, self._limits, self._sha256, self._workers
                    )  # fmt: skip

    def _add(self, ended: CaptureEnded) -> None:
        """Adds the account of a capture, or of a name without one."""
        self.captures += ended.captures
        for row in ended.captures:
            facts = {name: row[name] for name in ("uri", "records", "metered", "rejects")}
            self._progress(Progress(f"metered {row['uri']}", event="capture", facts=facts))
        self.ended_early += ended.ended_early
        self.rejects += ended.rejects
        for stage, seconds in dataclasses.asdict(ended.seconds).items():
            self.seconds[stage] += seconds


def _matched(pattern: str) -> tuple[Sequence[str], list[CaptureItem]]:
    """Returns the files of a path, glob or folder, and rejects and sentences about what is none."""
    if is_stream(pattern):
        return [pattern], []
    if not os.path.isdir(pattern):
        files = match_captures(pattern)
        detail = "no such file, and no file matches it as a glob; check the path"
        rejected = [] if files else [reject_row(pattern, RejectReason.NO_MATCH, detail)]
        return files, [CaptureEnded([], rejected)]
    found = folder_captures(pattern)
    findings: list[CaptureItem] = [
        CaptureEnded([], [reject_row(uri, reason, detail) for uri, reason, detail in found.rejects(pattern)])
    ]
    if found.others:
        others = f"{len(found.others):,} files are no captures, such as {printable(found.others[0])}"
        findings.append(f"{pattern}: {others}")
    return found.captures, findings


def scan_flows(
    captures: Captures,
    definition: Definition = "default",
    *,
    k: int | None = None,
    batch_size: int = TAKE_FLOWS,
    text_addresses: bool = False,
    capture: bool = False,
    workers: int | None = None,
) -> FlowScan:
    """Returns an iterator over the flows of captures, as `flowloom flows` writes them, in batches.

    Memory holds the open flows of as many captures as there are workers, at most `max_open_flows` of the definition
    for each, and a bounded number of rows, however large the captures are. Nothing is read before the first batch is
    asked for.

    Args:
      captures: a file (pcap, pcapng or snoop, plain or in gz, zst, xz, bz2, lz4), a ZIP or tar of captures, a glob, a
        folder (every capture below it), a URL, a pipe, `-` for standard input, or a list of these. Each file is read
        alone and once. With a stream, a batch comes as soon as flows have ended.
      definition: a preset (`default`, `nfstream`, `multitask-cnn`, `datazoo-30`, `packet-windows`), a `FlowDefinition`,
        or its keys in a mapping.
      k: packets in a flow's sequences; None takes that of the definition.
      batch_size: rows of a batch, but for the last.
      text_addresses: whether `src_ip` and `dst_ip` are text rather than 16 bytes (IPv4 in its IPv4-mapped form).
      capture: whether to add the column `capture`, the path of a flow's file.
      workers: number of threads; None for all cores. The rows and their order are the same for any number. Streams are
        read by the caller's thread.

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
    return FlowScan(capture_names(captures), flow_definition(definition, k), columns, batch_size, workers=workers)


def read_flows(
    captures: Captures,
    definition: Definition = "default",
    *,
    k: int | None = None,
    text_addresses: bool = False,
    capture: bool = False,
    workers: int | None = None,
) -> pa.Table:
    """Returns the flows of captures as one Arrow table, as `flowloom flows` writes them.

    Args:
      captures, definition, k, text_addresses, capture, workers: as of `scan_flows`.

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
    scan = scan_flows(captures, definition, k=k, text_addresses=text_addresses, capture=capture, workers=workers)
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
