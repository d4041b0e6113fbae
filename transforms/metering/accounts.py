"""Results of metering other than rows: accounts of capture groups, digests of captures, places of fragments."""

import dataclasses

import pyarrow as pa

from flowloom.transforms.io.spill import Spilled

Partition = tuple[str, int]
"""A group and the number of one of its partitions."""


@dataclasses.dataclass(frozen=True)
class GroupAccount:
    """Account of one group, or of a part of it.

    Attributes:
      flows, flows_short: number of flows in the dataset, and of flows below the definition's `min_packets`.
      captures, rejects: rows of the tables of the same names; a capture has one row for each of its ranges.
    """

    group: str
    flows: int
    flows_short: int
    captures: pa.RecordBatch
    rejects: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class CaptureDigest:
    """SHA-256 of all bytes of a capture, in hexadecimal digits."""

    uri: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RangeFragments:
    """Fragments of one range in one partition, if it has any, and its latest time (see `FlowMeter.clock_ns`)."""

    position: int
    clock_ns: int | None
    spilled: Spilled | None
