"""Reading a capture group: its files, one after the other, to flows, accounting and rejects."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.accounting import CAPTURES, DROPPED_COLUMNS, REJECTS, DropReason
from flowloom.schemas.definition import FlowDefinition
from flowloom.transforms.captures import CaptureBytes, CaptureError, capture_sha256
from flowloom.transforms.columns import batch
from flowloom.transforms.meter import TAKE_FLOWS, FlowMeter
from flowloom.transforms.packets import PacketDecoder
from flowloom.transforms.records import open_records


@dataclasses.dataclass
class StageSeconds:
    """Wall-clock seconds spent in each stage of reading."""

    read: float = 0.0
    decode: float = 0.0
    meter: float = 0.0


class GroupReading:
    """One capture group read from its files to its flows; damage ends a file, never the group.

    Args:
      uris: the group's captures in the order of their first packets.
      group: the group's content-based name, at least 16 hexadecimal digits.
      definition: what counts as one flow.
      sha256: digests that are already known, by uri.

    Attributes:
      seconds: time per stage so far.
    """

    def __init__(
        self, uris: Sequence[str], group: str, definition: FlowDefinition, *, sha256: Mapping[str, str] | None = None
    ):
        self.seconds = StageSeconds()
        self._uris = uris
        self._group = group
        self._definition = definition
        self._sha256 = sha256 or {}
        self._meter = FlowMeter(definition, group)
        self._captures: list[dict[str, object]] = []
        self._rejects: list[dict[str, object]] = []

    def flows(self) -> Iterator[pa.RecordBatch]:
        """Yield the group's flows as `schemas.rows.FLOWS` in batches of at most `TAKE_FLOWS`."""
        meter = self._meter
        for uri in self._uris:
            for packets in self.packets(uri):
                begun = time.perf_counter()
                meter.update(packets)
                self.seconds.meter += time.perf_counter() - begun
                while meter.finished >= TAKE_FLOWS:
                    yield self._take()
        meter.finish()
        while meter.finished:
            yield self._take()

    def packets(self, uri: str) -> Iterator[pa.RecordBatch]:
        """Yield one capture's packets as `schemas.rows.PACKETS`, and note where its records went."""
        decoder = PacketDecoder(join_fragments=self._definition.fragments == "join", tunnels=self._definition.tunnels)
        metered = 0
        first_ns: int | None = None
        last_ns: int | None = None
        link_types: set[int] = set()
        try:
            sha256 = self._sha256.get(uri) or capture_sha256(uri)
            capture = CaptureBytes(uri)
        except CaptureError as damage:
            self._reject(uri, damage)
            return
        scanner_format, damaged = "unknown", 0
        try:
            scanner = open_records(capture)
            scanner_format = scanner.format
            while True:
                begun = time.perf_counter()
                records = scanner.scan()
                self.seconds.read += time.perf_counter() - begun
                if not len(records):
                    break
                begun = time.perf_counter()
                earliest, latest = int(records.time_ns.min()), int(records.time_ns.max())
                first_ns = earliest if first_ns is None else min(first_ns, earliest)
                last_ns = latest if last_ns is None else max(last_ns, latest)
                link_types.update(np.unique(records.link_type).tolist())
                packets = decoder.decode(records)
                metered += packets.num_rows
                self.seconds.decode += time.perf_counter() - begun
                yield packets
        except CaptureError as damage:
            self._reject(uri, damage)
            damaged = 1
        finally:
            capture.close()
        self._captures.append(
            {
                "uri": uri,
                "sha256": sha256,
                "group": self._group,
                "bytes": capture.size,
                "format": scanner_format,
                "compression": capture.compression,
                "link_types": sorted(link_types),
                "records": decoder.records,
                "metered": metered,
                **{reason.column: int(decoder.dropped[reason]) for reason in DropReason},
                "rejects": damaged,
                "first_ns": first_ns,
                "last_ns": last_ns,
            }
        )

    def captures(self) -> pa.RecordBatch:
        """Return one row per capture that could be opened (`schemas.accounting.CAPTURES`)."""
        return batch(self._captures, CAPTURES)

    def rejects(self) -> pa.RecordBatch:
        """Return one row per place where reading stopped (`schemas.accounting.REJECTS`)."""
        return batch(self._rejects, REJECTS)

    @property
    def flows_short(self) -> int:
        """Flows left out because they had fewer packets than the definition's `min_packets`."""
        return self._meter.flows_short

    def _take(self) -> pa.RecordBatch:
        begun = time.perf_counter()
        flows = self._meter.take()
        self.seconds.meter += time.perf_counter() - begun
        return flows

    def _reject(self, uri: str, damage: CaptureError) -> None:
        self._rejects.append(
            {"uri": uri, "offset": damage.offset, "reason": str(damage.reason), "detail": damage.detail}
        )


def dropped_by_reason(capture: Mapping[str, int]) -> dict[str, int]:
    """Return the non-zero drop counts of a captures row by reason, as users read them."""
    return {
        reason.label: capture[column]
        for reason, column in zip(DropReason, DROPPED_COLUMNS, strict=True)
        if capture[column]
    }
