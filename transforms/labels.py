"""Labels by path: what a manifest says of a capture holds for every flow of its group."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.manifest import CorpusManifest
from flowloom.schemas.rows import label_column
from flowloom.schemas.tasks import Task
from flowloom.transforms.columns import array, text_column
from flowloom.transforms.groups import CaptureGroup, GroupPlan


@dataclasses.dataclass(frozen=True)
class Claim:
    """One source's word on one task for one group; `upheld` unless an earlier source said another word."""

    task: str
    source: str
    upheld: bool


@dataclasses.dataclass(frozen=True)
class GroupLabels:
    """Label numbers of one group in the order of the tasks (None = unknown), and who claimed what."""

    group: str
    codes: tuple[int | None, ...]
    claims: tuple[Claim, ...]
    has_records: bool


def label_group(group: CaptureGroup, manifest: CorpusManifest) -> GroupLabels:
    """Join the labels of all sources that match a group; the first source of a task wins, others are counted.

    With `missing: negative` under Aurora an unknown label becomes 0, the first word of its vocabulary.
    """
    codes: list[int | None] = []
    claims: list[Claim] = []
    for task in manifest.tasks:
        code: int | None = None
        for source in (manifest.captures[at] for at in group.sources):
            if task.name not in source.labels:
                continue
            claimed = task.index(source.labels[task.name])
            code = claimed if code is None else code
            claims.append(Claim(task.name, source.glob, upheld=claimed == code))
        if code is None and manifest.missing == "negative" and manifest.layout == "aurora":
            code = 0
        codes.append(code)
    return GroupLabels(group.group, tuple(codes), tuple(claims), group.has_records)


def label_groups(plan: GroupPlan, manifest: CorpusManifest) -> tuple[GroupLabels, ...]:
    """Label every group of a plan, in its order."""
    return tuple(label_group(group, manifest) for group in plan.groups)


def label_flows(flows: pa.RecordBatch, labels: tuple[GroupLabels, ...], tasks: Sequence[Task]) -> pa.RecordBatch:
    """Append one label column per task: int32 position in its vocabulary, null = unknown, by the flow's group."""
    group = pc.index_in(flows["group"], text_column([label.group for label in labels]))
    for at, task in enumerate(tasks):
        codes = array([label.codes[at] for label in labels], pa.int32())
        flows = flows.append_column(pa.field(label_column(task.name), pa.int32()), codes.take(group))
    return flows


def count_unlabelled(flows: pa.RecordBatch, tasks: Iterable[Task]) -> int:
    """Return how many flows have no label of any task."""
    known = [pc.is_valid(flows[label_column(task.name)]) for task in tasks]
    unlabelled = pc.invert(known[0])
    for valid in known[1:]:
        unlabelled = pc.and_not(unlabelled, valid)
    return pc.sum(unlabelled).as_py() or 0


@dataclasses.dataclass
class LabelFlows(beam.PTransform):
    """`label_flows` over a PCollection of flow batches."""

    labels: tuple[GroupLabels, ...]
    tasks: tuple[Task, ...]

    def expand(self, flows: Any) -> Any:
        """Return batches with label columns."""
        return flows | beam.Map(label_flows, self.labels, self.tasks).with_output_types(pa.RecordBatch)
