"""Findings: what was decided before a build started and what its workers hand over, in one place."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import PublishedAccount
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.layouts import LaidOut
from flowloom.transforms.dataset.shards import SpilledShard, WrittenShard, read_digests
from flowloom.transforms.labels.join_labels import Counts, SourceKey
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels, SourceCounts
from flowloom.transforms.metering.accounts import CaptureDigest, GroupAccount
from flowloom.transforms.metering.join_packets import PacketCounts
from flowloom.transforms.packets.byte_rows import no_drops
from flowloom.transforms.published.plan_published import PublishedFindings
from flowloom.transforms.splits.leakage import PartCounts
from flowloom.transforms.splits.splits import SplitPlan


@dataclasses.dataclass
class BuildResults:
    """What was decided before a build's workers started, and everything that they hand over.

    Attributes:
      digests: SHA-256 by uri of those captures whose account has none.
      rejects: reject rows from before and beside metering.
      unlabelled: flows that no task knows a label of.
      rows: rows that went into each stripe of each view and were not dropped as duplicates.
      sources: what each source of labels of single flows said, and those by path beside it.
      tasks: those of the manifest, measured ones with the dividers that were found; None where nothing was.
      fault: why tasks could not be divided.
      leakage: what was counted over parts of the flows, if leakage is measured.
    """

    labels: Sequence[GroupLabels]
    split_plan: SplitPlan
    accounts: list[GroupAccount] = dataclasses.field(default_factory=list)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    rejects: list[pa.RecordBatch] = dataclasses.field(default_factory=list)
    unlabelled: int = 0
    rows: collections.Counter[tuple[View, str]] = dataclasses.field(default_factory=collections.Counter)
    shards: list[WrittenShard] = dataclasses.field(default_factory=list)
    sources: dict[SourceKey, Counts] = dataclasses.field(default_factory=dict)
    duplicates: int = 0
    tasks: tuple[Task, ...] | None = None
    fault: str | None = None
    published: tuple[PublishedAccount, ...] = ()
    packet_rows: int = 0
    packets_dropped: np.ndarray = dataclasses.field(default_factory=no_drops)
    leakage: list[PartCounts] = dataclasses.field(default_factory=list)

    def add_sources(self, said: Mapping[SourceKey, Counts]) -> None:
        """Count more of what sources said."""
        self.sources = sum_by_key([self.sources, said])

    def published_rows(self, view: View) -> int:
        """Return how many rows of a view are out of published files."""
        return sum(entry.rows for entry in self.published if entry.view == view)


Finding: TypeAlias = (
    GroupAccount
    | CaptureDigest
    | SourceCounts
    | SplitPlan
    | LabelBins
    | LaidOut
    | SpilledShard
    | PacketCounts
    | PublishedFindings
    | PartCounts
    | pa.RecordBatch
)
"""What a worker hands over; a batch is one of reject rows."""


def gather(labels: Sequence[GroupLabels], split_plan: SplitPlan, handed_over: Iterable[Finding]) -> BuildResults:
    """Put together what was decided before the workers started and what they hand over, in any order."""
    findings = BuildResults(labels, split_plan)
    for found in handed_over:
        match found:
            case GroupAccount():
                findings.accounts.append(found)
            case CaptureDigest():
                findings.digests[found.uri] = found.sha256
            case SourceCounts():
                findings.add_sources(found.said)
            case PacketCounts():
                findings.packet_rows += found.rows
                findings.packets_dropped = findings.packets_dropped + np.array(found.dropped)
            case PublishedFindings():
                findings.published = found.accounts
                findings.add_sources(found.sources)
                findings.rejects.append(found.rejects)
            case PartCounts():
                findings.leakage.append(found)
            case SplitPlan():
                findings.split_plan = found
            case LabelBins():
                findings.tasks, findings.fault = found.tasks, found.fault
            case LaidOut():
                findings.rows.update({(found.view, stripe): rows for stripe, rows in found.rows.items()})
                findings.unlabelled += found.unlabelled if found.view == "flows" else 0
                findings.duplicates += found.duplicates
            case SpilledShard():
                findings.shards.append(read_digests(found))
            case _:
                findings.rejects.append(found)
    return findings
