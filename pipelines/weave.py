"""`flowloom weave`: converts a finished dataset to another layout, or merges several, from their shards alone."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam

from flowloom.pipelines.engines.embedded import EMBEDDED, running
from flowloom.pipelines.job_events import card_event, report_files
from flowloom.schemas.cores import usable_cores
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, CARD, REJECTS_TABLE, DatasetCard, read_card
from flowloom.schemas.dataset.stored_files import table_file
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.io.spill import clear
from flowloom.transforms.io.staging import staged_folder
from flowloom.transforms.io.tally import watched
from flowloom.transforms.io.verdict import require_success
from flowloom.transforms.weave.weave_plans import WeavePlan, WeaveRules, plan_weave
from flowloom.transforms.weave.weave_ptransforms import FindParts, MergeShards, WriteMergedCard


@dataclasses.dataclass(frozen=True)
class WeaveOptions:
    """Datasets to merge, in order of precedence, the folder to make, and the rules."""

    datasets: tuple[str | os.PathLike[str], ...]
    out: str | os.PathLike[str]
    rules: WeaveRules
    workers: int = dataclasses.field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        if not self.datasets:
            raise FlowloomError("weave needs at least 1 dataset, got none; name a dataset directory")
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")


def weave(options: WeaveOptions, progress: Callable[[Progress], None] = ignore_progress) -> DatasetCard:
    """Converts a dataset to another layout, or merges several, and returns the card of the new one.

    Args:
      progress: called about twice a second, from another thread.

    Raises:
      FlowloomError: if a dataset is not finished, the datasets do not fit together, a file is damaged, a flow is in
        several splits, no row is left, or the output folder exists.
    """
    datasets = [(Path(folder), read_card(folder)) for folder in options.datasets]
    plan = plan_weave([card for _, card in datasets], options.rules)
    for folder, card in datasets:  # shards are checked by the workers that read them
        for name in (CAPTURES_TABLE, REJECTS_TABLE):
            table_file(folder, card, name)
    with staged_folder(os.fspath(options.out)) as staging:
        count = watched(staging, progress, "{shards:,} shards written")
        with count, running(EMBEDDED, options.workers, (), staging) as pipeline:
            compose(pipeline, datasets, plan, staging)
        require_success(staging, CARD)
        clear(staging)
        card = read_card(staging)
        report_files(staging, card, progress, os.fspath(options.out))
    progress(card_event(options.out, card))
    return card


def compose(pipeline: beam.Pipeline, datasets: Sequence[tuple[Path, DatasetCard]], plan: WeavePlan, out: str) -> None:
    """Builds the pipeline from the shards of datasets to the card of the merged one."""
    found = pipeline | "FindParts" >> FindParts(datasets, plan, out)
    merged = found.parts | "MergeShards" >> MergeShards(plan, out)
    faults = (found.faults, merged.faults) | "AllFaults" >> beam.Flatten()
    merged._replace(faults=faults) | "WriteMergedCard" >> WriteMergedCard(plan, datasets, out)
