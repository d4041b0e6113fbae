"""Label joins: answers of the sources of a task for every flow, in order of precedence, and their counts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.label_sources import LabelTable, PacketTable
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.columns import labels_column
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.labels.packet_labels import rule_codes
from flowloom.transforms.labels.window_index import NO_WINDOW, Measure, load_index, match_windows
from flowloom.transforms.labels.window_sources import Kind, WindowSource

_JOINED = (*WINDOW_KEY, "start", "duration_ns", "packets_fwd", "packets_bwd")
"""Columns that a join reads; it does not touch the sequences."""


@dataclasses.dataclass(frozen=True)
class FlowSource:
    """One source of one task for the flows of one group.

    Attributes:
      code: by path, the label number of all flows.
      windows, measure, tolerance_ns: otherwise, the file of its label windows, and how they are matched.
      rule: of a packet table.
      default: the label number of flows that no window matches; None for none.
    """

    task: str
    name: str
    kind: Literal["path", "published"] | Kind
    code: int = UNKNOWN_LABEL
    windows: str = ""
    measure: Measure = "time"
    tolerance_ns: int = 0
    rule: Literal["any", "majority", "all"] | None = None
    default: int | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of flows that a source was asked about, by outcome; the fields of `schemas.card.LabelCoverage`."""

    flows: int = 0
    labelled: int = 0
    conflicts: int = 0
    ambiguous: int = 0
    defaulted: int = 0
    unknown_words: int = 0
    confidence: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        confidence = sum_by_key([self.confidence, other.confidence])
        return Counts(**numbers, confidence=dict(sorted(confidence.items())))


_NUMBERS = tuple(field.name for field in dataclasses.fields(Counts) if field.name != "confidence")

SourceKey = tuple[str, str]
"""Task and name of a source."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer of one source for a batch of flows.

    Attributes:
      codes: int32 [rows], label number, `UNKNOWN_LABEL` or `NO_WINDOW`.
      ambiguous: bool [rows], whether it says several words, or cannot decide.
      defaulted: bool [rows], whether its word is its default.
      confidence: uint8 [rows], how sure it is of its word; None where it does not tell.
    """

    codes: np.ndarray
    ambiguous: np.ndarray
    defaulted: np.ndarray
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
        measure=source.measure,
        tolerance_ns=source.tolerance_ns,
        rule=spec.rule if isinstance(spec, PacketTable) else None,
        default=None if default is None else task.index(default),
    )


def ask(source: FlowSource, flows: pa.RecordBatch) -> Answer:
    """Returns the answer of a source for flows of its group."""
    nowhere = np.zeros(flows.num_rows, bool)
    if source.kind == "path":
        return Answer(np.full(flows.num_rows, source.code, np.int32), nowhere, nowhere)
    index = load_index(source.windows, source.measure)
    match = match_windows(flows, index, source.tolerance_ns, last_resort=0 if source.rule == "any" else None)
    codes, ambiguous, defaulted = match.codes, match.several, nowhere
    if source.rule is not None:  # words of packets are votes: only a vote that decides nothing is ambiguous
        codes, ambiguous = rule_codes(match, flows, source.rule)
    if source.default is not None:
        defaulted = codes == NO_WINDOW
        codes = np.where(defaulted, np.int32(source.default), codes)
    return Answer(codes, ambiguous, defaulted, match.confidence if len(match.confidence) else None)


def merge_answers(answers: Sequence[Answer], on_conflict: str, missing: int | None) -> tuple[np.ndarray, list[Counts]]:
    """Merges the answers of sources for one task, the first in precedence first.

    Args:
      on_conflict: `unknown` takes the label of flows that sources, or one source, say several words of.
      missing: the label number of flows that no source says anything of; None leaves them unknown.

    Returns:
      label numbers, int32 [rows], below 0 where unknown, and what each source said.
    """
    codes = np.full(len(answers[0].codes), NO_WINDOW, np.int32)
    disputed = np.zeros(len(codes), bool)
    counts = []
    for answer in answers:
        said = answer.codes >= 0
        conflicts = said & (codes >= 0) & (codes != answer.codes)
        foreign = (answer.codes == UNKNOWN_LABEL) & ~answer.ambiguous
        columns = (said, conflicts, answer.ambiguous, answer.defaulted, foreign)
        labelled, conflicting, ambiguous, defaulted, unknown = (int(np.count_nonzero(values)) for values in columns)
        by_confidence = _by_confidence(answer.confidence, said)
        counts.append(Counts(len(codes), labelled, conflicting, ambiguous, defaulted, unknown, by_confidence))
        disputed |= conflicts | answer.ambiguous
        codes = np.where(codes >= 0, codes, np.maximum(codes, answer.codes))
    if missing is not None:
        codes = np.where(codes == NO_WINDOW, np.int32(missing), codes)
    if on_conflict == "unknown":
        codes = np.where(disputed, np.int32(UNKNOWN_LABEL), codes)
    return codes, counts


def join_sources(
    flows: pa.RecordBatch, sources: Mapping[str, Sequence[FlowSource]], manifest: CorpusManifest
) -> tuple[pa.RecordBatch, dict[SourceKey, Counts]]:
    """Writes the labels of tasks that are known flow by flow into the label columns of a batch.

    Args:
      flows: `schemas.rows.FLOWS` with label columns.
      sources: by group, all sources of such tasks in order of precedence; other groups keep their labels.

    Returns:
      the batch, and what each source said.
    """
    counted: dict[SourceKey, Counts] = {}
    if not sources:
        return flows, counted
    groups = pc.unique(flows["group"]).to_pylist()
    joined = flows.select(_JOINED)
    for group in groups:
        if group not in sources:
            continue
        rows = pc.equal(flows["group"], group)
        within = joined if len(groups) == 1 else joined.filter(rows)
        for task in manifest.claimed_tasks:
            asked = [source for source in sources[group] if source.task == task.name]
            if not asked:
                continue
            on_conflict = manifest.on_conflict.get(task.name, "first")
            codes, counts = merge_answers([ask(source, within) for source in asked], on_conflict, manifest.absent_code)
            flows = _written(flows, task, rows, codes)
            for source, count in zip(asked, counts, strict=True):
                counted = sum_by_key([counted, {(source.task, source.name): count}])
    return flows, counted


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
