"""Estimates of a build's time, memory and disk space, from rates measured on small builds."""

import dataclasses
from collections.abc import Sequence

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.groups import Capture, CaptureGroup
from flowloom.transforms.captures.ranges import stretches
from flowloom.transforms.io.spill import PENDING_BYTES
from flowloom.transforms.metering.scheduling import deal

SERIAL_SHARE = (0.10, 0.22, 0.35)
"""Serial share of a build: on several days two workers were 1.81 to 1.48 times as fast as one (docs/performance.md)."""
SHARD_ROW_BYTES = 100
"""Bytes that a worker holds of each row of the shard that it sorts (docs/data-contract.md)."""
_WORKER_BYTES = 2 * PENDING_BYTES
"""Bytes of flows and of shard rows that a worker holds before it spills them."""


@dataclasses.dataclass(frozen=True)
class Range:
    """A quantity between its lowest and its highest estimate."""

    low: float
    likely: float
    high: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """Costs of a build on one machine, per byte of captures as stored.

    Attributes:
      source: origin of the rates, as a phrase.
      startup_s: time until the first capture is read.
      cpu_s_per_byte: processor time of one worker.
      dataset_bytes: bytes of shards.
      spill_bytes: bytes of temporary files.
      peak_bytes: peak memory of a small build with one worker, not per byte.
    """

    source: str
    startup_s: float
    cpu_s_per_byte: Range
    packets_per_byte: float
    flows_per_byte: float
    dataset_bytes: float
    spill_bytes: float
    peak_bytes: float


STORED = Rates(
    source="stored: synthetic captures of 400 bytes a packet on 2 cores of a virtual machine (docs/performance.md)",
    startup_s=3.0,
    cpu_s_per_byte=Range(2.4e-9, 3.1e-9, 4.6e-9),
    packets_per_byte=2.5e-3,
    flows_per_byte=1.0e-4,
    dataset_bytes=0.010,
    spill_bytes=0.060,  # a flow of 10,000 bytes takes 150 bytes and 17 more for each of its 25 packets
    peak_bytes=5.0e8,
)


@dataclasses.dataclass(frozen=True)
class BuildEstimate:
    """Estimate of a build; see `estimate_build`."""

    workers: int
    captures: int
    bytes: int
    packets: int
    flows: int
    seconds: Range
    memory_bytes: Range
    dataset_bytes: Range
    temporary_bytes: Range
    parallel_pieces: int
    """Pieces that different workers can meter; more workers than these do not help."""
    rates: Rates
    bases: tuple[str, ...]


def work_pieces(groups: Sequence[CaptureGroup], definition: FlowDefinition, split_bytes: int) -> list[int]:
    """Returns the size of each piece of a capture that one worker reads alone, as `PlanMetering` makes them."""
    pieces = []
    for group in groups:
        if not definition.associative:
            pieces.append(sum(capture.size for capture in group.captures))
            continue
        for capture in group.captures:
            pieces += _split(capture, split_bytes)
    return pieces


def _split(capture: Capture, split_bytes: int) -> list[int]:
    if capture.size <= split_bytes:
        return [capture.size]
    try:
        found = stretches(capture.uri, split_bytes)
    except CaptureError:  # the capture can no longer be read; a build reports that
        return [capture.size]
    # a compressed capture is one stretch, whose end is unknown
    return [capture.size] if len(found) == 1 else [min(each.end, capture.size) - each.begin for each in found]


def estimate_build(
    pieces: Sequence[int], captures: int, rates: Rates, workers: int, cores: int, shards: int
) -> BuildEstimate:
    """Estimates a build of captures that are read in pieces.

    Metering takes as long as the worker with the most bytes needs; a share of the other work is serial. Workers beyond
    the cores of this machine are assumed to run on more machines of its kind.

    Args:
      pieces: bytes of each piece that one worker reads alone.
      shards: number of shards of one stripe and split.
    """
    size = sum(pieces)
    loads = [0] * workers
    for worker, bytes_ in zip(deal(pieces, workers), pieces, strict=True):
        loads[worker] += bytes_
    slowest = max(loads)

    def seconds(per_byte: float, serial: float) -> float:
        serial = serial if workers > 1 else 0.0
        return rates.startup_s + per_byte * (serial * size + (1 - serial) * slowest)

    cost = rates.cpu_s_per_byte
    here = min(workers, cores)
    flows = rates.flows_per_byte * size
    shard_rows = flows / max(shards, 1)
    further = (here - 1) * _WORKER_BYTES
    memory = rates.peak_bytes + further + here * shard_rows * SHARD_ROW_BYTES
    bases = [
        f"rates are {rates.source}",
        "time is processor time of the samples: reading is assumed to be as fast as processing",
        f"memory is a small build's peak, {_WORKER_BYTES >> 20} MiB for each further worker, and "
        f"{SHARD_ROW_BYTES} bytes for each row of a shard that is being sorted; between 0.7 and 1.6 times that",
    ]
    if workers > 1:
        low, _, high = SERIAL_SHARE
        bases.append(f"{low:.0%} to {high:.0%} of the work is assumed to be serial, as measured with two workers")
    if workers > cores:
        bases.append(
            f"modelled: this machine has {cores} cores; further workers are assumed to run on more machines of its kind"
        )
    if len(pieces) < workers:
        bases.append(f"only {len(pieces)} pieces can be read in parallel: a compressed capture is one piece")
    return BuildEstimate(
        workers=workers,
        captures=captures,
        bytes=size,
        packets=round(rates.packets_per_byte * size),
        flows=round(flows),
        seconds=Range(*map(seconds, (cost.low, cost.likely, cost.high), SERIAL_SHARE)),
        memory_bytes=Range(memory * 0.7, memory, memory * 1.6),
        dataset_bytes=_within(rates.dataset_bytes * size, 0.7, 1.4),
        temporary_bytes=_within(rates.spill_bytes * size, 0.7, 1.4),
        parallel_pieces=len(pieces),
        rates=rates,
        bases=tuple(bases),
    )


def _within(value: float, low: float, high: float) -> Range:
    return Range(low * value, value, high * value)
