"""PTransforms that read rows, score them and write scores."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import View
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.dataset.shards import shard_numbers
from flowloom.transforms.io.progress import tally
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_batches
from flowloom.transforms.metering.scheduling import deal
from flowloom.transforms.score.score_inputs import RowGroupPart, read_part
from flowloom.transforms.score.score_rows import (
    HELD_BYTES,
    RowScorer,
    ScoreCounts,
    WrittenScores,
    score_rows,
    write_scores,
)
from flowloom.transforms.score.write_score_card import ScorePlan, write_score_card


@dataclasses.dataclass
class ReadParts(beam.PTransform):
    """`read_part` over row groups, dealt out by their rows; those that cannot be read are told by themselves.

    Args:
      lanes: as of `PlanReadings`.
    """

    parts: Sequence[RowGroupPart]
    lanes: int | None = None

    def expand(self, root: Any) -> Any:
        """Return batches as `rows`, and from unreadable row groups (reject row, rows lost) as `unreadable`."""
        dealt = deal([part.rows for part in self.parts], self.lanes or len(self.parts) or 1)
        return (
            root
            | "Parts" >> beam.Create(list(zip(dealt, self.parts, strict=True)), reshuffle=False)
            | "Spread" >> beam.GroupByKey()
            | "Dealt" >> beam.FlatMapTuple(lambda _, parts: parts)
            | "Read" >> beam.ParDo(_Read()).with_outputs("unreadable", main="rows")
        )


class _Read(beam.DoFn):
    def process(self, part: RowGroupPart) -> Iterator[Any]:
        try:
            yield from read_part(part)
        except (OSError, pa.ArrowInvalid) as error:
            detail = f"row group {part.index} cannot be read ({error}); copy the file again"
            reject = reject_rows([(part.path, part.index, RejectReason.UNREADABLE, detail)])
            yield beam.pvalue.TaggedOutput("unreadable", (reject, part.rows))


@dataclasses.dataclass
class ScoreRows(beam.PTransform):
    """`score_rows` over batches, spilled by shard for those who write them.

    Args:
      load: makes the scorer, once in each process.
      job: the folder that rows are spilled to.
      addresses: whether the scored rows may have addresses.
    """

    load: Callable[[], RowScorer]
    job: str
    shards: int
    addresses: bool = True

    def expand(self, batches: Any) -> Any:
        """Return (number of shard, `Spilled`) as `scores`, and `ScoreCounts` as `counts`."""
        score = _Score(self.load, self.job, self.shards, self.addresses)
        return batches | beam.ParDo(score).with_outputs("counts", main="scores")


@dataclasses.dataclass
class WriteScores(beam.PTransform):
    """`write_scores` over what `ScoreRows` spilled, once per shard."""

    folder: str
    shards: int
    tasks: dict[str, int]
    view: View = "flows"

    def expand(self, places: Any) -> Any:
        """Return `WrittenScores`."""
        return (
            places
            | "OncePerShard" >> beam.GroupByKey()
            | "Write" >> beam.Map(_written, self.shards, self.folder, self.tasks, self.view)
        )


def _written(element: tuple[int, Iterable[Spilled]], shards: int, folder: str, *rest: Any) -> WrittenScores:
    shard, places = element
    written = write_scores(shard, shards, read_batches(places), folder, *rest)
    tally(folder).add(shards=1)
    return written


class _Score(beam.DoFn):
    def __init__(self, load: Callable[[], RowScorer], job: str, shards: int, addresses: bool):
        self._load = load
        self._shared = Shared()
        self._job = job
        self._shards = shards
        self._addresses = addresses

    def start_bundle(self) -> None:
        self._scorer = self._shared.acquire(self._load)
        self._buffer = SpillBuffer[int](self._job, HELD_BYTES)
        self._counts = ScoreCounts()

    def process(self, rows: pa.RecordBatch) -> Iterator[tuple[int, Spilled]]:
        scores, counts = score_rows(self._scorer, rows, self._addresses)
        self._counts = self._counts + counts
        numbers = shard_numbers(scores, self._shards)
        order = np.argsort(numbers, kind="stable")
        by_shard = rearranged(scores, order)
        bounds = np.searchsorted(numbers[order], np.arange(self._shards + 1)).tolist()
        yield from self._buffer.add(
            (shard, by_shard.slice(start, stop - start))
            for shard, (start, stop) in enumerate(itertools.pairwise(bounds))
            if stop > start
        )

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._buffer.flush():
            yield GlobalWindows.windowed_value(element)
        yield beam.pvalue.TaggedOutput("counts", GlobalWindows.windowed_value(self._counts))


@dataclasses.dataclass
class WriteScoreCard(beam.PTransform):
    """`write_score_card` over the findings of all steps before it.

    Args:
      known: reject rows from before the pipeline.
    """

    plan: ScorePlan
    staging: str
    known: pa.RecordBatch

    def expand(self, findings: Any) -> Any:
        """Return the path of the card from PCollections of `ScoreFinding`s."""
        once = findings[0].pipeline | "Once" >> beam.Create([self.known])
        return (
            (*findings, once)
            | beam.Flatten()
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Write" >> beam.MapTuple(lambda _, found: write_score_card(found, self.plan, self.staging))
        )
