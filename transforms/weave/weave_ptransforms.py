"""PTransforms that merge finished datasets."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList, PBegin, TaggedOutput

from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset.dataset_ptransforms import SpillRows
from flowloom.transforms.dataset.shards import SpilledShard
from flowloom.transforms.io.tally import tally
from flowloom.transforms.weave.merge_rows import (
    MergeCounts,
    Part,
    merge_shard,
    place_parts,
    spilled_part,
    unsharded_rows,
)
from flowloom.transforms.weave.weave_plans import WeavePlan
from flowloom.transforms.weave.write_merged_card import write_merged_card


class FoundParts(NamedTuple):
    """Outputs of `FindParts`: parts with the numbers of their new shards, and the faults of unreadable shards."""

    parts: beam.PCollection[tuple[int, Part]]
    faults: beam.PCollection[str]


@dataclasses.dataclass
class FindParts(beam.PTransform):
    """`find_parts` of datasets in order of precedence, from a pipeline."""

    datasets: Sequence[tuple[Path, DatasetCard]]
    plan: WeavePlan
    job: str

    @beam.typehints.no_annotations
    def expand(self, root: PBegin) -> FoundParts:
        """Returns whole shards unchanged, and spills the rows of other shards to new shards."""
        placed, misplaced = place_parts(self.datasets, self.plan)
        parts = root | "Placed" >> beam.Create(placed)
        read = (
            root
            | "Misplaced" >> beam.Create(misplaced)
            | "Read" >> beam.ParDo(_Read(self.plan)).with_outputs("faults", main="rows")
        )
        spilled = (
            read.rows
            | "SpillRows" >> SpillRows(self.plan.output.shards, self.job)
            | "Parts" >> beam.MapTuple(spilled_part)
        )
        return FoundParts((parts, spilled) | beam.Flatten(), read.faults)


class MergedShards(NamedTuple):
    """Outputs of `MergeShards`: new shards, their counts, and the faults of shards that cannot be read."""

    shards: beam.PCollection[SpilledShard]
    counts: beam.PCollection[MergeCounts]
    faults: beam.PCollection[str]


@dataclasses.dataclass
class MergeShards(beam.PTransform):
    """`merge_shards` over the parts of `FindParts`, each new shard in one piece."""

    plan: WeavePlan
    folder: str

    @beam.typehints.no_annotations
    def expand(self, parts: beam.PCollection[tuple[int, Part]]) -> MergedShards:
        """Groups the parts by shard, and writes each shard."""
        merge = beam.ParDo(_Merge(self.plan, self.folder)).with_outputs("counts", "faults", main="shards")
        merged = parts | "OncePerShard" >> beam.GroupByKey() | "Merge" >> merge
        return MergedShards(merged.shards, merged.counts, merged.faults)


class _Read(beam.DoFn):
    def __init__(self, plan: WeavePlan):
        self._plan = plan

    def process(self, part: Part) -> Iterator[tuple[str, pa.RecordBatch] | TaggedOutput[Literal["faults"], str]]:
        try:
            yield from unsharded_rows(part, self._plan)
        except FlowloomError as error:
            yield TaggedOutput("faults", str(error))


class _Merge(beam.DoFn):
    def __init__(self, plan: WeavePlan, folder: str):
        self._plan = plan
        self._folder = folder

    def process(
        self, element: tuple[int, Iterable[Part]]
    ) -> Iterator[SpilledShard | TaggedOutput[Literal["counts"], MergeCounts] | TaggedOutput[Literal["faults"], str]]:
        try:
            counts, shards = merge_shard(element[1], self._plan, self._folder)
        except FlowloomError as error:
            yield TaggedOutput[Literal["faults"], str]("faults", str(error))
            return
        yield TaggedOutput[Literal["counts"], MergeCounts]("counts", counts)
        yield from shards
        tally(self._folder).add(shards=len(shards))


@dataclasses.dataclass
class WriteMergedCard(beam.PTransform):
    """`write_merged_card` over the outputs of `MergeShards`, whose faults include those of `FindParts`."""

    plan: WeavePlan
    datasets: Sequence[tuple[Path, DatasetCard]]
    staging: str

    @beam.typehints.no_annotations
    def expand(self, merged: MergedShards) -> beam.PCollection[str]:
        """Returns the path of the card, or of the faults."""
        write = beam.Map(_write, *[AsList(each) for each in merged], self.plan, self.datasets, self.staging)
        return merged.shards.pipeline | "Once" >> beam.Create([None]) | "Write" >> write


def _write(
    _: None,
    shards: list[SpilledShard],
    counts: list[MergeCounts],
    faults: list[str],
    plan: WeavePlan,
    datasets: Sequence[tuple[Path, DatasetCard]],
    staging: str,
) -> str:
    return write_merged_card(shards, counts, faults, plan, datasets, staging)
