"""Labels: what a manifest says of captures holds for every flow of their group; other sources label single flows."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.manifest import CorpusManifest
from flowloom.schemas.rows import label_column
from flowloom.schemas.tasks import Task
from flowloom.transforms.groups import CaptureGroup, GroupPlan
from flowloom.transforms.label_joins import FlowSource, add_counts, flow_source, join_sources
from flowloom.transforms.label_sources import WindowSource


@dataclasses.dataclass(frozen=True)
class Claim:
    """One source's word on one task for one group; `upheld` unless an earlier source said another word."""

    task: str
    source: str
    upheld: bool


@dataclasses.dataclass(frozen=True)
class GroupLabels:
    """Label numbers of one group in the order of the tasks (None = unknown), and who claimed what.

    A task that any source labels flow by flow has no number and no claims here: `sources` are all of its sources.
    """

    group: str
    codes: tuple[int | None, ...]
    claims: tuple[Claim, ...]
    has_records: bool
    sources: tuple[FlowSource, ...] = ()


def label_group(group: CaptureGroup, manifest: CorpusManifest, windows: Sequence[WindowSource] = ()) -> GroupLabels:
    """Join the labels of all sources that match a group; the first source of a task wins, others are counted.

    With `missing: negative` under Aurora an unknown label becomes 0, the first word of its vocabulary.
    """
    codes: list[int | None] = []
    claims: list[Claim] = []
    sources: list[FlowSource] = []
    for task in manifest.tasks:
        ranked = list(_sources(group, manifest, task, windows))
        if any(source.kind != "path" for source in ranked):
            sources += ranked
            codes.append(None)
            continue
        code: int | None = None
        disputed = False
        for source in ranked:
            code = source.code if code is None else code
            claims.append(Claim(task.name, source.name, upheld=source.code == code))
            disputed |= source.code != code
        if disputed and manifest.on_conflict.get(task.name) == "unknown":
            code = None
        elif code is None:
            code = manifest.absent_code
        codes.append(code)
    return GroupLabels(group.group, tuple(codes), tuple(claims), group.has_records, tuple(sources))


def label_groups(
    plan: GroupPlan, manifest: CorpusManifest, windows: Sequence[WindowSource] = ()
) -> tuple[GroupLabels, ...]:
    """Label every group of a plan, in its order."""
    return tuple(label_group(group, manifest, windows) for group in plan.groups)


def _sources(
    group: CaptureGroup, manifest: CorpusManifest, task: Task, windows: Sequence[WindowSource]
) -> Iterator[FlowSource]:
    """Yield the sources of one task for a group in order of precedence: by entry, its labels first."""
    for at in group.sources:
        entry = manifest.captures[at]
        if task.name in entry.labels:
            yield FlowSource(task.name, entry.glob, "path", code=task.index(entry.labels[task.name]))
        for source in windows:
            if source.entry == at and source.spec.task == task.name:
                yield flow_source(source, task, group.group)


def label_flows(flows: pa.RecordBatch, labels: tuple[GroupLabels, ...], tasks: Sequence[Task]) -> pa.RecordBatch:
    """Append one label column per task: int32 position in its vocabulary, null = unknown, by the flow's group."""
    group = pc.index_in(flows["group"], pa.array([label.group for label in labels], pa.string()))
    for at, task in enumerate(tasks):
        codes = pa.array([label.codes[at] for label in labels], pa.int32())
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
class LabelGroups(beam.PTransform):
    """`label_groups` over the one `GroupPlan` of a pipeline."""

    manifest: CorpusManifest
    windows: tuple[WindowSource, ...] = ()

    def expand(self, plan: Any) -> Any:
        """Return one tuple of `GroupLabels` from one `GroupPlan`."""
        return plan | beam.Map(label_groups, self.manifest, self.windows)


@dataclasses.dataclass
class LabelFlows(beam.PTransform):
    """`label_flows` and `join_sources` over a PCollection of flow batches; `labels` is the output of `LabelGroups`.

    Args:
      written: the output of `WindowCaptures`, whose files have to be there first; None without such sources.
    """

    labels: Any
    manifest: CorpusManifest
    written: Any = None

    def expand(self, flows: Any) -> Any:
        """Return batches with label columns, and what each source said ((task, source), `Counts`)."""
        sides: list[Any] = [beam.pvalue.AsSingleton(self.labels)]
        sides += [] if self.written is None else [beam.pvalue.AsIter(self.written)]
        labelled, counts = flows | beam.ParDo(_Label(self.manifest), *sides).with_outputs("counts", main="flows")
        return labelled, counts | beam.CombinePerKey(add_counts)


class _Label(beam.DoFn):
    def __init__(self, manifest: CorpusManifest):
        self._manifest = manifest

    def process(self, flows: pa.RecordBatch, labels: tuple[GroupLabels, ...], written: Any = ()) -> Iterator[Any]:
        tasks = self._manifest.tasks
        by_group = {label.group: label.sources for label in labels if label.sources}
        labelled, counts = join_sources(label_flows(flows, labels, tasks), by_group, self._manifest)
        yield labelled
        for key, counted in counts.items():
            yield beam.pvalue.TaggedOutput("counts", (key, counted))


@dataclasses.dataclass
class CountUnlabelled(beam.PTransform):
    """`count_unlabelled` summed over a PCollection of labelled batches (one element)."""

    tasks: tuple[Task, ...]

    def expand(self, flows: Any) -> Any:
        """Return one count from labelled batches."""
        return flows | beam.Map(count_unlabelled, self.tasks) | beam.CombineGlobally(sum)
