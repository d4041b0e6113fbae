"""PTransforms that read rows, score them, and write scores and their card."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsList, PBegin, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.dataset.shards import shard_numbers
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_batches
from flowloom.transforms.io.tally import tally
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.scheduling import deal
from flowloom.transforms.score.score_inputs import LostRows, RowGroupPart, lost_rows, read_part
from flowloom.transforms.score.score_rows import (
    HELD_BYTES,
    RowScorer,
    ScoreCounts,
    WrittenScores,
    score_rows,
    write_scores,
)
from flowloom.transforms.score.write_score_card import ScorePlan, write_score_card


class PartRows(NamedTuple):
    """Outputs of `ReadParts`: batches of rows, and the row groups that cannot be read."""

    rows: beam.PCollection[pa.RecordBatch]
    lost: beam.PCollection[LostRows]


@dataclasses.dataclass
class ReadParts(beam.PTransform):
    """`read_parts` from a pipeline: row groups of Parquet files, dealt to workers by their rows.

    Args:
      workers: number of workers that get an equal share of the rows; None if the runner gives work to idle workers.
    """

    parts: Sequence[RowGroupPart]
    workers: int | None = None

    @beam.typehints.no_annotations
    def expand(self, root: PBegin) -> PartRows:
        """Reads each row group in one piece."""
        keys = deal([part.rows for part in self.parts], self.workers or len(self.parts) or 1)
        read = (
            root
            | "Parts" >> beam.Create(list(zip(keys, self.parts, strict=True)), reshuffle=False)
            | "Spread" >> beam.GroupByKey()
            | "EachPart" >> beam.FlatMapTuple(lambda _, parts: parts).with_output_types(RowGroupPart)
            | "Read" >> beam.ParDo(_Read()).with_outputs("lost", main="rows")
        )
        return PartRows(read.rows, read.lost)


class _Read(beam.DoFn):
    def process(self, part: RowGroupPart) -> Iterator[pa.RecordBatch | TaggedOutput[Literal["lost"], LostRows]]:
        try:
            yield from read_part(part)
        except FlowloomError as error:
            yield TaggedOutput("lost", lost_rows(part, error))


class ScoredBatches(NamedTuple):
    """Outputs of `ScoreRows`: places of scores by shard number, and counts of the rows."""

    scores: beam.PCollection[tuple[int, Spilled]]
    counts: beam.PCollection[ScoreCounts]


@dataclasses.dataclass
class ScoreRows(beam.PTransform):
    """`score_rows` over batches, whose scores are spilled by shard.

    Args:
      load: returns the scorer; called once in each process.
      job: the folder for spill files.
      shards: number of shards that the scores are written to.
      addresses: whether the scored rows may have addresses.
    """

    load: Callable[[], RowScorer]
    job: str
    shards: int
    addresses: bool = True

    @beam.typehints.no_annotations
    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> ScoredBatches:
        """Scores batches with the columns that the model needs."""
        score = _Score(self.load, self.job, self.shards, self.addresses)
        scored = batches | beam.ParDo(score).with_outputs("counts", main="scores")
        return ScoredBatches(scored.scores, scored.counts)


@dataclasses.dataclass
class WriteScores(beam.PTransform):
    """`write_scores` over the outputs of `ScoreRows`, each shard in one piece."""

    folder: str
    shards: int
    tasks: dict[str, int]
    view: View = "flows"

    def expand(self, places: beam.PCollection[tuple[int, Spilled]]) -> beam.PCollection[WrittenScores]:
        """Groups the places by shard, and writes each shard."""
        write = beam.Map(_write_shard, self.shards, self.folder, self.tasks, self.view)
        return places | "OncePerShard" >> beam.GroupByKey() | "Write" >> write


def _write_shard(
    element: tuple[int, Iterable[Spilled]], shards: int, folder: str, tasks: dict[str, int], view: View
) -> WrittenScores:
    shard, places = element
    written = write_scores(shard, shards, read_batches(places), folder, tasks, view)
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

    def process(
        self, rows: pa.RecordBatch
    ) -> Iterator[tuple[int, Spilled] | TaggedOutput[Literal["counts"], ScoreCounts]]:
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

    def finish_bundle(self) -> Iterator[WindowedValue | TaggedOutput[Literal["counts"], WindowedValue]]:
        for element in self._buffer.flush():
            yield GlobalWindows.windowed_value(element)
        yield TaggedOutput("counts", GlobalWindows.windowed_value(self._counts))


class ScoreResults(NamedTuple):
    """Inputs of `WriteScoreCard`, from all steps before it."""

    shards: beam.PCollection[WrittenScores]
    counts: beam.PCollection[ScoreCounts]
    accounts: beam.PCollection[GroupAccount]
    lost: beam.PCollection[LostRows]


@dataclasses.dataclass
class WriteScoreCard(beam.PTransform):
    """`write_score_card` over the results of all steps before it.

    Args:
      rejects: reject rows from before the pipeline.
    """

    plan: ScorePlan
    staging: str
    rejects: pa.RecordBatch

    @beam.typehints.no_annotations
    def expand(self, results: ScoreResults) -> beam.PCollection[str]:
        """Returns the path of the card, or of the faults."""
        inputs = [AsList(each) for each in results]
        write = beam.Map(_write_card, *inputs, self.rejects, self.plan, self.staging)
        return results.shards.pipeline | "Once" >> beam.Create([None]) | "Write" >> write


def _write_card(
    _: None,
    shards: list[WrittenScores],
    counts: list[ScoreCounts],
    accounts: list[GroupAccount],
    lost: list[LostRows],
    rejects: pa.RecordBatch,
    plan: ScorePlan,
    staging: str,
) -> str:
    return write_score_card(shards, counts, accounts, lost, rejects, plan, staging)
