"""PTransforms over rows of published files."""

import dataclasses
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa

from flowloom.transforms.io.io_ptransforms import ReadSpilled
from flowloom.transforms.io.spill import Spilled


@dataclasses.dataclass
class RecallPublished(beam.PTransform):
    """`recall_published` from a pipeline: the labelled batches of one view of a `PublishedPlan`."""

    places: Sequence[Spilled]

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        """Returns labelled batches."""
        places = root | "Places" >> beam.Create(list(self.places)).with_output_types(Spilled)
        return places | "Recall" >> ReadSpilled()
