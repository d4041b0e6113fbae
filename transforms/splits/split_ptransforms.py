"""PTransforms that plan and assign splits and measure leakage."""

import dataclasses

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.split_options import Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.splits.host_pairs import merge_pairs, pair_classes
from flowloom.transforms.splits.leakage import LeakagePart, PartCounts, SpilledSightings, count_part, plan_parts
from flowloom.transforms.splits.splits import (
    SplitPlan,
    assign_splits,
    assign_splits_and_bins,
    plan_pair_splits,
    plan_time_splits,
    sketch_starts,
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
    """`complete_split_plan` from all labelled flow batches."""

    split_plan: SplitPlan
    tasks: tuple[Task, ...]
    splits: Splits

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[SplitPlan]:
        """Returns the completed plan."""
        plan = flows.pipeline | "Plan" >> beam.Create([self.split_plan])
        if self.splits.by == "time":
            sketches = flows | "Sketch" >> beam.Map(sketch_starts)
            sketch = beam.pvalue.AsSingleton(sketches | "AllStarts" >> beam.CombineGlobally(merge_sketches))
            return plan | "Cut" >> beam.Map(plan_time_splits, sketch).with_output_types(SplitPlan)
        parts = flows | "Pairs" >> beam.Map(pair_classes, self.tasks, self.splits.seed)
        pairs = beam.pvalue.AsSingleton(parts | "AllPairs" >> beam.CombineGlobally(merge_pairs))
        return plan | "Place" >> beam.Map(plan_pair_splits, pairs, self.tasks).with_output_types(SplitPlan)


@dataclasses.dataclass
class AssignSplits(beam.PTransform):
    """`assign_splits` over a PCollection of batches, with a given plan or that of `CompleteSplitPlan`."""

    split_plan: SplitPlan | beam.PCollection[SplitPlan]
    view: View = "flows"

    def expand(self, flows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Appends a split column to batches of one view."""
        return flows | beam.Map(assign_splits, single(self.split_plan), self.view).with_output_types(pa.RecordBatch)


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
