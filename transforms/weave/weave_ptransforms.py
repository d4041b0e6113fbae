"""PTransforms that merge finished datasets."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset.dataset_ptransforms import SpillRows
from flowloom.transforms.dataset.shards import ShelvedShard
from flowloom.transforms.io.progress import tally
from flowloom.transforms.weave.unite_rows import (
    JoinCounts,
    Part,
    dataset_parts,
    spilled_part,
    unsharded_rows,
    weave_shard,
)
from flowloom.transforms.weave.weave_plans import WeavePlan, shards_of
from flowloom.transforms.weave.woven_card import gather_woven, write_woven_card


@dataclasses.dataclass
class FindParts(beam.PTransform):
    """From a pipeline to the parts of each shard that becomes, of datasets in order of precedence."""

    datasets: Sequence[tuple[Path, DatasetCard]]
    plan: WeavePlan
    job: str

    def expand(self, root: Any) -> Any:
        """Return (number, `Part`), and a tuple of no or one PCollection of faults, which are sentences."""
        shards = self.plan.output.shards
        rest, aligned = [], []
        for position, (folder, card) in enumerate(self.datasets):
            for number, part in dataset_parts(position, folder, card):
                if shards_of(card) % shards:
                    rest.append(part)
                else:  # a hash modulo a multiple tells the hash modulo the shards
                    aligned.append((number % shards, part))
        parts = root | "Aligned" >> beam.Create(aligned)
        if not rest:
            return parts, ()
        read = (
            root
            | "Rest" >> beam.Create(rest)
            | "Read" >> beam.ParDo(_Read(self.plan)).with_outputs("faults", main="rows")
        )
        spilled = read.rows | "SpillRows" >> SpillRows(shards, self.job) | beam.MapTuple(spilled_part)
        return (parts, spilled) | beam.Flatten(), (read.faults,)


@dataclasses.dataclass
class WeaveShards(beam.PTransform):
    """`weave_shard` over what `FindParts` gives, once per shard."""

    plan: WeavePlan
    folder: str

    def expand(self, parts: Any) -> Any:
        """Return `JoinCounts`, `ShelvedShard`s and faults from (number, `Part`)."""
        return parts | "OncePerShard" >> beam.GroupByKey() | "Weave" >> beam.ParDo(_Weave(self.plan, self.folder))


class _Read(beam.DoFn):
    def __init__(self, plan: WeavePlan):
        self._plan = plan

    def process(self, part: Part) -> Iterator[Any]:
        try:
            yield from unsharded_rows(part, self._plan)
        except FlowloomError as error:
            yield beam.pvalue.TaggedOutput("faults", str(error))


class _Weave(beam.DoFn):
    def __init__(self, plan: WeavePlan, folder: str):
        self._plan = plan
        self._folder = folder

    def process(self, element: tuple[int, Iterable[Part]]) -> Iterator[JoinCounts | ShelvedShard | str]:
        try:
            for piece in weave_shard(element[1], self._plan, self._folder):
                yield piece
                tally(self._folder).add(shards=isinstance(piece, ShelvedShard))
        except FlowloomError as error:
            yield str(error)


@dataclasses.dataclass
class WriteWovenCard(beam.PTransform):
    """`write_woven_card` over what `WeaveShards` gives and the faults of `FindParts`."""

    plan: WeavePlan
    datasets: Sequence[tuple[Path, DatasetCard]]
    staging: str

    def expand(self, findings: Any) -> Any:
        """Return the path of the card from PCollections of `JoinCounts`, `ShelvedShard`s and faults."""
        # one comes whatever becomes of the shards, so that datasets without any get their message too
        once = findings[0].pipeline | "Once" >> beam.Create([JoinCounts.none(self.plan)])
        return (
            (*findings, once)
            | beam.Flatten()
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Write" >> beam.Map(_written, self.plan, self.datasets, self.staging)
        )


def _written(element: tuple[int, Iterable[Any]], plan: WeavePlan, datasets: Sequence[Any], staging: str) -> str:
    folders, cards = zip(*datasets, strict=True)
    return write_woven_card(gather_woven(element[1], plan), plan, folders, cards, staging)
