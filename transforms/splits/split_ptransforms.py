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
from flowloom.transforms.splits.splits import Division, assign_splits, divide_pairs, divide_time, sketch_starts


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
class DivideFlows(beam.PTransform):
    """`divide_time` or `divide_pairs` over all labelled flow batches."""

    division: Division
    tasks: tuple[Task, ...]
    splits: Splits

    def expand(self, flows: Any) -> Any:
        """Return one `Division` from labelled batches and the one of `divide_groups`."""
        one = flows.pipeline | "Undivided" >> beam.Create([self.division])
        if self.splits.by == "time":
            sketches = flows | "Sketch" >> beam.Map(sketch_starts)
            sketch = beam.pvalue.AsSingleton(sketches | "AllStarts" >> beam.CombineGlobally(merge_sketches))
            return one | "Cut" >> beam.Map(divide_time, sketch).with_output_types(Division)
        parts = flows | "Pairs" >> beam.Map(pair_classes, self.tasks, self.splits.seed)
        pairs = beam.pvalue.AsSingleton(parts | "AllPairs" >> beam.CombineGlobally(merge_pairs))
        return one | "Place" >> beam.Map(divide_pairs, pairs, self.tasks).with_output_types(Division)


@dataclasses.dataclass
class AssignSplits(beam.PTransform):
    """`assign_splits` over a PCollection of batches; `division` may be a `Division` or come from `DivideFlows`."""

    division: Any
    view: View = "flows"

    def expand(self, flows: Any) -> Any:
        """Return batches with a split column."""
        return flows | beam.Map(assign_splits, single(self.division), self.view).with_output_types(pa.RecordBatch)
