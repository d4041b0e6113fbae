"""Results of metering other than rows: accounts of capture groups, digests of captures, spilled fragments."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from flowloom.schemas.arrow.accounting import CLOCK_COLUMNS, DROPPED_COLUMNS
from flowloom.transforms.captures.capture_digest import CaptureLeaves, join_leaves
from flowloom.transforms.io.spill import Spilled

Partition = tuple[str, int]
"""A group and the number of one of its partitions."""


@dataclasses.dataclass(frozen=True)
class GroupAccount:
    """Account of one group, or of a part of it.

    Attributes:
      flows: number of flows in the dataset.
      flows_short: number of flows below the definition's `min_packets`.
      captures: rows of the captures table, one for each range of a capture.
      rejects: rows of the rejects table.
      open_flows: by position of a range, flows that were open in it at once, at most: those that began in it, or those
        that earlier ranges left open. Empty for a group in one piece.
      ended_early: number of flows that ended for lack of resources.
      leaves: digests of the leaves of captures that several ranges read.
    """

    group: str
    flows: int
    flows_short: int
    captures: pa.RecordBatch
    rejects: pa.RecordBatch
    open_flows: Mapping[int, int] = dataclasses.field(default_factory=dict)
    ended_early: int = 0
    leaves: tuple[CaptureLeaves, ...] = ()


@dataclasses.dataclass(frozen=True)
class CaptureSha256:
    """SHA-256 of all bytes of a capture, in hexadecimal digits."""

    uri: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RangeFragments:
    """Spilled fragments of one range in one partition, None without any.

    Attributes:
      position: the range's position in its group.
      clock_ns: latest time in the range (see `FlowMeter.clock_ns`).
    """

    position: int
    clock_ns: int | None
    spilled: Spilled | None


def sum_captures(accounts: Iterable[GroupAccount]) -> list[dict[str, Any]]:
    """Returns one row of the captures table for each capture, whose ranges may be in several accounts.

    The digest is empty where a part of the capture was not read; `rejects` has those of one range, at most.
    """
    accounts = list(accounts)
    rows: dict[str, dict[str, Any]] = {}
    for row in (row for account in accounts for row in account.captures.to_pylist()):
        known = rows.setdefault(row["uri"], row)
        if known is not row:
            _add_range(known, row)
    sizes = {uri: row["bytes"] for uri, row in rows.items()}
    digests = join_leaves((leaves for account in accounts for leaves in account.leaves if leaves.uri in sizes), sizes)
    for uri, row in rows.items():
        row["digest"] = row["digest"] or digests.get(uri, "")
    return list(rows.values())


def _add_range(capture: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Adds the account of another range of a capture to its row."""
    for name in ("records", "metered", "metered_cut", *DROPPED_COLUMNS, *CLOCK_COLUMNS):
        capture[name] += part[name]
    capture["link_types"] = sorted({*capture["link_types"], *part["link_types"]})
    for name, choose in (("first_ns", min), ("last_ns", max)):
        times = [time for time in (capture[name], part[name]) if time is not None]
        capture[name] = choose(times, default=None)
