"""PTransforms that label flows."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.captures.groups import GroupPlan
from flowloom.transforms.labels.label_bins import (
    LabelBins,
    bin_rule,
    has_measured_bins,
    merge_sums,
    set_label_bins,
    sketch_quantity,
    sum_classes,
)
from flowloom.transforms.labels.label_flows import GroupLabels, SourceCounts, label_flows
from flowloom.transforms.labels.window_sources import WindowSource, plan_inspections, window_inspection


@dataclasses.dataclass
class FindLabelBins(beam.PTransform):
    """`find_label_bins` from all labelled and split flow batches."""

    tasks: tuple[Task, ...]

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[LabelBins]:
        """Returns one element: all tasks, measured ones with their bins."""
        named = {task.name: task for task in self.tasks}
        found = []
        for task in filter(has_measured_bins, self.tasks):
            if reference := named.get(bin_rule(task).reference or ""):
                parts = flows | f"Sum {task.name}" >> beam.Map(sum_classes, task, reference)
                merged = parts | f"AllSums {task.name}" >> beam.CombineGlobally(merge_sums, reference)
            else:
                parts = flows | f"Sketch {task.name}" >> beam.Map(sketch_quantity, task)
                merged = parts | f"AllSketches {task.name}" >> beam.CombineGlobally(merge_sketches)
            found.append(beam.pvalue.AsSingleton(merged))
        return flows.pipeline | "Tasks" >> beam.Create([self.tasks]) | "Set" >> beam.Map(set_label_bins, *found)


class LabelledFlows(NamedTuple):
    """Outputs of `LabelFlows`: batches with label columns, and the counts of their label sources."""

    flows: beam.PCollection[pa.RecordBatch]
    counts: beam.PCollection[SourceCounts]


@dataclasses.dataclass
class LabelFlows(beam.PTransform):
    """`label_flows` over a PCollection of flow batches.

    Args:
      windows: the output of `WindowCaptures`, whose files flows are matched with; None without such sources.
    """

    labels: tuple[GroupLabels, ...]
    manifest: CorpusManifest
    windows: beam.PCollection[pa.RecordBatch] | None = None

    @beam.typehints.no_annotations
    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> LabelledFlows:
        """Labels batches of `schemas.rows.FLOWS`."""
        after = [] if self.windows is None else [beam.pvalue.AsIter(self.windows)]
        labelled = flows | beam.ParDo(_LabelFlows(self.labels, self.manifest), *after).with_outputs(
            "counts", main="flows"
        )
        return LabelledFlows(labelled.flows, labelled.counts)


class _LabelFlows(beam.DoFn):
    def __init__(self, labels: tuple[GroupLabels, ...], manifest: CorpusManifest):
        self._labels = labels
        self._manifest = manifest

    def process(
        self, flows: pa.RecordBatch, _windows: Iterable[pa.RecordBatch] = ()
    ) -> Iterator[pa.RecordBatch | TaggedOutput[Literal["counts"], SourceCounts]]:
        labelled, counts = label_flows(flows, self._labels, self._manifest)
        yield labelled
        if counts.by_source:
            yield TaggedOutput("counts", counts)


@dataclasses.dataclass
class WindowCaptures(beam.PTransform):
    """`window_captures` of the inspections of a plan, shared among all workers."""

    plan: GroupPlan
    sources: tuple[WindowSource, ...]
    tasks: tuple[Task, ...]
    definition: FlowDefinition

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        """Returns batches of `REJECTS`; once all batches exist, all files of label windows exist."""
        inspections = list(plan_inspections(self.plan, self.sources))
        write = beam.Map(window_inspection, self.tasks, self.definition)
        return root | "Inspections" >> beam.Create(inspections) | "Write" >> write
