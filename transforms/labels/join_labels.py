"""Label joins: merge the labels of all sources of a task for each flow, by precedence, and count them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.columns import labels_column
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.labels.packet_labels import rule_codes
from flowloom.transforms.labels.window_sources import Kind, WindowSource
from flowloom.transforms.windows.table_rows import touch_table
from flowloom.transforms.windows.window_files import load_index
from flowloom.transforms.windows.window_match import NO_WINDOW, match_windows

_JOINED = (*WINDOW_KEY, "start", "duration_ns", "packets_fwd", "packets_bwd")
"""Columns that a join reads; sequences are not among them."""


@dataclasses.dataclass(frozen=True)
class FlowSource:
    """One source of one task for the flows of one group.

    Attributes:
      code: label number of all flows, for a source by path.
      windows: the file of label windows, for other sources.
      tolerance_ns: maximum distance of windows and flows (see `match_windows`).
      clock_offset_s: the clock of a table minus that of the captures.
      rule: the rule of a packet table.
      default: the label number of flows that no window matches; None for none.
    """

    task: str
    name: str
    kind: Literal["path", "published"] | Kind
    code: int = UNKNOWN_LABEL
    windows: str = ""
    tolerance_ns: int = 0
    clock_offset_s: float = 0.0
    rule: Literal["any", "majority", "all"] | None = None
    default: int | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of flows of one source by outcome; the fields of `schemas.card.LabelCoverage`."""

    flows: int = 0
    labelled: int = 0
    conflicts: int = 0
    ambiguous: int = 0
    defaulted: int = 0
    unknown_words: int = 0
    unmatched: int = 0
    confidence: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        confidence = sum_by_key([self.confidence, other.confidence])
        return Counts(**numbers, confidence=dict(sorted(confidence.items())))


_NUMBERS = tuple(field.name for field in dataclasses.fields(Counts) if field.name != "confidence")

SourceKey = tuple[str, str]
"""Task and name of a source."""

TableHits = tuple[str, str]
"""Paths of a table's index and of hits of flows on its rows."""


@dataclasses.dataclass(frozen=True)
class SourceLabels:
    """Labels that one source gives to a batch of flows.

    Attributes:
      codes: int32 [rows], label number, `UNKNOWN_LABEL` or `NO_WINDOW`.
      ambiguous: bool [rows], true where the source has several labels or its rule gives none.
      defaulted: bool [rows], true where the label is the default of the source.
      unmatched: bool [rows], true where the source has no window for the flow.
      confidence: uint8 [rows], confidence of each label; None if the source has none.
    """

    codes: np.ndarray
    ambiguous: np.ndarray
    defaulted: np.ndarray
    unmatched: np.ndarray
    confidence: np.ndarray | None = None


def flow_source(source: WindowSource, task: Task, group: str) -> FlowSource:
    """Returns a source of windows for the flows of one group."""
    spec = source.spec
    default = spec.default if isinstance(spec, LabelTable) else None
    return FlowSource(
        spec.task,
        spec.name,
        source.kind,
        windows=source.windows(group),
        tolerance_ns=source.tolerance_ns,
        clock_offset_s=spec.clock_offset_s if isinstance(spec, LabelTable) else 0.0,
        rule=spec.rule if isinstance(spec, PacketTable) else None,
        default=None if default is None else task.index(default),
    )


def apply_source(source: FlowSource, flows: pa.RecordBatch) -> SourceLabels:
    """Returns the labels that a source gives to flows of its group."""
    nowhere = np.zeros(flows.num_rows, bool)
    if source.kind == "path":
        return SourceLabels(np.full(flows.num_rows, source.code, np.int32), nowhere, nowhere, nowhere)
    index = load_index(source.windows)
    match = match_windows(flows, index, source.tolerance_ns, last_resort=0 if source.rule == "any" else None)
    codes, ambiguous, defaulted = match.codes, match.several, nowhere
    if source.rule is not None:  # labels of packets are votes, so a flow is ambiguous only if the vote decides nothing
        codes, ambiguous = rule_codes(match, flows, source.rule)
    unmatched = codes == NO_WINDOW
    if source.default is not None:
        defaulted = unmatched
        codes = np.where(defaulted, np.int32(source.default), codes)
    confidence = match.confidence if len(match.confidence) else None
    return SourceLabels(codes, ambiguous, defaulted, unmatched, confidence)


def merge_labels(
    sources: Sequence[SourceLabels], on_conflict: str, missing: int | None
) -> tuple[np.ndarray, list[Counts]]:
    """Merges the labels of the sources of one task, the highest precedence first.

    Args:
      on_conflict: `unknown` makes flows unknown for which sources differ, or one source has several labels.
      missing: the label number of flows for which no source has a label; None leaves them unknown.

    Returns:
      Label numbers, int32 [rows], below 0 where unknown, and the counts of each source.
    """
    codes = np.full(len(sources[0].codes), NO_WINDOW, np.int32)
    disputed = np.zeros(len(codes), bool)
    counts = []
    for given in sources:
        labelled = given.codes >= 0
        conflicts = labelled & (codes >= 0) & (codes != given.codes)
        unknown = (given.codes == UNKNOWN_LABEL) & ~given.ambiguous
        counts.append(
            Counts(
                flows=len(codes),
                labelled=int(np.count_nonzero(labelled)),
                conflicts=int(np.count_nonzero(conflicts)),
                ambiguous=int(np.count_nonzero(given.ambiguous)),
                defaulted=int(np.count_nonzero(given.defaulted)),
                unknown_words=int(np.count_nonzero(unknown)),
                unmatched=int(np.count_nonzero(given.unmatched)),
                confidence=_by_confidence(given.confidence, labelled),
            )
        )
        disputed |= conflicts | given.ambiguous
        codes = np.where(codes >= 0, codes, np.maximum(codes, given.codes))
    if missing is not None:
        codes = np.where(codes == NO_WINDOW, np.int32(missing), codes)
    if on_conflict == "unknown":
        codes = np.where(disputed, np.int32(UNKNOWN_LABEL), codes)
    return codes, counts


def join_sources(
    flows: pa.RecordBatch, sources: Mapping[str, Sequence[FlowSource]], manifest: CorpusManifest
) -> tuple[pa.RecordBatch, dict[SourceKey, Counts], list[TableHits]]:
    """Writes the labels of tasks with sources of single flows into the label columns of a batch.

    Args:
      flows: `schemas.rows.FLOWS` with label columns.
      sources: by group, all sources of such tasks in order of precedence; other groups keep their labels.

    Returns:
      The batch, the counts of each source, and the hits on the rows of each table.
    """
    counted: dict[SourceKey, Counts] = {}
    hits: list[TableHits] = []
    if not sources:
        return flows, counted, hits
    groups = pc.unique(flows["group"]).to_pylist()
    joined = flows.select(_JOINED)
    for group in groups:
        if group not in sources:
            continue
        rows = pc.equal(flows["group"], group)
        within = joined if len(groups) == 1 else joined.filter(rows)
        for task in manifest.claimed_tasks:
            of_task = [source for source in sources[group] if source.task == task.name]
            if not of_task:
                continue
            on_conflict = manifest.on_conflict.get(task.name, "first")
            labels = [apply_source(source, within) for source in of_task]
            codes, counts = merge_labels(labels, on_conflict, manifest.absent_code)
            flows = _written(flows, task, rows, codes)
            for source, count in zip(of_task, counts, strict=True):
                counted = sum_by_key([counted, {(source.task, source.name): count}])
                if source.kind == "table":
                    hits.append((source.windows, touch_table(within, source.windows, source.tolerance_ns)))
    return flows, counted, hits


def _by_confidence(confidence: np.ndarray | None, labelled: np.ndarray) -> dict[int, int]:
    """Returns the number of labelled flows by confidence."""
    if confidence is None:
        return {}
    values, flows = np.unique(confidence[labelled], return_counts=True)
    return dict(zip(values.tolist(), flows.tolist(), strict=True))


def _written(flows: pa.RecordBatch, task: Task, rows: pa.BooleanArray, codes: np.ndarray) -> pa.RecordBatch:
    """Returns a batch with the labels of some rows replaced, null where a code is below 0."""
    name = label_column(task.name)
    replaced = pc.replace_with_mask(flows[name], rows, labels_column(codes))
    return flows.set_column(flows.schema.get_field_index(name), flows.schema.field(name), replaced)
