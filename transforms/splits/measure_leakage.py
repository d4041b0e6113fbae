"""Leakage in a pipeline; `leakage.py` itself is used by commands that do not load Beam."""

import dataclasses
from typing import Any

import apache_beam as beam

from flowloom.transforms.splits.leakage import LeakagePart, PartCounts, count_part, plan_parts


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
