"""Pipeline of a build, from a prepared corpus to the dataset card, its steps in the order of the data."""

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.captures.groups import GroupPlan, MatchedFiles, plan_corpus
from flowloom.transforms.dataset.dataset_ptransforms import ViewRows, WriteCard, WriteViews
from flowloom.transforms.dataset.write_shards_ptransforms import PlanLayout
from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.identities import IdentityKey, corpus_key, read_key
from flowloom.transforms.io.io_ptransforms import ReadSpilled, SpillBatches
from flowloom.transforms.io.spill import Spilled
from flowloom.transforms.labels.label_bins import LabelBins, has_measured_bins
from flowloom.transforms.labels.label_flows import SourceCounts
from flowloom.transforms.labels.label_ptransforms import LabelFlows, WindowCaptures
from flowloom.transforms.labels.plan_labels import LabelPlan, label_plan
from flowloom.transforms.labels.window_sources import read_sources
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount
from flowloom.transforms.metering.join_packets import PacketCounts
from flowloom.transforms.metering.meter_cache import CachedMetering
from flowloom.transforms.metering.meter_ranges import GroupPackets
from flowloom.transforms.metering.metering_ptransforms import (
    JoinPackets,
    JoinPartitions,
    MeterRanges,
    PacketsAndFlows,
    PlanMetering,
    ReadCachedMetering,
    Sha256Captures,
)
from flowloom.transforms.published.plan_published import PublishedPlan, plan_published, stored_views
from flowloom.transforms.published.published_ptransforms import RecallPublished
from flowloom.transforms.splits.split_ptransforms import AssignSplits, AssignSplitsAndBins, CompleteSplitPlan
from flowloom.transforms.splits.splits import SplitPlan, plan_splits


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus before its captures are read: its files, labels, split plan and columns.

    Attributes:
      folder: the folder of the manifest's relative paths.
      labels: labels of its groups, and sources that label single flows.
      published: labelled rows of published files.
      stored: the columns of the dataset's views.
      key: the key of concealed identities; None where identities are kept.
      cached: cached results of all its captures; None where the captures are metered.
      whole: names of groups that are metered in one piece.
      sha256: whether the SHA-256 of captures is wanted beside their digest.
    """

    manifest: CorpusManifest
    folder: str
    plan: GroupPlan
    labels: LabelPlan
    split_plan: SplitPlan
    key: IdentityKey | None
    published: PublishedPlan
    stored: StoredViews
    cached: tuple[CachedMetering, ...] | None = None
    whole: tuple[str, ...] = ()
    sha256: bool = False

    @property
    def packet_view(self) -> PacketView | None:
        """The layout of rows of captured packets; None where the dataset has none."""
        return self.manifest.packets if self.manifest.has_captured_packets else None


@dataclasses.dataclass(frozen=True)
class MeteredCaptures:
    """The captures of a corpus, all of them in the meter cache, and the manifest whose entries they belong to."""

    manifest: CorpusManifest
    plan: GroupPlan
    cached: tuple[CachedMetering, ...]


def prepare_corpus(
    manifest: CorpusManifest,
    folder: str,
    captures: MatchedFiles | MeteredCaptures,
    staging: str,
    scratch: str,
    workers: int,
    whole: tuple[str, ...] = (),
    *,
    sha256: bool = False,
) -> Corpus:
    """Plans a corpus, reads its published files and label tables, and plans all splits that do not need its flows.

    Args:
      captures: the files of the manifest's captures, or their cached results.
      staging: the folder of the dataset and its temporary files.
      scratch: the folder of label windows.
    """
    key = read_key(os.path.join(folder, manifest.key_file)) if manifest.key_file else None
    sources, unread = read_sources(manifest, folder, scratch)
    cached = captures.cached if isinstance(captures, MeteredCaptures) else None
    plan = captures.plan if isinstance(captures, MeteredCaptures) else plan_corpus(manifest, folder, captures, workers)
    published = plan_published(manifest, folder, staging)
    labels = label_plan(manifest, plan, sources, unread)
    split_plan = plan_splits([*labels.labels, *published.labels], manifest.claimed_tasks, manifest.splits)
    key = corpus_key(plan, published.sha256) if manifest.identity == "drop" else key
    stored = stored_views(manifest, published)
    return Corpus(manifest, folder, plan, labels, split_plan, key, published, stored, cached, whole, sha256)


Rows: TypeAlias = beam.PCollection[pa.RecordBatch]


@dataclasses.dataclass
class CardCounts:
    """Counts for the dataset card, by kind, that the steps give beside their rows."""

    accounts: list[beam.PCollection[GroupAccount]] = dataclasses.field(default_factory=list)
    sha256: list[beam.PCollection[CaptureSha256]] = dataclasses.field(default_factory=list)
    rejects: list[beam.PCollection[pa.RecordBatch]] = dataclasses.field(default_factory=list)
    sources: list[beam.PCollection[SourceCounts]] = dataclasses.field(default_factory=list)
    packets: list[beam.PCollection[PacketCounts]] = dataclasses.field(default_factory=list)


def compose(pipeline: beam.Pipeline, corpus: Corpus, staging: str, workers: int | None) -> None:
    """Builds the pipeline from capture groups to dataset card.

    Args:
      staging: the folder of the dataset and its temporary files.
      workers: number of workers that get an equal share of the work; None if the runner gives work to idle workers.
    """
    counts = CardCounts()
    labels = plan_labels(pipeline, corpus)
    metered = meter_captures(pipeline, corpus, staging, workers, counts)
    flows = label_flows(corpus, metered.flows, labels, counts) | read_published_flows(pipeline, corpus)
    plans = Plans(corpus.split_plan, LabelBins(corpus.manifest.tasks))
    if corpus.manifest.needs_all_flows:
        spilled = spill_flows(flows, staging)
        plans = complete_plans(corpus, spilled)
        flows = {"All": spilled | "ReadAll" >> ReadSpilled()}
    flows = split_flows(corpus, flows, plans)
    packets = split_packets(corpus, metered.packets, flows, plans, staging, counts)
    views = {view: split_published(pipeline, corpus, plans, view) for view in ("packets", "tables")}
    kept = tuple(flows.values()) if "flows" in corpus.manifest.views else ()
    rows = ViewRows(kept, (*packets, *views["packets"]), views["tables"])
    write_dataset(rows, corpus, labels, plans, staging, counts)


class MeteredCorpus(NamedTuple):
    """Flows of all captures by name, and their spilled packet rows.

    Complete and joined flows stay separate, because flattening would carry them through the runner.
    """

    flows: dict[str, Rows]
    packets: tuple[beam.PCollection[GroupPackets], ...]


def meter_captures(
    pipeline: beam.Pipeline, corpus: Corpus, staging: str, workers: int | None, counts: CardCounts
) -> MeteredCorpus:
    """Meters the captures of a corpus, or reads them from the cache, and joins flows that captures share."""
    manifest = corpus.manifest
    if corpus.cached is not None:
        metered = pipeline | "ReadCachedMetering" >> ReadCachedMetering(corpus.cached, staging, workers)
    else:
        split_bytes = manifest.output.split_bytes
        plan = PlanMetering(corpus.plan.groups, manifest.definition, split_bytes, workers, corpus.whole, corpus.sha256)
        planned = pipeline | "PlanMetering" >> plan
        hashed = planned.sha256_tasks | "Sha256Captures" >> Sha256Captures()
        counts.sha256.append(hashed.hashed)
        counts.rejects.append(hashed.rejects)
        metered = planned.tasks | "MeterRanges" >> MeterRanges(manifest.definition, staging, corpus.packet_view)
    join = JoinPartitions(manifest.definition, staging, numbered=corpus.packet_view is not None)
    joined = metered.fragments | "JoinPartitions" >> join
    counts.accounts += [metered.accounts, joined.accounts]
    counts.packets.append(metered.counts)
    return MeteredCorpus({"Whole": metered.flows, "Joined": joined.flows}, (metered.packets, joined.packets))


def plan_labels(pipeline: beam.Pipeline, corpus: Corpus) -> LabelPlan | beam.PCollection[LabelPlan]:
    """Returns the labels of all groups, once the windows of sources that label single flows are written."""
    if not corpus.labels.sources:
        return corpus.labels
    windows = WindowCaptures(corpus.manifest.definition)
    return pipeline | "PlanLabels" >> beam.Create([corpus.labels]) | "WindowCaptures" >> windows


def label_flows(
    corpus: Corpus, metered: Mapping[str, Rows], labels: LabelPlan | beam.PCollection[LabelPlan], counts: CardCounts
) -> dict[str, Rows]:
    """Labels metered flows, then conceals their identities: label sources need the real addresses."""
    flows = {}
    for name, rows in metered.items():
        labelled = rows | f"LabelFlows {name}" >> LabelFlows(labels).with_counts()
        flows[name] = labelled.flows | f"ConcealIdentities {name}" >> ConcealIdentities(corpus.key)
        counts.sources.append(labelled.counts)
    return flows


def read_published_flows(pipeline: beam.Pipeline, corpus: Corpus) -> dict[str, Rows]:
    """Reads the flows of published files, which are labelled, and conceals their identities."""
    if "flows" not in corpus.published.places:
        return {}
    flows = pipeline | "ReadPublished flows" >> RecallPublished(corpus.published.places["flows"])
    return {"Published": flows | "ConcealIdentities Published" >> ConcealIdentities(corpus.key)}


def spill_flows(flows: Mapping[str, Rows], staging: str) -> beam.PCollection[Spilled]:
    """Spills labelled flows, so that several steps can read all of them."""
    spilled = tuple(rows | f"SpillBatches {name}" >> SpillBatches(staging) for name, rows in flows.items())
    return spilled | "AllSpilled" >> beam.Flatten()


@dataclasses.dataclass(frozen=True)
class Plans:
    """Decisions that hold for all rows; one element of a PCollection where they are made from the flows.

    Attributes:
      duplicates: ids of duplicate flows by stripe; None where duplicates stay.
    """

    split_plan: SplitPlan | beam.PCollection[SplitPlan]
    label_bins: LabelBins | beam.PCollection[LabelBins]
    duplicates: beam.PCollection[dict[str, bytes]] | None = None


def complete_plans(corpus: Corpus, spilled: beam.PCollection[Spilled]) -> Plans:
    """Completes the plans that need all flows: splits by time or host pair, label bins, duplicates."""
    manifest = corpus.manifest
    plans = Plans(corpus.split_plan, LabelBins(manifest.tasks))
    if manifest.splits.by in ("time", "host_pair"):
        complete = CompleteSplitPlan(corpus.split_plan, manifest.claimed_tasks, manifest.splits)
        split_plan = spilled | "ReadForSplits" >> ReadSpilled() | "CompleteSplitPlan" >> complete
        plans = dataclasses.replace(plans, split_plan=split_plan)
    layout = PlanLayout(manifest.tasks, manifest.layout, stored=corpus.stored)
    if any(map(has_measured_bins, manifest.tasks)):
        split = spilled | "ReadForBins" >> ReadSpilled() | "AssignSplitsForBins" >> AssignSplits(plan=plans.split_plan)
        planned = split | "PlanBins" >> layout
        plans = dataclasses.replace(plans, label_bins=planned.label_bins)
    if manifest.deduplicate != "none":
        read = spilled | "ReadForDuplicates" >> ReadSpilled()
        split = read | "AssignSplitsForDuplicates" >> AssignSplits(plan=plans.split_plan)
        layout = dataclasses.replace(layout, deduplicate=manifest.deduplicate, label_bins=plans.label_bins)
        plans = dataclasses.replace(plans, duplicates=(split | "PlanDuplicates" >> layout).duplicates)
    return plans


def split_flows(corpus: Corpus, flows: Mapping[str, Rows], plans: Plans) -> dict[str, Rows]:
    """Assigns splits and measured labels to flows; under splits by packet, flows have no split."""
    manifest = corpus.manifest
    tasks = plans.label_bins if len(manifest.claimed_tasks) < len(manifest.tasks) else None
    assign = AssignSplitsAndBins(plans.split_plan if manifest.splits.by != "packet" else None, tasks)
    return {name: rows | f"AssignSplitsAndBins {name}" >> assign for name, rows in flows.items()}


def split_packets(
    corpus: Corpus,
    packets: tuple[beam.PCollection[GroupPackets], ...],
    flows: Mapping[str, Rows],
    plans: Plans,
    staging: str,
    counts: CardCounts,
) -> tuple[Rows, ...]:
    """Joins packet rows to the labels and splits of their flows, or gives each a split of its own."""
    if corpus.packet_view is None:
        return ()
    spilled, split = packets | "AllPackets" >> beam.Flatten(), tuple(flows.values()) | "AllFlows" >> beam.Flatten()
    joined = PacketsAndFlows(spilled, split) | "JoinPackets" >> JoinPackets(corpus.key, staging)
    counts.packets.append(joined.counts)
    rows = joined.rows
    if corpus.manifest.splits.by == "packet":
        rows = rows | "AssignSplits Packets" >> AssignSplits(plan=plans.split_plan, view="packets")
    return (rows,)


def split_published(pipeline: beam.Pipeline, corpus: Corpus, plans: Plans, view: View) -> tuple[Rows, ...]:
    """Assigns splits to the packets or tables of published files."""
    if view not in corpus.published.places:
        return ()
    read = pipeline | f"ReadPublished {view}" >> RecallPublished(corpus.published.places[view])
    return (read | f"AssignSplits {view}" >> AssignSplits(plan=plans.split_plan, view=view),)


def write_dataset(
    rows: ViewRows,
    corpus: Corpus,
    labels: LabelPlan | beam.PCollection[LabelPlan],
    plans: Plans,
    staging: str,
    counts: CardCounts,
) -> None:
    """Writes shards, measures leakage if the manifest asks for it, and writes the card."""
    manifest = corpus.manifest
    key_id = corpus.key.key_id if corpus.key and manifest.key_file else None
    card = WriteCard(
        manifest, corpus.folder, staging, key_id, labels, corpus.published.findings, plans.split_plan,
        plans.label_bins, corpus.stored, (corpus.plan.rejects,),
    )  # fmt: skip
    measured = manifest.leakage == "measure"
    write = WriteViews(manifest.tasks, manifest.layout, manifest.output, card, vars(counts), plans.duplicates, measured)
    rows | "WriteDataset" >> write
