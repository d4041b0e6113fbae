"""PTransforms from labelled rows to shards and card."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest, Deduplicate, Output
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.dataset.build_results import Finding, gather
from flowloom.transforms.dataset.duplicates import (
    StripePart,
    drop_duplicates,
    find_duplicates,
    merge_duplicates,
    part_rows,
)
from flowloom.transforms.dataset.layouts import FLOWS_ALONE, LaidOut, lay_out
from flowloom.transforms.dataset.shards import ShardKey, spill_digests, split_rows, write_shard
from flowloom.transforms.dataset.write_card import write_card
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.io.progress import tally
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_batches
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels, count_unlabelled
from flowloom.transforms.splits.leakage import shelve_sightings
from flowloom.transforms.splits.splits import SplitPlan


@dataclasses.dataclass
class FindDuplicates(beam.PTransform):
    """`find_duplicates` over all that `PlanLayout` gives."""

    scope: Deduplicate

    def expand(self, stripes: Any) -> Any:
        """Return the ids of duplicates by stripe (one element) from (stripe, rows)."""
        return (
            stripes
            | "Part" >> beam.FlatMapTuple(part_rows).with_output_types(tuple[StripePart, bytes])
            | "OncePerPart" >> beam.GroupByKey()
            | "Find" >> beam.MapTuple(lambda key, parts: {key[0]: find_duplicates(parts, self.scope)})
            | "Merge" >> beam.CombineGlobally(merge_duplicates)
        )


@dataclasses.dataclass
class DropDuplicates(beam.PTransform):
    """`drop_duplicates` over what `PlanLayout` gives; `duplicates` comes from `FindDuplicates`."""

    duplicates: Any

    def expand(self, stripes: Any) -> Any:
        """Return (stripe, rows) as `rows`, and `LaidOut` of what was dropped as `counts`."""
        drop = beam.ParDo(_drop, single(self.duplicates))
        return stripes | drop.with_outputs("counts", main="rows")


def _drop(stripe_rows: tuple[str, pa.RecordBatch], duplicates: Mapping[str, bytes]) -> Iterator[Any]:
    stripe, rows = stripe_rows
    dropped = rows.num_rows
    for _, kept in drop_duplicates(stripe_rows, duplicates):
        dropped -= kept.num_rows
        yield stripe, kept
    yield beam.pvalue.TaggedOutput("counts", LaidOut({stripe: -dropped}, duplicates=dropped))


@dataclasses.dataclass
class PlanLayout(beam.PTransform):
    """`lay_out` over a PCollection of labelled and split batches of one view."""

    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    stored: StoredViews = FLOWS_ALONE
    view: View = "flows"

    def expand(self, flows: Any) -> Any:
        """Return (stripe, rows), and a `LaidOut` for each batch, from labelled and split batches."""
        return flows | beam.ParDo(_LayOut(self)).with_outputs("counts", main="rows")


class _LayOut(beam.DoFn):
    def __init__(self, plan: PlanLayout):
        self._tasks = plan.tasks
        self._layout = plan.layout
        self._stored = plan.stored
        self._view = plan.view

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        counts = {}
        for stripe, rows in lay_out(batch, self._tasks, self._layout, self._stored, self._view):
            counts[stripe] = rows.num_rows
            yield stripe, rows
        laid_out = LaidOut(counts, count_unlabelled(batch, self._tasks), view=self._view)
        yield beam.pvalue.TaggedOutput("counts", laid_out)


@dataclasses.dataclass
class SpillRows(beam.PTransform):
    """`split_rows` of what `PlanLayout` gives, spilled for those who write the shards."""

    shards: int
    job: str
    view: View = "flows"

    def expand(self, stripes: Any) -> Any:
        """Return (`ShardKey`, `Spilled`) from (stripe, rows)."""
        return stripes | beam.ParDo(_Spill(self.shards, self.job, self.view))


@dataclasses.dataclass
class WriteShards(beam.PTransform):
    """`write_shard` over the rows that `SpillRows` spilled, once per shard.

    Args:
      label_bins: the tasks, or what `FindLabelBins` finds.
      leakage: whether flows are to be compared across splits.
    """

    folder: str
    label_bins: Any
    output: Output
    leakage: bool = False

    def expand(self, places: Any) -> Any:
        """Return `SpilledShard`s as `shards` and, with leakage, `Sighted` as `sighted` from (`ShardKey`, `Spilled`)."""
        write = beam.ParDo(_Write(self.folder, self.output, self.leakage), single(self.label_bins))
        return places | "OncePerShard" >> beam.GroupByKey() | "Write" >> write.with_outputs("sighted", main="shards")


class _Spill(beam.DoFn):
    def __init__(self, shards: int, job: str, view_name: View):
        self._shards = shards
        self._job = job
        self._view = view_name

    def start_bundle(self) -> None:
        self._buffer = SpillBuffer[ShardKey](self._job)

    def process(self, element: tuple[str, pa.RecordBatch]) -> Iterator[tuple[ShardKey, Spilled]]:
        yield from self._buffer.add(split_rows(*element, self._shards, self._view))

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._buffer.flush():
            yield GlobalWindows.windowed_value(element)


class _Write(beam.DoFn):
    def __init__(self, folder: str, output: Output, leakage: bool):
        self._folder = folder
        self._output = output
        self._leakage = leakage

    def process(self, element: tuple[ShardKey, Iterable[Spilled]], label_bins: LabelBins) -> Iterator[Any]:
        (view_name, _, split, _), places = element
        batches = read_batches(places)
        yield spill_digests(
            write_shard(element[0], batches, self._folder, label_bins.tasks, self._output), self._folder
        )
        if self._leakage and view_name == "flows":
            names = [task.name for task in label_bins.tasks]
            for sighted in shelve_sightings(batches, split, names, self._folder):
                yield beam.pvalue.TaggedOutput("sighted", sighted)
        tally(self._folder).add(shards=1)


@dataclasses.dataclass
class WriteCard(beam.PTransform):
    """`gather` and `write_card` over the findings of all steps before it."""

    manifest: CorpusManifest
    folder: str
    staging: str
    key_id: str | None
    labels: Sequence[GroupLabels]
    split_plan: SplitPlan
    rejects: pa.RecordBatch
    stored: StoredViews = FLOWS_ALONE

    def expand(self, findings: Any) -> Any:
        """Return the path of the card from PCollections of `Finding`s."""
        # elements come whatever becomes of the captures, so that a corpus without any gets its message too
        once = findings[0].pipeline | "Once" >> beam.Create([self.rejects])
        return (
            (*findings, once)
            | beam.Flatten()
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Write"
            >> beam.Map(
                _written,
                self.labels,
                self.split_plan,
                self.manifest,
                self.folder,
                self.staging,
                self.key_id,
                self.stored,
            )
        )


def _written(element: tuple[int, Iterable[Finding]], labels: Any, split_plan: SplitPlan, *rest: Any) -> str:
    return write_card(gather(labels, split_plan, element[1]), *rest)
