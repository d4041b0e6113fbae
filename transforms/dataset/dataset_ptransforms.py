"""PTransforms that turn labelled rows into shards and a card."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest, Deduplicate, Output
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.dataset.build_results import gather_results
from flowloom.transforms.dataset.duplicates import (
    StripePart,
    drop_duplicates,
    find_part_duplicates,
    merge_duplicates,
    part_rows,
)
from flowloom.transforms.dataset.layouts import (
    FLOWS_ALONE,
    LaidOut,
    count_layout,
    lay_out,
)
from flowloom.transforms.dataset.shards import ShardKey, SpilledShard, spill_digests, split_rows, write_shard
from flowloom.transforms.dataset.write_card import write_card
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_batches
from flowloom.transforms.io.tally import tally
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import SourceCounts
from flowloom.transforms.labels.plan_labels import LabelPlan
from flowloom.transforms.metering.accounts import CaptureSha256, GroupAccount
from flowloom.transforms.metering.join_packets import PacketCounts
from flowloom.transforms.published.plan_published import PublishedFindings
from flowloom.transforms.splits.leakage import PartCounts, SpilledSightings, spill_sightings
from flowloom.transforms.splits.split_ptransforms import CountLeakage
from flowloom.transforms.splits.splits import SplitPlan


class StripeRows(NamedTuple):
    """Rows by stripe, and counts of each batch; outputs of `LayOut` and `DropDuplicates`."""

    rows: beam.PCollection[tuple[str, pa.RecordBatch]]
    counts: beam.PCollection[LaidOut]


@dataclasses.dataclass
class LayOut(beam.PTransform):
    """`lay_out` over a PCollection of labelled batches of one view, with their splits."""

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    stored: StoredViews = FLOWS_ALONE
    view: View = "flows"

    @beam.typehints.no_annotations
    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> StripeRows:
        """Returns (stripe, rows), and the counts of each batch."""
        lay_out_batch = _LayOut(self.tasks, self.layout, self.stored, self.view)
        stripes = batches | beam.ParDo(lay_out_batch).with_outputs("counts", main="rows")
        return StripeRows(stripes.rows, stripes.counts)


class _LayOut(beam.DoFn):
    def __init__(self, tasks: tuple[Task, ...], layout: Literal["aurora", "rainbow"], stored: StoredViews, view: View):
        self._tasks = tasks
        self._layout = layout
        self._stored = stored
        self._view = view

    def process(
        self, batch: pa.RecordBatch
    ) -> Iterator[tuple[str, pa.RecordBatch] | TaggedOutput[Literal["counts"], LaidOut]]:
        stripes = dict(lay_out(batch, self._tasks, self._layout, self._stored, self._view))
        yield from stripes.items()
        counts = count_layout(batch, stripes, self._tasks, self._view)
        yield TaggedOutput[Literal["counts"], LaidOut]("counts", counts)


@dataclasses.dataclass
class FindDuplicates(beam.PTransform):
    """`find_duplicates` over the rows of `LayOut`."""

    scope: Deduplicate

    def expand(self, stripes: beam.PCollection[tuple[str, pa.RecordBatch]]) -> beam.PCollection[dict[str, bytes]]:
        """Returns one element, the ids of duplicates by stripe."""
        return (
            stripes
            | "Part" >> beam.FlatMapTuple(part_rows).with_output_types(tuple[StripePart, bytes])
            | "OncePerPart" >> beam.GroupByKey()
            | "Find" >> beam.Map(_find_duplicates, self.scope)
            | "Merge" >> beam.CombineGlobally(merge_duplicates).with_output_types(dict[str, bytes])
        )


def _find_duplicates(element: tuple[StripePart, Iterable[bytes]], scope: Deduplicate) -> dict[str, bytes]:
    (stripe, _), parts = element
    return {stripe: find_part_duplicates(parts, scope)}


@dataclasses.dataclass
class DropDuplicates(beam.PTransform):
    """`drop_duplicates` over the rows of `LayOut`.

    Args:
      duplicates: the output of `FindDuplicates`, or its only element.
    """

    duplicates: Mapping[str, bytes] | beam.PCollection[dict[str, bytes]]

    @beam.typehints.no_annotations
    def expand(self, stripes: beam.PCollection[tuple[str, pa.RecordBatch]]) -> StripeRows:
        """Returns the rows that stay, and the counts of dropped rows."""
        kept = stripes | beam.ParDo(_drop, single(self.duplicates)).with_outputs("counts", main="rows")
        return StripeRows(kept.rows, kept.counts)


def _drop(
    stripe_rows: tuple[str, pa.RecordBatch], duplicates: Mapping[str, bytes]
) -> Iterator[tuple[str, pa.RecordBatch] | TaggedOutput[Literal["counts"], LaidOut]]:
    stripe, rows = stripe_rows
    kept, counts = drop_duplicates(stripe, rows, duplicates)
    if kept.num_rows:
        yield stripe, kept
    yield TaggedOutput[Literal["counts"], LaidOut]("counts", counts)


@dataclasses.dataclass
class SpillRows(beam.PTransform):
    """`spill_rows` over the rows of `LayOut`, so that shards are written from files."""

    shards: int
    job: str
    view: View = "flows"

    def expand(
        self, stripes: beam.PCollection[tuple[str, pa.RecordBatch]]
    ) -> beam.PCollection[tuple[ShardKey, Spilled]]:
        """Returns shard keys and places."""
        return stripes | beam.ParDo(_SpillRows(self.shards, self.job, self.view))


class _SpillRows(beam.DoFn):
    def __init__(self, shards: int, job: str, view_name: View):
        self._shards = shards
        self._job = job
        self._view = view_name

    def start_bundle(self) -> None:
        self._buffer = SpillBuffer[ShardKey](self._job)

    def process(self, element: tuple[str, pa.RecordBatch]) -> Iterator[tuple[ShardKey, Spilled]]:
        yield from self._buffer.add(split_rows(*element, self._shards, self._view))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for element in self._buffer.flush():
            yield GlobalWindows.windowed_value(element)


class WrittenShards(NamedTuple):
    """Outputs of `WriteSpilledShards`: shards, and sightings of flows if leakage is measured."""

    shards: beam.PCollection[SpilledShard]
    sightings: beam.PCollection[SpilledSightings]


@dataclasses.dataclass
class WriteSpilledShards(beam.PTransform):
    """`write_spilled_shards` over the places of `SpillRows`, each shard in one piece.

    Args:
      folder: the folder of the dataset.
      label_bins: the tasks, or the output of `FindLabelBins`.
      output: the size of row groups and the number of shards.
      leakage: whether leakage is measured.
    """

    folder: str
    label_bins: LabelBins | beam.PCollection[LabelBins]
    output: Output
    leakage: bool = False

    @beam.typehints.no_annotations
    def expand(self, places: beam.PCollection[tuple[ShardKey, Spilled]]) -> WrittenShards:
        """Groups places by shard, and writes each shard."""
        write = beam.ParDo(_WriteShard(self.folder, self.output, self.leakage), single(self.label_bins))
        grouped = places | "OncePerShard" >> beam.GroupByKey()
        written = grouped | "Write" >> write.with_outputs("sightings", main="shards")
        return WrittenShards(written.shards, written.sightings)


class _WriteShard(beam.DoFn):
    def __init__(self, folder: str, output: Output, leakage: bool):
        self._folder = folder
        self._output = output
        self._leakage = leakage

    def process(
        self, element: tuple[ShardKey, Iterable[Spilled]], label_bins: LabelBins
    ) -> Iterator[SpilledShard | TaggedOutput[Literal["sightings"], SpilledSightings]]:
        key, places = element
        view_name, _, split, _ = key
        batches = read_batches(places)
        written = write_shard(key, batches, self._folder, label_bins.tasks, self._output)
        yield spill_digests(written, self._folder)
        if self._leakage and view_name == "flows":
            names = [task.name for task in label_bins.tasks]
            for sightings in spill_sightings(batches, split, names, self._folder):
                yield TaggedOutput[Literal["sightings"], SpilledSightings]("sightings", sightings)
        tally(self._folder).add(shards=1)


class BuildOutputs(NamedTuple):
    """Inputs of `WriteCard`, from all steps before it."""

    shards: beam.PCollection[SpilledShard]
    accounts: beam.PCollection[GroupAccount]
    sha256: beam.PCollection[CaptureSha256]
    rejects: beam.PCollection[pa.RecordBatch]
    sources: beam.PCollection[SourceCounts]
    layouts: beam.PCollection[LaidOut]
    packets: beam.PCollection[PacketCounts]
    leakage: beam.PCollection[PartCounts]


@dataclasses.dataclass
class WriteCard(beam.PTransform):
    """`gather_results` and `write_card` over the results of all steps before it.

    Args:
      manifest: the manifest, or the only element of a PCollection.
      folder: the folder of the manifest.
      staging: the folder with the shards.
      key_id: id of the key that encrypts identities.
      labels: the plan of the labels, or the output of `PlanLabels`.
      published: findings in published files.
      split_plan: the plan of the splits, or the output of `CompleteSplitPlan`.
      label_bins: the tasks, or the output of `FindLabelBins`.
      stored: the columns of the views.
      known_rejects: rejects that were found before the first step.
      closed: whether each metered flow must have a row; steps of one's own may drop flows.
    """

    manifest: CorpusManifest | beam.PCollection[CorpusManifest]
    folder: str
    staging: str
    key_id: str | None
    labels: LabelPlan | beam.PCollection[LabelPlan]
    published: PublishedFindings
    split_plan: SplitPlan | beam.PCollection[SplitPlan]
    label_bins: LabelBins | beam.PCollection[LabelBins]
    stored: StoredViews = FLOWS_ALONE
    known_rejects: Sequence[pa.RecordBatch] = ()
    closed: bool = True

    @beam.typehints.no_annotations
    def expand(self, outputs: BuildOutputs) -> beam.PCollection[str]:
        """Returns the path of the card, or of the faults."""
        # in one stream, because a cluster keeps network buffers for every side input
        named = [
            counts | f"Name {name}" >> beam.Map(_named, name).with_output_types(tuple[int, tuple[str, Any]])
            for name, counts in outputs._asdict().items()
        ]
        once = outputs.shards.pipeline | "Once" >> beam.Create([(0, ("", None))])
        plans = (single(self.split_plan), single(self.label_bins), single(self.labels), single(self.manifest))
        write = beam.Map(
            _write_card, *plans, published=self.published, known_rejects=self.known_rejects, folder=self.folder,
            staging=self.staging, key_id=self.key_id, stored=self.stored, closed=self.closed,
        )  # fmt: skip
        return (*named, once) | beam.Flatten() | "Together" >> beam.GroupByKey() | "Write" >> write


def _named(counts: Any, name: str) -> tuple[int, tuple[str, Any]]:
    return 0, (name, counts)


def _write_card(
    element: tuple[int, Iterable[tuple[str, Any]]],
    split_plan: SplitPlan,
    label_bins: LabelBins,
    labels: LabelPlan,
    manifest: CorpusManifest,
    published: PublishedFindings,
    known_rejects: Sequence[pa.RecordBatch],
    **settings: Any,
) -> str:
    outputs: dict[str, list[Any]] = {name: [] for name in BuildOutputs._fields}
    for name, counts in element[1]:
        if name:
            outputs[name].append(counts)
    rejects = (*known_rejects, labels.rejects)
    results = gather_results(labels.labels, published, split_plan, label_bins, **outputs, known_rejects=rejects)
    return write_card(results, manifest, **settings)


class ViewRows(NamedTuple):
    """Inputs of `WriteViews`: labelled and split rows of each view, in any number of collections."""

    flows: tuple[beam.PCollection[pa.RecordBatch], ...] = ()
    packets: tuple[beam.PCollection[pa.RecordBatch], ...] = ()
    tables: tuple[beam.PCollection[pa.RecordBatch], ...] = ()


@dataclasses.dataclass
class WriteViews(beam.PTransform):
    """`write_views`: lays out the rows of all views, and writes the shards and the card of a dataset.

    Args:
      tasks, layout, output: as in the manifest.
      card: the last step.
      counts: the results of earlier steps by name of a `BuildOutputs`, in any number of collections.
      duplicates: ids of duplicate flows by stripe (`FindDuplicates`); None where duplicates stay.
      leakage: whether leakage is measured.
    """

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    output: Output
    card: WriteCard
    counts: Mapping[str, Sequence[beam.PCollection]]
    duplicates: beam.PCollection[dict[str, bytes]] | None = None
    leakage: bool = True

    @beam.typehints.no_annotations
    def expand(self, views: ViewRows) -> beam.PCollection[str]:
        """Returns the path of the card, or of the faults."""
        counts = {name: [*self.counts.get(name, ())] for name in BuildOutputs._fields}
        places = []
        for view_name, collections in zip(get_args(View), (views.flows, views.packets, views.tables), strict=True):
            for at, rows in enumerate(collections):
                name = f"{view_name} {at}"
                stripes = rows | f"LayOut {name}" >> LayOut(self.tasks, self.layout, self.card.stored, view_name)
                counts["layouts"].append(stripes.counts)
                if view_name == "flows" and self.duplicates is not None:
                    stripes = stripes.rows | f"DropDuplicates {name}" >> DropDuplicates(self.duplicates)
                    counts["layouts"].append(stripes.counts)
                spill = SpillRows(self.output.shards, self.card.staging, view_name)
                places.append(stripes.rows | f"SpillRows {name}" >> spill)
        write = WriteSpilledShards(self.card.staging, self.card.label_bins, self.output, self.leakage)
        written = places | "AllRows" >> beam.Flatten() | "WriteShards" >> write
        counts["shards"].append(written.shards)
        if self.leakage:
            names = tuple(task.name for task in self.tasks)
            counts["leakage"].append(written.sightings | "CountLeakage" >> CountLeakage(names))
        pipeline = written.shards.pipeline
        outputs = {
            name: found[0] if len(found) == 1 else tuple(found) | f"All {name}" >> beam.Flatten(pipeline=pipeline)
            for name, found in counts.items()
        }
        return BuildOutputs(**outputs) | "WriteCard" >> self.card
