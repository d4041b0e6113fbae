"""`flowloom build`: a corpus manifest to a dataset."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.pipelines.engines.embedded import EMBEDDED, START_LIMIT_S, running, usable_cores
from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.publish import publish, require_vacant
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.groups import GroupPlan, plan_corpus
from flowloom.transforms.dataset.dataset_ptransforms import (
    DropDuplicates,
    FindDuplicates,
    PlanLayout,
    SpillRows,
    WriteCard,
    WriteShards,
)
from flowloom.transforms.flows.flow_ptransforms import ConcealIdentities
from flowloom.transforms.flows.identities import IdentityKey, corpus_key, read_key
from flowloom.transforms.io.filesystems import is_url
from flowloom.transforms.io.io_ptransforms import ReadSpilled, SpillBatches
from flowloom.transforms.io.progress import Tally, watched
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import passing_folder, staged_folder
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.labels.label_bins import LabelBins, has_measured_bins
from flowloom.transforms.labels.label_flows import GroupLabels, label_groups
from flowloom.transforms.labels.label_ptransforms import FindLabelBins, LabelFlows, LabelQuantities, WindowCaptures
from flowloom.transforms.labels.window_sources import WindowSource, label_folder, read_sources
from flowloom.transforms.metering.meter_cache import KeptReading
from flowloom.transforms.metering.metering_ptransforms import JoinPackets, MeterGroups, PlanReadings, RecallReadings
from flowloom.transforms.published.plan_published import PublishedPlan, plan_published, stored_views
from flowloom.transforms.published.published_ptransforms import RecallPublished
from flowloom.transforms.splits.split_ptransforms import AssignSplits, CompleteSplitPlan, MeasureLeakage
from flowloom.transforms.splits.splits import SplitPlan, plan_splits


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What to build, where, and on which engine; `beam_args` are further options of Beam as on its command line.

    Attributes:
      out: a directory, or a URL that the finished dataset is published at.
      start_limit_s: seconds that the workers of another engine than the embedded one have for coming up.
      job_folder: where a dataset is built that goes to a URL; all workers have to share it. None: among the temporary
        files of this machine. A directory is built beside its place.
    """

    manifest: str | os.PathLike[str]
    out: str | os.PathLike[str]
    workers: int = dataclasses.field(default_factory=usable_cores)
    runner: str = EMBEDDED
    beam_args: tuple[str, ...] = ()
    start_limit_s: float = START_LIMIT_S
    job_folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")
        if self.start_limit_s <= 0:
            raise FlowloomError(f"start_limit_s must be > 0, got {self.start_limit_s}")
        if self.job_folder is not None and not is_url(os.fspath(self.out)):
            raise FlowloomError(f"a job folder is for datasets that go to a URL; {self.out} is built beside its place")

    @property
    def lanes(self) -> int | None:
        """How many equal shares of the work the runner deals out; None where it gives work to whoever is idle."""
        return self.workers if self.runner == EMBEDDED else None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Everything that is known of a corpus before its captures are read.

    Attributes:
      folder: what the manifest's paths are relative to.
      sources, unread: label sources of single flows, and reject rows of their tables.
      published: rows of published files, labelled.
      stored: the columns of the dataset's views.
      key: what identities are concealed with; None where they are kept.
      readings: what was metered of its captures before, all of them; None where they are to be read.
    """

    manifest: CorpusManifest
    folder: str
    plan: GroupPlan
    sources: tuple[WindowSource, ...]
    unread: pa.RecordBatch
    labels: tuple[GroupLabels, ...]
    split_plan: SplitPlan
    key: IdentityKey | None
    published: PublishedPlan
    stored: StoredViews
    readings: tuple[KeptReading, ...] | None = None


@dataclasses.dataclass(frozen=True)
class MeteredCaptures:
    """The captures of a corpus, all of them metered before."""

    plan: GroupPlan
    readings: tuple[KeptReading, ...]


def build(
    options: BuildOptions,
    progress: Callable[[Tally], None] | None = None,
    metered: MeteredCaptures | None = None,
) -> DatasetCard:
    """Build a dataset and return its card.

    Args:
      progress: called about twice a second with what was done so far, from another thread.
      metered: what to build it of, instead of reading the captures that the manifest names.

    Raises:
      FlowloomError: if the manifest, its key file or a label table is invalid, the output exists, or no flow could
        be built, the engine fails, or the dataset cannot be published.
    """
    manifest = read_manifest(options.manifest)
    out = os.fspath(options.out)
    if not is_url(out):
        with staged_folder(out) as staging:
            return _build(options, manifest, staging, progress, metered)
    require_vacant(out)
    with passing_folder(os.fspath(options.job_folder) if options.job_folder else None) as staging:
        _build(options, manifest, staging, progress, metered)
        return publish(staging, out)


def _build(
    options: BuildOptions,
    manifest: CorpusManifest,
    staging: str,
    progress: Callable[[Tally], None] | None,
    metered: MeteredCaptures | None,
) -> DatasetCard:
    folder = os.path.dirname(os.path.abspath(options.manifest))
    with label_folder(staging) as scratch, watched(staging, progress):
        corpus = look_at(manifest, folder, staging, scratch, options.workers, metered)
        engine = (options.runner, options.workers, options.beam_args)
        with running(*engine, staging, options.start_limit_s) as pipeline:
            compose(pipeline, corpus, staging, options.lanes)
    require_success(staging, CARD)
    clear(staging)
    return read_card(staging)


def look_at(
    manifest: CorpusManifest,
    folder: str,
    staging: str,
    scratch: str,
    workers: int,
    metered: MeteredCaptures | None = None,
) -> Corpus:
    """Plan a corpus, read its published files and label tables, and decide what can be decided without its flows."""
    key = read_key(os.path.join(folder, manifest.key_file)) if manifest.key_file else None
    sources, unread = read_sources(manifest, folder, scratch)
    plan = metered.plan if metered else plan_corpus(manifest, folder, workers)
    published = plan_published(manifest, folder, staging)
    labels = label_groups(plan, manifest, sources)
    split_plan = plan_splits([*labels, *published.labels], manifest.claimed_tasks, manifest.splits)
    key = corpus_key(plan, published.digests) if manifest.identity == "drop" else key
    stored = stored_views(manifest, published)
    readings = metered.readings if metered else None
    return Corpus(manifest, folder, plan, sources, unread, labels, split_plan, key, published, stored, readings)


def compose(pipeline: beam.Pipeline, corpus: Corpus, staging: str, lanes: int | None) -> None:
    """Lay the road from a corpus' capture groups to the card of its dataset."""
    manifest, plan = corpus.manifest, corpus.plan
    tasks, output = manifest.tasks, manifest.output
    packet_view = manifest.packets if manifest.has_captured_packets else None
    if corpus.readings is None:
        plan_readings = PlanReadings(plan.groups, manifest.definition, output.split_bytes, lanes)
        readings = pipeline | "PlanReadings" >> plan_readings
    else:
        readings = pipeline | "RecallReadings" >> RecallReadings(corpus.readings, lanes)
    meter = MeterGroups(manifest.definition, staging, packet_view)
    whole, joined, packets, accounts = readings | "MeterGroups" >> meter

    flows = compose_flows(pipeline, corpus, {"Whole": whole, "Joined": joined}, staging)
    findings, places = [*accounts, *flows.findings], [*flows.places]
    rows = compose_published(pipeline, corpus, flows.split_plan)
    if packet_view is not None:
        rows["Packets"], counts = compose_packets(corpus, packets, flows, staging)
        findings.append(counts)
    for name, (view, split_rows) in rows.items():
        stripes = split_rows | f"PlanLayout {name}" >> PlanLayout(tasks, manifest.layout, corpus.stored, view)
        findings.append(stripes.counts)
        places.append(stripes.rows | f"SpillRows {name}" >> SpillRows(output.shards, staging, view))

    if manifest.published:
        findings.append(pipeline | "PublishedFindings" >> beam.Create([corpus.published.findings]))
    measured = manifest.leakage == "measure"
    write = WriteShards(staging, flows.label_bins, output, measured)
    written = places | "AllRows" >> beam.Flatten() | "WriteShards" >> write
    findings.append(written.shards)
    if measured:
        findings.append(written.sighted | "MeasureLeakage" >> MeasureLeakage(tuple(task.name for task in tasks)))
    key_id = corpus.key.key_id if corpus.key and manifest.key_file else None
    tuple(findings) | "WriteCard" >> WriteCard(
        manifest, corpus.folder, staging, key_id, corpus.labels, corpus.split_plan, plan.rejects, corpus.stored
    )


@dataclasses.dataclass(frozen=True)
class ComposedFlows:
    """What becomes of the flows of a build, as PCollections.

    Attributes:
      label_bins, split_plan: the tasks and the rule of the splits; what is found of them on the flows if anything is.
      marked: flows with all labels and their splits.
      places: of rows of the flows view, for those who write shards.
      findings: what is counted on the way.
    """

    split_plan: Any
    label_bins: Any
    marked: list[Any]
    places: list[Any]
    findings: list[Any]


def compose_flows(pipeline: beam.Pipeline, corpus: Corpus, metered: dict[str, Any], staging: str) -> ComposedFlows:
    """Lay the road of flows, those that were metered by name and those of published files, to places of rows."""
    manifest, published, output = corpus.manifest, corpus.published, corpus.manifest.output
    tasks = manifest.tasks
    findings: list[Any] = []
    windows = None
    if corpus.sources:
        windows = pipeline | "WindowCaptures" >> WindowCaptures(corpus.plan, corpus.sources, tasks, manifest.definition)
        findings += [windows, pipeline | "UnreadRows" >> beam.Create([corpus.unread])]

    branches = {}
    for name, flows in metered.items():
        labelled = flows | f"LabelFlows{name}" >> LabelFlows(corpus.labels, manifest, windows)
        branches[name] = labelled.flows | f"ConcealIdentities{name}" >> ConcealIdentities(corpus.key)
        findings.append(labelled.counts)
    if "flows" in published.places:
        flows = pipeline | "RecallPublished" >> RecallPublished(published.places["flows"])
        branches["Published"] = flows | "ConcealIdentitiesPublished" >> ConcealIdentities(corpus.key)

    split_plan: Any = corpus.split_plan
    label_bins: Any = LabelBins(tasks)
    duplicates = None
    if manifest.needs_all_flows:
        kept = (
            tuple(flows | f"Spill{name}" >> SpillBatches(staging) for name, flows in branches.items()) | beam.Flatten()
        )
        branches = {"All": kept | "ReadAll" >> ReadSpilled()}
        if manifest.splits.by in ("time", "host_pair"):
            looked_at = kept | "ReadForSplits" >> ReadSpilled()
            split_plan = looked_at | "CompleteSplitPlan" >> CompleteSplitPlan(
                split_plan, manifest.claimed_tasks, manifest.splits
            )
            findings.append(split_plan)
        if any(map(has_measured_bins, tasks)):
            looked_at = kept | "ReadForTasks" >> ReadSpilled() | "AssignSplitsForTasks" >> AssignSplits(split_plan)
            label_bins = looked_at | "FindLabelBins" >> FindLabelBins(tasks)
            findings.append(label_bins)
        if manifest.deduplicate != "none":
            looked_at = kept | "ReadForDuplicates" >> ReadSpilled()
            known = looked_at | "AssignSplitsAndBinsForDuplicates" >> AssignSplitsAndBins(
                manifest, split_plan, label_bins
            )
            stripes = known | "PlanLayoutForDuplicates" >> PlanLayout(manifest.tasks, manifest.layout, corpus.stored)
            duplicates = stripes.rows | "FindDuplicates" >> FindDuplicates(manifest.deduplicate)

    places = []
    marked = []
    for name, flows in branches.items():
        known = flows | f"AssignSplitsAndBins{name}" >> AssignSplitsAndBins(manifest, split_plan, label_bins)
        marked.append(known)
        if "flows" not in manifest.views:
            continue
        stripes = known | f"PlanLayout{name}" >> PlanLayout(manifest.tasks, manifest.layout, corpus.stored)
        findings.append(stripes.counts)
        if duplicates is not None:
            stripes = stripes.rows | f"DropDuplicates{name}" >> DropDuplicates(duplicates)
            findings.append(stripes.counts)
        places.append(stripes.rows | f"SpillRows{name}" >> SpillRows(output.shards, staging))
    return ComposedFlows(split_plan, label_bins, marked, places, findings)


def compose_packets(corpus: Corpus, packets: Any, flows: ComposedFlows, staging: str) -> tuple[tuple[View, Any], Any]:
    """Lay the road of captured packets to divided rows of their view; return these and what is counted on the way."""
    ranges = packets | "RangesOfPackets" >> beam.Flatten()
    marked = flows.marked | "FlowsOfPackets" >> beam.Flatten()
    attached = (ranges, marked) | "JoinPackets" >> JoinPackets(corpus.key, staging)
    rows = attached.rows
    if corpus.manifest.splits.by == "packet":
        rows = rows | "AssignSplitsPackets" >> AssignSplits(flows.split_plan, "packets")
    return ("packets", rows), attached.counts


def compose_published(pipeline: beam.Pipeline, corpus: Corpus, split_plan: Any) -> dict[str, tuple[View, Any]]:
    """Lay the road of published rows other than flows, by name, to divided rows of their view."""
    rows: dict[str, tuple[View, Any]] = {}
    for view, places in corpus.published.places.items():
        if view != "flows":
            recalled = pipeline | f"RecallPublished {view}" >> RecallPublished(places)
            rows[f"Published {view}"] = view, recalled | f"AssignSplits {view}" >> AssignSplits(split_plan, view)
    return rows


@dataclasses.dataclass
class AssignSplitsAndBins(beam.PTransform):
    """Labelled flows to flows that their layout can be planned of: with their splits and what is measured of them."""

    manifest: CorpusManifest
    split_plan: Any
    label_bins: Any

    def expand(self, flows: Any) -> Any:
        """Return batches with all labels and, unless the splits are by packet, a split column."""
        if self.manifest.splits.by != "packet":
            flows = flows | "AssignSplits" >> AssignSplits(self.split_plan)
        if len(self.manifest.claimed_tasks) < len(self.manifest.tasks):
            flows = flows | "LabelQuantities" >> LabelQuantities(self.label_bins)
        return flows
