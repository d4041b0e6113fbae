"""PTransforms that label flows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.captures.groups import GroupPlan
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.labels.dividers import (
    DividedTasks,
    divide_tasks,
    dividers_of,
    is_found,
    label_quantities,
    merge_sums,
    sketch_quantity,
    sum_classes,
)
from flowloom.transforms.labels.join_labels import join_sources
from flowloom.transforms.labels.label_flows import GroupLabels, SourceCounts, label_flows
from flowloom.transforms.labels.window_sources import WindowSource, plan_inspections, window_captures


@dataclasses.dataclass
class DivideTasks(beam.PTransform):
    """`divide_tasks` over labelled and divided flow batches."""

    tasks: tuple[Task, ...]

    def expand(self, flows: Any) -> Any:
        """Return one `DividedTasks` from batches."""
        named = {task.name: task for task in self.tasks}
        found = []
        for task in filter(is_found, self.tasks):
            if reference := named.get(dividers_of(task).reference or ""):
                parts = flows | f"Sum {task.name}" >> beam.Map(sum_classes, task, reference)
                merged = parts | f"AllSums {task.name}" >> beam.CombineGlobally(merge_sums, reference)
            else:
                parts = flows | f"Sketch {task.name}" >> beam.Map(sketch_quantity, task)
                merged = parts | f"AllSketches {task.name}" >> beam.CombineGlobally(merge_sketches)
            found.append(beam.pvalue.AsSingleton(merged))
        return flows.pipeline | "Undivided" >> beam.Create([None]) | beam.Map(divide_tasks, self.tasks, *found)


@dataclasses.dataclass
class LabelQuantities(beam.PTransform):
    """`label_quantities` over a PCollection of flow batches; `tasks` may come from `DivideTasks`."""

    tasks: Any

    def expand(self, flows: Any) -> Any:
        """Return batches with the label columns of automatic tasks."""
        return flows | beam.Map(_labelled, single(self.tasks)).with_output_types(pa.RecordBatch)


def _labelled(flows: pa.RecordBatch, divided: DividedTasks) -> pa.RecordBatch:
    return label_quantities(flows, divided.tasks)


@dataclasses.dataclass
class LabelFlows(beam.PTransform):
    """`label_flows` and `join_sources` over a PCollection of flow batches.

    Args:
      written: the output of `WindowCaptures`, whose files have to be there first; None without such sources.
    """

    labels: tuple[GroupLabels, ...]
    manifest: CorpusManifest
    written: Any = None

    def expand(self, flows: Any) -> Any:
        """Return batches with label columns as `flows`, and `SourceCounts` as `counts`."""
        sides = [] if self.written is None else [beam.pvalue.AsIter(self.written)]
        return flows | beam.ParDo(_Label(self), *sides).with_outputs("counts", main="flows")


class _Label(beam.DoFn):
    def __init__(self, transform: LabelFlows):
        self._labels = transform.labels
        self._manifest = transform.manifest
        self._sources = {label.group: label.sources for label in transform.labels if label.sources}

    def process(self, flows: pa.RecordBatch, _written: Any = ()) -> Iterator[Any]:
        labelled = label_flows(flows, self._labels, self._manifest.claimed_tasks)
        labelled, said = join_sources(labelled, self._sources, self._manifest)
        yield labelled
        if said:
            yield beam.pvalue.TaggedOutput("counts", SourceCounts(said))


@dataclasses.dataclass
class WindowCaptures(beam.PTransform):
    """From a pipeline: `window_captures` over the inspections of a plan, divided among all workers."""

    plan: GroupPlan
    sources: tuple[WindowSource, ...]
    tasks: tuple[Task, ...]
    definition: FlowDefinition

    def expand(self, root: Any) -> Any:
        """Return `REJECTS` batches; when all are there, so are the files."""
        inspections = list(plan_inspections(self.plan, self.sources))
        write = beam.Map(window_captures, self.tasks, self.definition).with_output_types(pa.RecordBatch)
        return root | "Inspections" >> beam.Create(inspections) | "Write" >> write
