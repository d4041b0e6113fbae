"""Labels of flows: from the manifest for all flows of a capture group, from other sources for single flows."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.columns import array, text_column
from flowloom.transforms.captures.groups import CaptureGroup, GroupPlan
from flowloom.transforms.labels.join_labels import Counts, FlowSource, SourceKey, TableHits, flow_source, join_sources
from flowloom.transforms.labels.window_sources import WindowSource


@dataclasses.dataclass(frozen=True)
class LabelClaim:
    """Label value of one source for one task and group; `upheld` unless an earlier source gave another one."""

    task: str
    source: str
    upheld: bool


@dataclasses.dataclass(frozen=True)
class GroupLabels:
    """Labels of one capture group that hold for all its flows.

    Attributes:
      codes: label numbers in the order of the tasks; None if unknown, or if `sources` label single flows of the task.
      claims: label values of all sources by path.
      has_records: whether the captures have records.
      sources: all sources of the tasks that have at least one source of single flows.
      entries: names of the manifest's entries that match its captures.
    """

    group: str
    codes: tuple[int | None, ...]
    claims: tuple[LabelClaim, ...]
    has_records: bool
    sources: tuple[FlowSource, ...] = ()
    entries: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SourceCounts:
    """Counts of the sources that label single flows, and hits on the rows of tables, over one batch."""

    by_source: dict[SourceKey, Counts]
    hits: tuple[TableHits, ...] = ()


def label_group(group: CaptureGroup, manifest: CorpusManifest, windows: Sequence[WindowSource] = ()) -> GroupLabels:
    """Joins the labels of all sources that match a group; the first source of a task wins, others are counted.

    With `missing: negative` under Aurora (fused) an unknown label becomes 0, the first value of its vocabulary.
    """
    codes: list[int | None] = []
    claims: list[LabelClaim] = []
    sources: list[FlowSource] = []
    for task in manifest.claimed_tasks:
        ranked = list(_sources(group, manifest, task, windows))
        if any(source.kind != "path" for source in ranked):
            sources += ranked
            codes.append(None)
            continue
        code: int | None = None
        disputed = False
        for source in ranked:
            code = source.code if code is None else code
            claims.append(LabelClaim(task.name, source.name, upheld=source.code == code))
            disputed |= source.code != code
        if disputed and manifest.on_conflict.get(task.name) == "unknown":
            code = None
        elif code is None:
            code = manifest.absent_code
        codes.append(code)
    entries = tuple(dict.fromkeys(manifest.captures[at].name for at in group.sources))
    return GroupLabels(group.group, tuple(codes), tuple(claims), group.has_records, tuple(sources), entries)


def label_groups(
    plan: GroupPlan, manifest: CorpusManifest, windows: Sequence[WindowSource] = ()
) -> tuple[GroupLabels, ...]:
    """Labels every group of a plan, in its order."""
    return tuple(label_group(group, manifest, windows) for group in plan.groups)


def _sources(
    group: CaptureGroup, manifest: CorpusManifest, task: Task, windows: Sequence[WindowSource]
) -> Iterator[FlowSource]:
    """Yields the sources of one task for a group in order of precedence: by manifest entry, labels by path first."""
    for at in group.sources:
        entry = manifest.captures[at]
        if task.name in entry.labels:
            yield FlowSource(task.name, entry.name, "path", code=task.index(entry.labels[task.name]))
        for source in windows:
            if source.entry == at and source.spec.task == task.name:
                yield flow_source(source, task, group.group)


def label_flows(
    flows: pa.RecordBatch, labels: Sequence[GroupLabels], manifest: CorpusManifest
) -> tuple[pa.RecordBatch, SourceCounts]:
    """Appends one label column per claimed task to a batch of flows, from all sources of each flow's group.

    Returns:
      The batch, and the counts of the sources that label single flows.
    """
    sources = {label.group: label.sources for label in labels if label.sources}
    labelled, counts, hits = join_sources(label_by_path(flows, labels, manifest.claimed_tasks), sources, manifest)
    return labelled, SourceCounts(counts, tuple(hits))


def label_by_path(flows: pa.RecordBatch, labels: Sequence[GroupLabels], tasks: Sequence[Task]) -> pa.RecordBatch:
    """Appends one label column per task by the flow's group: int32 position in the vocabulary, null if unknown."""
    group = pc.index_in(flows["group"], text_column([label.group for label in labels]))
    for at, task in enumerate(tasks):
        codes = array([label.codes[at] for label in labels], pa.int32())
        flows = flows.append_column(pa.field(label_column(task.name), pa.int32()), codes.take(group))
    return flows


def count_unlabelled(flows: pa.RecordBatch, tasks: Iterable[Task]) -> int:
    """Returns the number of flows without a label of any task."""
    known = [pc.is_valid(flows[label_column(task.name)]) for task in tasks]
    unlabelled = pc.invert(known[0])
    for valid in known[1:]:
        unlabelled = pc.and_not(unlabelled, valid)
    return pc.sum(unlabelled).as_py() or 0
