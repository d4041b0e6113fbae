"""PTransforms that plan and assign splits and measure leakage."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.split_options import Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.labels.plan_labels import LabelPlan
from flowloom.transforms.splits.host_pairs import merge_pairs, pair_classes
from flowloom.transforms.splits.leakage import LeakagePart, PartCounts, SpilledSightings, count_part, plan_parts
from flowloom.transforms.splits.splits import (
    NEED_LABELS,
    SplitPlan,
    assign_splits,
    assign_splits_and_bins,
    plan_pair_splits,
    plan_splits,
    plan_time_splits,
    sketch_starts,
    splits_of,
)


@dataclasses.dataclass
class CountLeakage(beam.PTransform):
    """`count_leakage` of the sightings from `WriteShards`; all workers share the parts."""

    tasks: tuple[str, ...]

    def expand(self, sightings: beam.PCollection[SpilledSightings]) -> beam.PCollection[PartCounts]:
        """Counts every part."""
        return (
            sightings
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Plan" >> beam.FlatMapTuple(lambda _, places: plan_parts(places)).with_output_types(LeakagePart)
            | "Spread" >> beam.Reshuffle()
            | "Count" >> beam.Map(count_part, self.tasks).with_output_types(PartCounts)
        )


@dataclasses.dataclass
class CompleteSplitPlan(beam.PTransform):
    """`complete_split_plan` from all labelled flow batches; plan and tasks may be the only elements of PCollections."""

    split_plan: SplitPlan | beam.PCollection[SplitPlan]
    tasks: Sequence[Task] | beam.PCollection[Sequence[Task]]
    splits: Splits

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[SplitPlan]:
        """Returns the completed plan."""
        plan = self.split_plan
        if isinstance(plan, SplitPlan):
            plan = flows.pipeline | "Plan" >> beam.Create([plan])
        if self.splits.by == "time":
            sketches = flows | "Sketch" >> beam.Map(sketch_starts)
            sketch = beam.pvalue.AsSingleton(sketches | "AllStarts" >> beam.CombineGlobally(merge_sketches))
            return plan | "Cut" >> beam.Map(plan_time_splits, sketch).with_output_types(SplitPlan)
        tasks = single(self.tasks)
        parts = flows | "Pairs" >> beam.Map(pair_classes, tasks, self.splits.seed)
        pairs = beam.pvalue.AsSingleton(parts | "AllPairs" >> beam.CombineGlobally(merge_pairs))
        return plan | "Place" >> beam.Map(plan_pair_splits, pairs, tasks).with_output_types(SplitPlan)


class SplitFlows(NamedTuple):
    """Outputs of `AssignSplits(...).with_plan()`: flows with a split column, and the plan as the only element.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> split = captures | fl.beam.MeterFlows() | fl.beam.AssignSplits("time").with_plan()
      >>> [plan.rule.by for plan in split.plan]
      ['time']
    """

    flows: beam.PCollection[pa.RecordBatch]
    plan: beam.PCollection[SplitPlan]


@dataclasses.dataclass
class AssignSplits(beam.PTransform):
    """Appends the column `split` to batches of labelled flows: int8, 0 train, 1 validation, 2 test.

    Args:
      by: the rows that stay in one split: `flow`, `capture` (groups of captures), `host_pair`, `time` (by start, train
        first), or `auto`: by capture if every class has enough groups, else by flow.
      shares: shares of train, validation and test, which add up to 1.
      seed: seed of all choices.
      labels: the output of `PlanLabels` or its only element, for `capture`, `host_pair` and `auto`.
      plan: a plan of splits or the output of `CompleteSplitPlan`, in place of all these.
      view: the kind of rows.

    Raises:
      FlowloomError: if shares do not add up to 1, there is no such unit, or a unit needs labels and has none.

    Example:
      >>> import apache_beam as beam
      >>> import flowloom as fl
      >>> captures = ["captures/web/nginx/plain-01.pcap.zst"] | fl.beam.ReadCaptures()
      >>> flows = captures | fl.beam.MeterFlows() | fl.beam.AssignSplits("flow", shares=(0.5, 0, 0.5))
      >>> sorted({split for batch in flows for split in batch["split"].to_pylist()})
      [0, 2]
    """

    by: str = "auto"
    shares: tuple[float, float, float] = Splits().shares
    seed: int = 7
    labels: LabelPlan | beam.PCollection[LabelPlan] | None = None
    plan: SplitPlan | beam.PCollection[SplitPlan] | None = None
    view: View = "flows"

    def __post_init__(self) -> None:
        if self.plan is None:
            self._splits = splits_of(self.by, self.shares, self.seed)
            if self.labels is None and self.by in NEED_LABELS:
                raise FlowloomError(f"splits by {self.by} need labels, got none; give the output of PlanLabels")

    def with_plan(self) -> beam.PTransform:
        """Returns a transform with the outputs `SplitFlows`: flows, and the plan."""
        return _Planned(self)

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Appends a split column to batches of one view."""
        plan = self.planned(flows)
        return flows | "Assign" >> beam.Map(assign_splits, single(plan), self.view).with_output_types(pa.RecordBatch)

    def planned(self, flows: beam.PCollection[pa.RecordBatch]) -> SplitPlan | beam.PCollection[SplitPlan]:
        """Returns the plan of the splits, made from the labels and, where it needs them, from all flows."""
        if self.plan is not None:
            return self.plan
        draft: SplitPlan | beam.PCollection[SplitPlan]
        tasks: Sequence[Task] | beam.PCollection[Sequence[Task]]
        if self.labels is None or isinstance(self.labels, LabelPlan):
            labels, tasks = ((), ()) if self.labels is None else _labels_and_tasks(self.labels)
            draft = plan_splits(labels, tasks, self._splits)
        else:
            draft = self.labels | "Draft" >> beam.Map(_drafted, self._splits).with_output_types(SplitPlan)
            tasks = self.labels | "Tasks" >> beam.Map(lambda plan: plan.manifest.claimed_tasks)
        if self._splits.by not in ("time", "host_pair"):
            return draft
        return flows | "CompleteSplitPlan" >> CompleteSplitPlan(draft, tasks, self._splits)


@dataclasses.dataclass
class _Planned(beam.PTransform):
    assign: AssignSplits

    @beam.typehints.no_annotations
    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> SplitFlows:
        """Returns flows with a split column, and the plan."""
        plan = self.assign.planned(flows)
        split = flows | "AssignSplits" >> AssignSplits(plan=plan, view=self.assign.view)
        if isinstance(plan, SplitPlan):
            plan = flows.pipeline | "Plan" >> beam.Create([plan])
        return SplitFlows(split, plan)


def _labels_and_tasks(plan: LabelPlan) -> tuple[Sequence[GroupLabels], Sequence[Task]]:
    return plan.labels, plan.manifest.claimed_tasks


def _drafted(plan: LabelPlan, splits: Splits) -> SplitPlan:
    return plan_splits(*_labels_and_tasks(plan), splits)


@dataclasses.dataclass
class AssignSplitsAndBins(beam.PTransform):
    """`assign_splits_and_bins` over a PCollection of flow batches.

    Args:
      split_plan: the plan, or the output of `CompleteSplitPlan`; None for flows without a split.
      label_bins: the tasks, or the output of `FindLabelBins`; None without measured tasks.
    """

    split_plan: SplitPlan | beam.PCollection[SplitPlan] | None
    label_bins: LabelBins | beam.PCollection[LabelBins] | None

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Appends a split column and the label columns of measured tasks."""
        return flows | beam.Map(assign_splits_and_bins, single(self.split_plan), single(self.label_bins))
