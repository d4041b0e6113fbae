"""PTransforms over rows of published datasets."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from flowloom.transforms.io.io_ptransforms import ReadSpilled
from flowloom.transforms.io.spill import Spilled


@dataclasses.dataclass
class RecallPublished(beam.PTransform):
    """From a pipeline to the batches of one view that `plan_published` kept."""

    places: Sequence[Spilled]

    def expand(self, root: Any) -> Any:
        """Return labelled batches."""
        return root | "Places" >> beam.Create(list(self.places)) | "Recall" >> ReadSpilled()
