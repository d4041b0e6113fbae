"""Quick sample of the flows of captures, within bounds of bytes and time, to estimate the flows of each class."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from flowloom.pipelines.draft.found_files import FoundCapture
from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.io.staging import temporary_folder
from flowloom.transforms.metering.group_reader import GroupReader

SAMPLE_S = 10.0
"""Seconds after which no other capture is read."""
SAMPLE_BYTES = 64 << 20
FIRST_BYTES = 4 << 20
"""Bytes that are read of one capture."""
KEPT = ("src_ip", "dst_ip", "src_port", "dst_port", "start")
"""Columns of flows that are kept, to compare clocks."""


@dataclasses.dataclass
class FlowSample:
    """Flows of some captures.

    Attributes:
      flows: number of flows by capture; of a capture that was read in part, scaled by its bytes.
      rows: the columns `KEPT` of the flows.
      records: number of records of each capture that was read in whole.
      sampled_bytes: bytes that were read.
      damaged: captures whose reading ended early, with the reasons.
    """

    flows: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: list[pa.Table] = dataclasses.field(default_factory=list)
    records: dict[str, int] = dataclasses.field(default_factory=dict)
    sampled_bytes: int = 0
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)

    def table(self) -> pa.Table:
        """Returns the kept columns of all flows."""
        schema = pa.schema([FLOWS.field(name) for name in KEPT])
        return pa.concat_tables([schema.empty_table(), *self.rows])


def sample_flows(
    folder: str,
    captures: Sequence[FoundCapture],
    labels: Mapping[str, Mapping[str, str]],
    limit_s: float = SAMPLE_S,
    limit_bytes: int = SAMPLE_BYTES,
) -> FlowSample:
    """Meters captures of each class in turn, smallest first, until a bound is reached.

    Args:
      labels: labels by path of capture.
      limit_s: seconds after which no other capture is read.
      limit_bytes: bytes after which no other capture is read.
    """
    found, begun = FlowSample(), time.monotonic()
    with temporary_folder(None, "flowloom-init") as scratch:
        for capture in _in_turn(captures, labels):
            if found.sampled_bytes >= limit_bytes or time.monotonic() - begun > limit_s:
                break
            if capture.size:
                _meter(folder, capture, found, scratch)
    return found


def estimate_flows(found: FlowSample, captures: Sequence[FoundCapture]) -> float | None:
    """Returns the number of flows of captures, estimated by those that were read; None if none was."""
    read = [capture for capture in captures if capture.path in found.flows]
    size = sum(capture.size for capture in read)
    if not size:
        return None
    return sum(found.flows[capture.path] for capture in read) * sum(capture.size for capture in captures) / size


def _in_turn(captures: Sequence[FoundCapture], labels: Mapping[str, Mapping[str, str]]) -> list[FoundCapture]:
    """Returns captures by their position among those with the same labels, in the order of their sizes."""
    ranks: dict[tuple[tuple[str, str], ...], int] = {}
    ranked = []
    for capture in sorted(captures, key=lambda each: (each.size, each.path)):
        kind = tuple(sorted(labels.get(capture.path, {}).items()))
        ranks[kind] = ranks.get(kind, 0) + 1
        ranked.append((ranks[kind], capture.path, capture))
    return [capture for *_, capture in sorted(ranked, key=lambda each: each[:2])]


def _meter(folder: str, capture: FoundCapture, found: FlowSample, scratch: str) -> None:
    """Adds the flows in the first bytes of a capture."""
    path, size = os.path.join(folder, capture.path), min(capture.size, FIRST_BYTES)
    if size < capture.size:
        with open(path, "rb") as source, open(f"{scratch}/part", "wb") as target:
            target.write(source.read(size))
        path = f"{scratch}/part"
    reader = GroupReader([CaptureRange(path)], f"{0:032x}", FlowDefinition())
    count = 0
    for flows in reader.flows():
        count += flows.num_rows
        found.rows.append(pa.Table.from_batches([flows.select(KEPT)]))
    rejects = reader.rejects().to_pylist()
    if rejects and size == capture.size:
        found.damaged[capture.path] = rejects[0]["detail"]
    elif size == capture.size:
        found.records[capture.path] = sum(reader.captures()["records"].to_pylist())
    found.flows[capture.path] = count * capture.size / size
    found.sampled_bytes += size
