"""PTransforms that label flows."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.captures.groups import GroupPlan
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.labels.label_bins import (
    LabelBins,
    bin_rule,
    has_measured_bins,
    merge_sums,
    set_label_bins,
    sketch_quantity,
    sum_classes,
)
from flowloom.transforms.labels.label_flows import SourceCounts, label_flows
from flowloom.transforms.labels.plan_labels import Entries, LabelPlan, describe_labels, plan_labels, with_windows
from flowloom.transforms.labels.window_sources import Inspection, plan_inspections, window_inspection


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
    """Outputs of `LabelFlows(...).with_counts()`: flows with label columns, and counts of sources of single flows.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> (plan,) = captures | fl.beam.PlanLabels([app], {"captures/web/nginx": {"app": "nginx"}})
      >>> labelled = captures | fl.beam.MeterFlows() | fl.beam.LabelFlows(plan).with_counts()
      >>> labelled.counts  # labels by path are counted with the groups
      []
    """

    flows: beam.PCollection[pa.RecordBatch]
    counts: beam.PCollection[SourceCounts]


@dataclasses.dataclass
class PlanLabels(beam.PTransform):
    """Finds the labels of groups of captures (`ReadCaptures`) by their paths, and reads label tables.

    Args:
      tasks: the tasks, with their vocabularies.
      entries: label values by task for each glob or folder of captures, as their names were given to `ReadCaptures`; or
        a list of entries as under `captures` of a manifest, with `label_from`, `label_table` and other sources.
      missing: the meaning of an absent label, `unknown` or `negative` (the first value of the vocabulary).
      on_conflict: by task, `first`, `unknown` or `error`, where sources disagree on a flow.
      definition: the flow definition, or the name of a preset, for sources that inspect captures.
      scratch: a folder that all workers share, for sources that label single flows. It can go when the pipeline ends.

    Raises:
      FlowloomError: if an entry or a task is invalid, or an entry labels single flows without `scratch`. The pipeline
        fails with one if an entry names no capture or a label table cannot be read.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> (plan,) = captures | fl.beam.PlanLabels([app], {"captures/web/nginx": {"app": "nginx"}})
      >>> [group.codes for group in plan.labels]
      [(0,)]
    """

    tasks: Sequence[Task]
    entries: Entries
    missing: Literal["unknown", "negative"] = "unknown"
    on_conflict: Mapping[str, str] = dataclasses.field(default_factory=dict)
    definition: FlowDefinition | str = "default"
    scratch: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        options = {"missing": self.missing, "on_conflict": dict(self.on_conflict)}
        self._described = describe_labels(self.tasks, self.entries, **options)
        self._has_sources = any(entry.window_specs for entry in self._described.captures)
        if self._has_sources and self.scratch is None:
            raise FlowloomError(
                "scratch must be a folder that all workers share if entries label single flows, got none; name one"
            )

    def expand(self, plans: beam.PCollection[GroupPlan]) -> beam.PCollection[LabelPlan]:
        """Returns one element."""
        scratch = os.path.abspath(self.scratch) if self._has_sources and self.scratch is not None else None
        once = plans.pipeline | "Once" >> beam.Create([self._described])
        settings = (beam.pvalue.AsList(plans), os.getcwd(), scratch)
        planned = once | "Plan" >> beam.Map(_planned, *settings).with_output_types(LabelPlan)
        if not self._has_sources:
            return planned
        definition = FlowDefinition.of(self.definition) if isinstance(self.definition, str) else self.definition
        return planned | "WindowCaptures" >> WindowCaptures(definition)


def _planned(described: CorpusManifest, plans: Sequence[GroupPlan], folder: str, scratch: str | None) -> LabelPlan:
    return plan_labels(plans, described, folder, scratch)


@dataclasses.dataclass
class LabelFlows(beam.PTransform):
    """Appends one column `label_<task>` to batches of flows: int32 position in the vocabulary, null if unknown.

    Args:
      labels: the output of `PlanLabels`, or its only element.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> (plan,) = captures | fl.beam.PlanLabels([app], {"captures/web/nginx": {"app": "nginx"}})
      >>> flows = captures | fl.beam.MeterFlows() | fl.beam.LabelFlows(plan)
      >>> {code for batch in flows for code in batch["label_app"].to_pylist()}
      {0}
    """

    labels: LabelPlan | beam.PCollection[LabelPlan]

    def with_counts(self) -> beam.PTransform:
        """Returns a transform with the outputs `LabelledFlows`: flows, and counts of the sources of single flows."""
        return _Counted(self.labels)

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Labels batches of `schemas.rows.FLOWS`."""
        return (flows | "Counted" >> self.with_counts()).flows


@dataclasses.dataclass
class _Counted(beam.PTransform):
    labels: LabelPlan | beam.PCollection[LabelPlan]

    @beam.typehints.no_annotations
    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> LabelledFlows:
        """Returns labelled flows, and counts."""
        labelled = flows | beam.ParDo(_LabelFlows(), single(self.labels)).with_outputs("counts", main="flows")
        return LabelledFlows(labelled.flows, labelled.counts)


class _LabelFlows(beam.DoFn):
    def process(
        self, flows: pa.RecordBatch, plan: LabelPlan
    ) -> Iterator[pa.RecordBatch | TaggedOutput[Literal["counts"], SourceCounts]]:
        labelled, counts = label_flows(flows, plan.labels, plan.manifest)
        yield labelled
        if counts.by_source:
            yield TaggedOutput("counts", counts)


@dataclasses.dataclass
class WindowCaptures(beam.PTransform):
    """`window_captures` of the sources of a label plan, shared among all workers."""

    definition: FlowDefinition

    def expand(self, plan: beam.PCollection[LabelPlan]) -> beam.PCollection[LabelPlan]:
        """Returns the plan once all files of label windows exist."""
        rejects = (
            plan
            | "Inspections" >> beam.FlatMap(_inspections).with_output_types(tuple[Inspection, tuple[Task, ...]])
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.Map(_windowed, self.definition).with_output_types(pa.RecordBatch)
        )
        return plan | "Done" >> beam.Map(with_windows, beam.pvalue.AsIter(rejects)).with_output_types(LabelPlan)


def _inspections(plan: LabelPlan) -> Iterator[tuple[Inspection, tuple[Task, ...]]]:
    for work in plan_inspections(plan.groups, plan.sources):
        yield work, plan.manifest.tasks


def _windowed(element: tuple[Inspection, tuple[Task, ...]], definition: FlowDefinition) -> pa.RecordBatch:
    return window_inspection(*element, definition)
