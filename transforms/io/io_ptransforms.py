"""PTransforms that keep a PCollection in spill files between several passes over it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_spilled


def single(value: Any) -> Any:
    """Returns a value as an argument of `beam.Map`; the only element of a PCollection becomes a side input."""
    return beam.pvalue.AsSingleton(value) if isinstance(value, beam.PCollection) else value


@dataclasses.dataclass
class SpillBatches(beam.PTransform):
    """`spill_batches` over a PCollection: row batches to their places in files below a job's folder."""

    job: str

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Spilled]:
        """Returns a place for each batch."""
        return batches | beam.ParDo(_Spill(self.job))


@dataclasses.dataclass
class ReadSpilled(beam.PTransform):
    """`read_spilled` of each place; one transform for each pass, so that the runner does not carry the rows."""

    def expand(self, places: beam.PCollection[Spilled]) -> beam.PCollection[pa.RecordBatch]:
        """Returns a batch for each place."""
        return places | "Spread" >> beam.Reshuffle() | "Read" >> beam.Map(_read)


class _Spill(beam.DoFn):
    def __init__(self, job: str):
        self._job = job

    def start_bundle(self) -> None:
        self._buffer = SpillBuffer[None](self._job, joined=False)

    def process(self, batch: pa.RecordBatch) -> Iterator[Spilled]:
        for _, place in self._buffer.add([(None, batch)]):
            yield place

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for _, place in self._buffer.flush():
            yield GlobalWindows.windowed_value(place)


def _read(place: Spilled) -> pa.RecordBatch:
    return read_spilled([place])
