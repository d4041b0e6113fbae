"""Results of a build: plans and counts of all steps, gathered for the card."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import PublishedAccount
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.layouts import LaidOut
from flowloom.transforms.dataset.shards import SpilledShard, WrittenShard, read_digests
from flowloom.transforms.labels.join_labels import Counts, SourceKey
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels, SourceCounts
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount
from flowloom.transforms.metering.join_packets import PacketCounts
from flowloom.transforms.packets.byte_rows import no_drops
from flowloom.transforms.published.plan_published import PublishedFindings
from flowloom.transforms.splits.leakage import PartCounts
from flowloom.transforms.splits.splits import SplitPlan


@dataclasses.dataclass
class BuildResults:
    """Results of a build: plans from before its workers started, and the counts of all workers.

    Attributes:
      tasks: tasks of the manifest, measured ones with their label bins.
      fault: the reason why a measured task has no label bins; None if all have them.
      accounts: accounts of capture groups.
      sha256: the SHA-256 of captures by uri, where it was asked for.
      rejects: reject rows in addition to those of the accounts.
      read: number of flows that were laid out.
      unlabelled: number of flows without a label of any task.
      rows: number of rows by view and stripe, without dropped duplicates.
      sources: counts of the label sources of single flows.
      hits: paths of the hits on the rows of each label table, by the path of its index.
      leakage: counts of the parts of sightings, if leakage is measured.
    """

    labels: Sequence[GroupLabels]
    split_plan: SplitPlan
    tasks: tuple[Task, ...]
    fault: str | None = None
    published: tuple[PublishedAccount, ...] = ()
    accounts: list[GroupAccount] = dataclasses.field(default_factory=list)
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    rejects: list[pa.RecordBatch] = dataclasses.field(default_factory=list)
    read: int = 0
    unlabelled: int = 0
    rows: collections.Counter[tuple[View, str]] = dataclasses.field(default_factory=collections.Counter)
    shards: list[WrittenShard] = dataclasses.field(default_factory=list)
    sources: dict[SourceKey, Counts] = dataclasses.field(default_factory=dict)
    hits: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    duplicates: int = 0
    packet_rows: int = 0
    packets_dropped: np.ndarray = dataclasses.field(default_factory=no_drops)
    leakage: list[PartCounts] = dataclasses.field(default_factory=list)

    def published_rows(self, view: View) -> int:
        """Returns the number of rows of a view from published files."""
        return sum(entry.rows for entry in self.published if entry.view == view)


def gather_results(
    labels: Sequence[GroupLabels],
    published: PublishedFindings,
    split_plan: SplitPlan,
    label_bins: LabelBins,
    shards: Iterable[SpilledShard],
    accounts: Iterable[GroupAccount],
    sha256: Iterable[CaptureSha256] = (),
    rejects: Iterable[pa.RecordBatch] = (),
    sources: Iterable[SourceCounts] = (),
    layouts: Iterable[LaidOut] = (),
    packets: Iterable[PacketCounts] = (),
    leakage: Iterable[PartCounts] = (),
    *,
    known_rejects: Iterable[pa.RecordBatch] = (),
) -> BuildResults:
    """Returns the results of a build, from the outputs of its steps in any order."""
    results = BuildResults(labels, split_plan, label_bins.tasks, label_bins.fault, published.accounts)
    results.shards = [read_digests(shard) for shard in shards]
    results.accounts = list(accounts)
    results.sha256 = {each.uri: each.sha256 for each in sha256}
    results.rejects = [*known_rejects, *rejects, published.rejects]
    counted = list(sources)
    results.sources = sum_by_key([*(counts.by_source for counts in counted), published.sources])
    for table, hits in (pair for counts in counted for pair in counts.hits):
        results.hits.setdefault(table, []).append(hits)
    for counts in layouts:
        results.rows.update({(counts.view, stripe): rows for stripe, rows in counts.rows.items()})
        if counts.view == "flows":
            results.read += counts.read
            results.unlabelled += counts.unlabelled
        results.duplicates += counts.duplicates
    for attached in packets:
        results.packet_rows += attached.rows
        results.packets_dropped = results.packets_dropped + np.array(attached.dropped)
    results.leakage = list(leakage)
    return results
