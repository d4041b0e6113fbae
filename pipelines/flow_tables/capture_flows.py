"""Flows of one capture with its account: the job that threads run side by side for `flow_scan.FlowScan`."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.address_texts import text_address_schema, with_text_addresses
from flowloom.schemas.arrow.rows import FLOWS, GROUP_DIGITS
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.printable import printable
from flowloom.transforms.arrays.columns import behind, repeated_text
from flowloom.transforms.captures.capture_files import (
    CaptureError,
    capture_fingerprint,
    capture_sha256,
    open_stored,
    stamp_of,
    stream_fingerprint,
)
from flowloom.transforms.captures.groups import origin_of
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.io.streams import is_stream, open_stream
from flowloom.transforms.metering.group_reader import GroupReader, StageSeconds

CAPTURE = pa.field("capture", pa.string(), nullable=False)
"""Column with the path or URL of a flow's capture."""

_DECODED_BYTES = 1 << 24
"""Bytes of decoded packets that wait for the meter: about four chunks."""
_MOST_SHARDS = 4
"""Threads that meter one capture at most: more would wait for the ones that decode and write."""
_ONE_THREAD_BYTES = 1 << 22
"""Size of a capture up to which one thread decodes and meters it, because another would cost more than it helps."""


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


PLAIN = FlowColumns()
"""The columns of `schemas.rows.FLOWS` alone."""


@dataclasses.dataclass(frozen=True)
class CaptureBegun:
    """Begin of a capture, before its flows."""

    uri: str


@dataclasses.dataclass(frozen=True)
class CaptureEnded:
    """End of a capture, after its flows.

    Attributes:
      captures: its account as a row of `schemas.accounting.CAPTURES`; none if it could not be opened.
      rejects: the places that could not be read, as rows of `schemas.accounting.REJECTS`.
      ended_early: number of its flows that ended for lack of resources.
      seconds: time spent in each stage, by the threads of the capture together.
    """

    captures: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    ended_early: int = 0
    seconds: StageSeconds = dataclasses.field(default_factory=StageSeconds)


CaptureItem: TypeAlias = "pa.RecordBatch | CaptureBegun | CaptureEnded | str"
"""Item of a job: flows, begin or end of a capture, or a sentence for the user."""


@dataclasses.dataclass(frozen=True)
class CaptureJob:
    """Metering of one capture, which is a capture group of its own.

    Attributes:
      uri: a file, URL or stream.
      definition: what counts as one flow.
      columns: the columns of the batches.
      limits: how many bytes a compressed capture may become.
      sha256: whether to read it again for the SHA-256 of its stored bytes.
      workers: number of threads for a large capture, beside the one that writes.
    """

    uri: str
    definition: FlowDefinition
    columns: FlowColumns
    limits: CaptureLimits = NO_LIMITS
    sha256: bool = False
    workers: int = 1

    def __call__(self) -> Iterator[CaptureItem]:
        """Yields the begin of the capture, batches of its flows, and its end."""
        yield CaptureBegun(self.uri)
        begun = time.perf_counter()
        stream, sha256, stamp, size = None, None, None, 0
        try:
            if is_stream(self.uri):
                stream = open_stream(self.uri)
                fingerprint = stream_fingerprint(stream)
            else:
                with open_stored(self.uri) as file:
                    stamp = stamp_of(self.uri, file)
                    size, fingerprint = capture_fingerprint(self.uri, file)
                sha256 = capture_sha256(self.uri) if self.sha256 else None
        except CaptureError as damage:
            yield CaptureEnded([], [reject_row(self.uri, damage.reason, damage.detail, damage.offset)])
            return
        except OSError as error:
            detail = f"cannot read the stream: {error}; check its writer"
            yield CaptureEnded([], [reject_row(self.uri, RejectReason.UNREADABLE, detail)])
            return
        spent, given = time.perf_counter() - begun, 0
        with contextlib.closing(stream) if stream else contextlib.nullcontext():
            part = CaptureRange(self.uri, origin=origin_of(fingerprint), stamp=stamp, limits=self.limits, stream=stream)
            for reader in self._readers(part, fingerprint[:GROUP_DIGITS], size):
                for flows in behind(reader.flows(), given):
                    given += flows.num_rows
                    yield self.columns.table(flows, self.uri)
                if not reader.crowded:
                    break
        reader.seconds.read += spent
        captures = [{**row, "sha256": sha256} for row in reader.captures().to_pylist()]
        yield CaptureEnded(captures, reader.rejects().to_pylist(), reader.ended_early, reader.seconds)

    def _readers(self, part: CaptureRange, group: str, size: int) -> Iterator[GroupReader]:
        """Yields a reader, and another one for the case that the first gives up for `max_open_flows`."""
        large = self.workers > 1 and size > _ONE_THREAD_BYTES
        prompt, ahead_bytes = part.stream is not None, _DECODED_BYTES if large else None
        shards = min(self.workers - 1, _MOST_SHARDS) if large else 1
        if shards > 1:
            yield GroupReader([part], group, self.definition, prompt=prompt, ahead_bytes=ahead_bytes, shards=shards)
        yield GroupReader([part], group, self.definition, prompt=prompt, ahead_bytes=ahead_bytes)


def reject_row(uri: str, reason: RejectReason, detail: str, offset: int = 0) -> dict[str, Any]:
    """Returns a row of `schemas.accounting.REJECTS`."""
    return {"uri": os.fspath(uri), "offset": offset, "reason": reason, "detail": detail}
