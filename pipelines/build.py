"""`flowloom build`: a corpus manifest to a dataset."""

import dataclasses
import os
from collections.abc import Callable

import apache_beam as beam

from flowloom.pipelines.manifests import read_manifest
from flowloom.pipelines.runners import EMBEDDED, start_pipeline, usable_cores
from flowloom.schemas.card import CARD, DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.manifest import CorpusManifest
from flowloom.transforms.cards import FAILURE, WriteCard
from flowloom.transforms.groups import GroupPlan, plan_corpus
from flowloom.transforms.labels import LabelFlows, label_groups
from flowloom.transforms.layouts import PlanLayout
from flowloom.transforms.metering import MeterGroups
from flowloom.transforms.readings import PlanReadings
from flowloom.transforms.shards import SpillRows, WriteShards
from flowloom.transforms.spill import clear
from flowloom.transforms.splits import AssignSplits, divide_groups
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
    with staged_folder(os.fspath(options.out)) as staging:
        with watched(staging, progress):
            plan = plan_corpus(manifest, folder, options.workers)
            lanes = options.workers if options.runner == EMBEDDED else None
            with start_pipeline(options.runner, options.workers, options.beam_args) as pipeline:
                compose(pipeline, plan, manifest, folder, staging, lanes)
        if not os.path.exists(f"{staging}/{CARD}"):
            with open(f"{staging}/{FAILURE}", encoding="utf-8") as file:
                raise FlowloomError(file.read())
        clear(staging)
        return read_card(staging)


def compose(
    pipeline: beam.Pipeline, plan: GroupPlan, manifest: CorpusManifest, folder: str, staging: str, lanes: int | None
) -> None:
    """Lay the road from a corpus' capture groups to the card of its dataset."""
    tasks = manifest.tasks
    labels = label_groups(plan, manifest)
    division = divide_groups(labels, tasks, manifest.splits)

    readings = pipeline | "PlanReadings" >> PlanReadings(
        plan.groups, manifest.definition, manifest.output.split_bytes, lanes
    )
    whole, joined, accounts = readings | "MeterGroups" >> MeterGroups(manifest.definition, staging)
    findings = [*accounts]
    places = []
    for name, flows in (("Whole", whole), ("Joined", joined)):
        stripes = (
            flows
            | f"LabelFlows{name}" >> LabelFlows(labels, tasks)
            | f"AssignSplits{name}" >> AssignSplits(division)
            | f"PlanLayout{name}" >> PlanLayout(tasks, manifest.layout, manifest.identity)
        )
        places.append(stripes.rows | f"SpillRows{name}" >> SpillRows(manifest.output.shards, staging))
        findings.append(stripes.counts)
    shards = places | beam.Flatten() | "WriteShards" >> WriteShards(staging, tasks, manifest.output)
    (*findings, shards) | "WriteCard" >> WriteCard(manifest, folder, staging, labels, division, plan.rejects)
