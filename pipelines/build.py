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
from flowloom.transforms.duplicates import DropDuplicates
from flowloom.transforms.groups import PlanGroups
from flowloom.transforms.identities import ConcealIdentities
from flowloom.transforms.labels import CountUnlabelled, LabelFlows, LabelGroups
from flowloom.transforms.layouts import CountRows, PlanLayout
from flowloom.transforms.metering import MeterGroups
from flowloom.transforms.pseudonyms import IdentityKey, read_key
from flowloom.transforms.shards import WriteShards
from flowloom.transforms.splits import AssignSplits, DivideFlows, DivideGroups
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
      FlowloomError: if the manifest or its key file is invalid, the output folder exists, or no flow could be built.
    """
    manifest = read_manifest(options.manifest)
    folder = os.path.dirname(os.path.abspath(options.manifest))
    if measured := [task.name for task in manifest.tasks if task.kind == "auto"]:
        raise FlowloomError(
            f"{options.manifest}: builds cannot measure labels yet, got the tasks {', '.join(measured)}; remove them"
        )
    key = read_key(os.path.join(folder, manifest.key_file)) if manifest.key_file else None
    with staged_folder(os.fspath(options.out)) as staging:
        with watched(staging, progress), start_pipeline(options.runner, options.workers, options.beam_args) as pipeline:
            compose(pipeline, manifest, folder, staging, key)
        if not os.path.exists(f"{staging}/{CARD}"):
            with open(f"{staging}/{FAILURE}", encoding="utf-8") as file:
                raise FlowloomError(file.read())
        clear(staging)
        return read_card(staging)


def compose(
    pipeline: beam.Pipeline, manifest: CorpusManifest, folder: str, staging: str, key: IdentityKey | None
) -> None:
    """Lay the road from a manifest's captures to the card of its dataset."""
    plan, unread = pipeline | "PlanGroups" >> PlanGroups(manifest, folder)
    labels = plan | "LabelGroups" >> LabelGroups(manifest)
    division = labels | "DivideGroups" >> DivideGroups(manifest.tasks, manifest.splits)
    flows, accounts = plan | "MeterGroups" >> MeterGroups(manifest.definition, manifest.output.split_bytes, job=staging)

    concealed = flows | "ConcealIdentities" >> ConcealIdentities(manifest.identity, key, plan)
    labelled = concealed | "LabelFlows" >> LabelFlows(labels, manifest.tasks)
    division = labelled | "DivideFlows" >> DivideFlows(division, manifest.tasks, manifest.splits)
    stripes = (
        labelled
        | "AssignSplits" >> AssignSplits(division)
        | "PlanLayout" >> PlanLayout(manifest.tasks, manifest.layout, manifest.identity)
    )
    stripes, duplicates = stripes | "DropDuplicates" >> DropDuplicates(manifest.deduplicate)
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
        duplicates=duplicates,
        key_id=key.key_id if key else None,
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
