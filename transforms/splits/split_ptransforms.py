"""PTransforms that plan and assign splits and measure leakage."""

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.split_options import Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.quantile_sketch import merge_sketches
from flowloom.transforms.io.io_ptransforms import single
from flowloom.transforms.splits.host_pairs import merge_pairs, pair_classes
from flowloom.transforms.splits.leakage import LeakagePart, PartCounts, count_part, plan_parts
from flowloom.transforms.splits.splits import (
    SplitPlan,
    assign_splits,
    plan_pair_splits,
    plan_time_splits,
    sketch_starts,
)


@dataclasses.dataclass
class MeasureLeakage(beam.PTransform):
    """`plan_parts` and `count_part` over all that was sighted, divided among all workers."""

    tasks: tuple[str, ...]

    def expand(self, sighted: Any) -> Any:
        """Return `PartCounts` from `Sighted`."""
        return (
            sighted
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Plan" >> beam.FlatMapTuple(lambda _, places: plan_parts(places)).with_output_types(LeakagePart)
            | "Spread" >> beam.Reshuffle()
            | "Count" >> beam.Map(count_part, self.tasks).with_output_types(PartCounts)
        )


@dataclasses.dataclass
class CompleteSplitPlan(beam.PTransform):
    """`plan_time_splits` or `plan_pair_splits` over all labelled flow batches."""

    split_plan: SplitPlan
    tasks: tuple[Task, ...]
    splits: Splits

    def expand(self, flows: Any) -> Any:
        """Return one `SplitPlan` from labelled batches and the one of `plan_splits`."""
        one = flows.pipeline | "Undivided" >> beam.Create([self.split_plan])
        if self.splits.by == "time":
            sketches = flows | "Sketch" >> beam.Map(sketch_starts)
            sketch = beam.pvalue.AsSingleton(sketches | "AllStarts" >> beam.CombineGlobally(merge_sketches))
            return one | "Cut" >> beam.Map(plan_time_splits, sketch).with_output_types(SplitPlan)
        parts = flows | "Pairs" >> beam.Map(pair_classes, self.tasks, self.splits.seed)
        pairs = beam.pvalue.AsSingleton(parts | "AllPairs" >> beam.CombineGlobally(merge_pairs))
        return one | "Place" >> beam.Map(plan_pair_splits, pairs, self.tasks).with_output_types(SplitPlan)


@dataclasses.dataclass
class AssignSplits(beam.PTransform):
    """`assign_splits` over a PCollection of batches, with a plan that may come from `CompleteSplitPlan`."""

    split_plan: Any
    view: View = "flows"

    def expand(self, flows: Any) -> Any:
        """Return batches with a split column."""
        return flows | beam.Map(assign_splits, single(self.split_plan), self.view).with_output_types(pa.RecordBatch)
