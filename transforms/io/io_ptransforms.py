"""PTransforms that keep a PCollection in files between two passes over it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from flowloom.transforms.io.spill import PENDING_BYTES, Spilled, recall, spill


def single(value: Any) -> Any:
    """Return a value as an argument of `beam.Map`: itself, or the only element of a PCollection as a side input."""
    return beam.pvalue.AsSingleton(value) if isinstance(value, beam.PCollection) else value


@dataclasses.dataclass
class KeepFlows(beam.PTransform):
    """Flow batches to their places in files below a job's folder."""

    job: str

    def expand(self, flows: Any) -> Any:
        """Return `Spilled` from flow batches."""
        return flows | beam.ParDo(_Keep(self.job))


@dataclasses.dataclass
class RecallFlows(beam.PTransform):
    """Places from `KeepFlows` to flow batches; once for each pass, so that the runner does not carry the flows."""

    def expand(self, places: Any) -> Any:
        """Return flow batches from `Spilled`."""
        recalled = beam.Map(lambda place: recall([place])).with_output_types(pa.RecordBatch)
        return places | "Spread" >> beam.Reshuffle() | "Recall" >> recalled


class _Keep(beam.DoFn):
    def __init__(self, job: str):
        self._job = job

    def start_bundle(self) -> None:
        self._pending: list[pa.RecordBatch] = []

    def process(self, flows: pa.RecordBatch) -> Iterator[Spilled]:
        self._pending.append(flows)
        if sum(held.nbytes for held in self._pending) >= PENDING_BYTES:
            yield from self._spilled()

    def finish_bundle(self) -> Iterator[Any]:
        for place in self._spilled():
            yield GlobalWindows.windowed_value(place)

    def _spilled(self) -> list[Spilled]:
        pending, self._pending = self._pending, []
        return spill(pending, self._job) if pending else []
