"""`flowloom build`: a corpus manifest to a dataset."""

import dataclasses
import os
from collections.abc import Callable

import apache_beam as beam
import pyarrow as pa

from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.runners import EMBEDDED, start_pipeline, usable_cores
from flowloom.schemas.card import CARD, DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.manifest import CorpusManifest
from flowloom.transforms.cards import FAILURE, WriteCard
from flowloom.transforms.groups import PlanGroups
from flowloom.transforms.label_sources import WindowCaptures, WindowSource, label_folder, read_sources
from flowloom.transforms.labels import CountUnlabelled, LabelFlows, LabelGroups
from flowloom.transforms.layouts import CountRows, PlanLayout
from flowloom.transforms.metering import MeterGroups
from flowloom.transforms.shards import WriteShards
from flowloom.transforms.splits import AssignSplits, DivideGroups
from flowloom.transforms.staging import staged_folder
from flowloom.transforms.tally import Tally, watched


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What to build, where, and on which engine; `beam_args` are further options of Beam as on its command line."""

    manifest: str | os.PathLike[str]
    out: str | os.PathLike[str]
    workers: int = dataclasses.field(default_factory=usable_cores)
    runner: str = EMBEDDED
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FlowloomError(f"workers must be at least 1, got {self.workers}")


def build(options: BuildOptions, progress: Callable[[Tally], None] | None = None) -> DatasetCard:
    """Build a dataset and return its card.

    Args:
      progress: called about twice a second with what was done so far, from another thread.

    Raises:
      FlowloomError: if the manifest is invalid, the output folder exists, or no flow could be built.
    """
    manifest = read_manifest(options.manifest)
    folder = os.path.dirname(os.path.abspath(options.manifest))
    with staged_folder(os.fspath(options.out)) as staging, label_folder(staging) as scratch:
        sources, unread = read_sources(manifest, folder, scratch)
        with watched(staging, progress), start_pipeline(options.runner, options.workers, options.beam_args) as pipeline:
            compose(pipeline, manifest, folder, staging, sources, unread)
        if not os.path.exists(f"{staging}/{CARD}"):
            with open(f"{staging}/{FAILURE}", encoding="utf-8") as file:
                raise FlowloomError(file.read())
        return read_card(staging)


def compose(
    pipeline: beam.Pipeline,
    manifest: CorpusManifest,
    folder: str,
    staging: str,
    sources: tuple[WindowSource, ...],
    unread_rows: pa.RecordBatch,
) -> None:
    """Lay the road from a manifest's captures and label sources to the card of its dataset."""
    plan, unread = pipeline | "PlanGroups" >> PlanGroups(manifest, folder)
    labels = plan | "LabelGroups" >> LabelGroups(manifest, sources)
    windowed = None
    if sources:
        windowed = plan | "WindowCaptures" >> WindowCaptures(sources, manifest.tasks, manifest.definition)
        unread = (unread, windowed, pipeline | "UnreadRows" >> beam.Create([unread_rows])) | "Unread" >> beam.Flatten()
    division = labels | "DivideGroups" >> DivideGroups(manifest.tasks, manifest.splits)
    flows, accounts = plan | "MeterGroups" >> MeterGroups(manifest.definition, manifest.output.split_bytes, job=staging)

    labelled, said = flows | "LabelFlows" >> LabelFlows(labels, manifest, windowed)
    stripes = (
        labelled
        | "AssignSplits" >> AssignSplits(division)
        | "PlanLayout" >> PlanLayout(manifest.tasks, manifest.layout, manifest.identity)
    )
    shards = stripes | "WriteShards" >> WriteShards(staging, manifest.tasks, manifest.output, job=staging)

    shards | "WriteCard" >> WriteCard(
        manifest,
        folder,
        staging,
        labels=labels,
        division=division,
        accounts=accounts,
        rejects=unread,
        unlabelled=labelled | "CountUnlabelled" >> CountUnlabelled(manifest.tasks),
        rows=stripes | "CountRows" >> CountRows(),
        sources=said,
    )
