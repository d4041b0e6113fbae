"""Combine functions over the rows of a finished dataset."""

from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa

from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.transforms.inspection.dataset_sketch import DatasetSketch, merge_sketches


class SketchRows(beam.CombineFn):
    """Combines rows of one split into a `DatasetSketch`, in any order."""

    def __init__(self, card: DatasetCard, split: str):
        self._card = card
        self._split = split

    def create_accumulator(self) -> DatasetSketch:
        """Returns a sketch of no rows."""
        return DatasetSketch(self._card.tasks, self._card.definition.k)

    def add_input(self, sketch: DatasetSketch, rows: pa.RecordBatch) -> DatasetSketch:
        """Adds some rows."""
        sketch.add(self._split, rows)
        return sketch

    def merge_accumulators(self, sketches: Iterable[DatasetSketch]) -> DatasetSketch:
        """Merges sketches in the order given."""
        return merge_sketches(self.create_accumulator(), sketches)

    def compact(self, sketch: DatasetSketch) -> DatasetSketch:
        """Compacts a sketch before it is sent."""
        sketch.compact()
        return sketch

    def extract_output(self, sketch: DatasetSketch) -> DatasetSketch:
        """Returns the sketch itself, so that it can be merged with those of other folders."""
        return sketch
