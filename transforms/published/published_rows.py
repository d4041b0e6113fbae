"""Rows of published files: read before a build begins, labelled by their own words, and kept in files for its workers.

A word that is wrong is one sentence then and costs no metering, and what a file's rows are labelled is known before
groups are divided, as it is of captures that are labelled by path.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL
from flowloom.schemas.arrow.rows import (
    PUBLISHED_LABEL_PREFIX,
    View,
    label_column,
    packet_schema,
    published_label_column,
)
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import label_code
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.published_sources import (
    CerttaFlows,
    CicidsTables,
    IscxImages,
    KitsuneFlows,
    PublishedSource,
    QuicArrays,
    QuicTexts,
)
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import PublishedAccount
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.arrays.columns import concatenated, labels_column, view
from flowloom.transforms.arrays.digests import row_digests, sort_digests
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.captures.capture_files import CaptureError, capture_sha256
from flowloom.transforms.io.progress import tally
from flowloom.transforms.io.spill import SpillBuffer, Spilled
from flowloom.transforms.labels.join_labels import Answer, Counts, FlowSource, SourceKey, merge_answers
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.labels.window_index import NO_WINDOW
from flowloom.transforms.published.published_rejects import SetAside
from flowloom.transforms.splits.splits import feature_rows

_SEVERAL = -2
"""In the place of a group's label number: its rows have several."""


@dataclasses.dataclass(frozen=True)
class PublishedFindings:
    """What became of the rows of published files: an account of each entry, what their words said, and rejects."""

    accounts: tuple[PublishedAccount, ...]
    said: dict[SourceKey, Counts]
    rejects: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class PublishedPlan:
    """All rows of a corpus' published files.

    Attributes:
      places: labelled batches by view.
      labels: of each file that rows came out of; a task whose label differs from row to row has a source there.
      packet_bytes: of each entry the length of its rows of the packets view, None without any.
      digests: SHA-256 in hex of the files as they are stored, ascending.
    """

    places: dict[View, tuple[Spilled, ...]]
    labels: tuple[GroupLabels, ...]
    packet_bytes: tuple[int | None, ...]
    digests: tuple[str, ...]
    findings: PublishedFindings


def read_published(
    entry: PublishedSource, folder: str, definition: FlowDefinition, set_aside: SetAside
) -> Iterator[pa.RecordBatch]:
    """Yield an entry's rows with the words of its format.

    Args:
      folder: what relative paths are relative to.
      definition: how many packets a sequence has, and for Kitsune's packets what a flow is.

    Raises:
      FlowloomError: if the format cannot be metered by the definition.
    """
    # polars is not loaded for captures alone
    from flowloom.transforms.published.certta import read_certta_flows
    from flowloom.transforms.published.cicids2017 import read_cicids_tables
    from flowloom.transforms.published.iscx_images import read_iscx_images, read_iscx_twelve
    from flowloom.transforms.published.kitsune import read_kitsune_flows
    from flowloom.transforms.published.ucdavis_quic import read_quic_arrays, read_quic_texts

    path, *others = (os.path.normpath(os.path.join(folder, name)) for name in (entry.path, *entry.files[1:]))
    match entry:
        case QuicTexts():
            yield from read_quic_texts(path, set_aside, k=definition.k)
        case QuicArrays():
            yield from read_quic_arrays(path, others[0], set_aside, k=definition.k)
        case CerttaFlows():
            yield from read_certta_flows(path, set_aside, k=definition.k)
        case KitsuneFlows():
            yield from read_kitsune_flows(path, others[0] if others else None, definition, set_aside)
        case CicidsTables():
            yield from read_cicids_tables(path, set_aside, features=entry.features, non_finite=entry.non_finite)
        case IscxImages(variant=None):
            yield from read_iscx_images(
                path, others[0], set_aside, classes=entry.classes, tunnel=entry.tunnel, header=entry.header,
                mask=entry.mask,
            )  # fmt: skip
        case IscxImages(variant=str(variant)):
            yield from read_iscx_twelve(
                path, variant, set_aside, split="train" if entry.part == "train" else "t10k", header=entry.header,
                mask=entry.mask,
            )  # fmt: skip


def label_published(
    rows: pa.RecordBatch, entry: PublishedSource, manifest: CorpusManifest
) -> tuple[pa.RecordBatch, dict[SourceKey, Counts]]:
    """Return rows with a label column per claimed task in the place of their words, and what each source said.

    A label comes from the entry's `labels`, else from the row's own word; `on_conflict` says what becomes of rows whose
    word is another.

    Raises:
      FlowloomError: if a word is none of its task's, unless the entry says that such words are unknown.
    """
    nowhere = np.zeros(rows.num_rows, bool)
    labelled = rows.select([name for name in rows.schema.names if not name.startswith(PUBLISHED_LABEL_PREFIX)])
    said: dict[SourceKey, Counts] = {}
    for task in manifest.claimed_tasks:
        answers: dict[SourceKey, Answer] = {}
        if task.name in entry.labels:
            code = np.full(rows.num_rows, task.index(entry.labels[task.name]), np.int32)
            answers[task.name, entry.name] = Answer(code, nowhere, nowhere)
        kind = entry.label_kind(task.name)
        if kind is not None and published_label_column(kind) in rows.schema.names:
            codes = _word_codes(rows[published_label_column(kind)], entry, task)
            answers[task.name, entry.source_name(task.name)] = Answer(codes, nowhere, nowhere)
        codes = np.full(rows.num_rows, -1 if manifest.absent_code is None else manifest.absent_code, np.int32)
        if answers:
            on_conflict = manifest.on_conflict.get(task.name, "first")
            codes, counts = merge_answers(list(answers.values()), on_conflict, manifest.absent_code)
            said |= dict(zip(answers, counts, strict=True))
        labelled = labelled.append_column(pa.field(label_column(task.name), pa.int32()), labels_column(codes))
    return labelled, said


def _word_codes(words: pa.Array, entry: PublishedSource, task: Task) -> np.ndarray:
    """Return the label number of each word, `UNKNOWN_LABEL` where it means none, `NO_WINDOW` where there is no word."""
    encoded = words.dictionary_encode()
    codes = []
    for word in encoded.dictionary.to_pylist():
        code = label_code(word, entry.words.get(task.name, {}), task)
        if code is None and entry.unknown_words == "error":
            raise FlowloomError(
                f"{entry.path!r} says {word!r} of {entry.label_kind(task.name)}, which is no word of task "
                f"{task.name!r}; it has {', '.join(task.vocabulary)}{did_you_mean(word, task.vocabulary)}. Say what it "
                f"means under words: {{{task.name}: {{{word}: ...}}}}, or write unknown_words: unknown"
            )
        codes.append(UNKNOWN_LABEL if code is None else code)
    at = pc.fill_null(encoded.indices, len(codes))
    return np.array([*codes, NO_WINDOW], np.int32)[view(at)]


def plan_published(manifest: CorpusManifest, folder: str, job: str) -> PublishedPlan:
    """Read and label all published files of a manifest, and keep their rows in files below a job's folder.

    The rows of one file are read once, for the first entry that has it.

    Raises:
      FlowloomError: if a word is foreign, or a format cannot be metered by the definition.
    """
    places: dict[View, list[Spilled]] = {}
    labels: dict[str, GroupLabels] = {}
    accounts, rejects, lengths = [], [], []
    digests: set[str] = set()
    said: dict[SourceKey, Counts] = {}
    for entry in manifest.published:
        set_aside = SetAside()
        found = _EntryRows(entry, manifest, job, frozenset(labels))
        for rows in read_published(entry, folder, manifest.definition, set_aside):
            found.add(rows, set_aside)
        places.setdefault(entry.view, []).extend(found.places())
        labels |= found.labels()
        lengths.append(found.packet_bytes)
        said = sum_by_key([said, found.said])
        stored = _digests(entry, folder)
        digests.update(stored)
        accounts.append(
            PublishedAccount(
                path=entry.path,
                published=entry.published,
                view=entry.view,
                sha256=hashlib.sha256("".join(stored).encode()).hexdigest(),
                groups=len(found.codes),
                rows=found.rows,
                set_aside=dict(sorted(set_aside.counts().items())),
                repeated=found.repeated,
            )
        )
        rejects.append(set_aside.rows())
    findings = PublishedFindings(tuple(accounts), said, concatenated(rejects, REJECTS))
    kept = {name: tuple(spilled) for name, spilled in places.items()}
    return PublishedPlan(kept, tuple(labels.values()), tuple(lengths), tuple(sorted(digests)), findings)


def stored_views(manifest: CorpusManifest, published: PublishedPlan) -> StoredViews:
    """Return the columns of the views of a corpus.

    Raises:
      FlowloomError: if rows of the packets view are not of one length.
    """
    lengths = {} if manifest.published_only else {manifest.packets.length: "packets: {length: ...}"}
    for entry, length in zip(manifest.published, published.packet_bytes, strict=True):
        lengths |= {} if length is None else {length: entry.path}
    if "packets" in manifest.views and len(lengths) > 1:
        said = ", ".join(f"{length} by {name}" for length, name in sorted(lengths.items()))
        raise FlowloomError(f"rows of the packets view must be of one length, got {said}; take one of them out")
    features = (entry.features for entry in manifest.published if isinstance(entry, CicidsTables))
    views = frozenset(entry.view for entry in manifest.published)
    return StoredViews(manifest.identity, views, next(iter(lengths), manifest.packets.length), next(features, ()))


class _EntryRows:
    """The rows of one entry: labelled, counted, and held back until they fill a file."""

    def __init__(self, entry: PublishedSource, manifest: CorpusManifest, job: str, known: frozenset[str]):
        self._entry = entry
        self._manifest = manifest
        self._job = job
        self._known = known
        self._refused: set[str] = set()
        self._buffer = SpillBuffer[None](job)
        self._places: list[Spilled] = []
        self._digests: list[np.ndarray] = []
        self.codes: dict[str, list[int]] = {}
        self.said: dict[SourceKey, Counts] = {}
        self.rows = 0
        self.packet_bytes: int | None = None

    def add(self, rows: pa.RecordBatch, set_aside: SetAside) -> None:
        """Take a batch, whose rows are all of one file."""
        if not rows.num_rows:
            return
        group = rows["group"][0].as_py()
        if group in self._known:
            if group not in self._refused:
                detail = "has a file that an entry before it has too, and which is read once"
                set_aside.add(self._entry.path, [0], RejectReason.DUPLICATE, detail)
            self._refused.add(group)
            return
        labelled, said = label_published(rows, self._entry, self._manifest)
        self.said = sum_by_key([self.said, said])
        codes = [_code_of_all(labelled[label_column(task.name)]) for task in self._manifest.claimed_tasks]
        before = self.codes.get(group, codes)
        self.codes[group] = [code if code == other else _SEVERAL for code, other in zip(codes, before, strict=True)]
        if self._entry.view == "packets":
            labelled = _as_packets(labelled)
            self.packet_bytes = labelled["bytes"].type.byte_width
        if self._entry.view == "tables":
            self._digests.append(row_digests(feature_rows(labelled), ""))
        self.rows += labelled.num_rows
        tally(self._job).add(flows=labelled.num_rows)
        self._places += (place for _, place in self._buffer.add([(None, labelled)]))

    def places(self) -> list[Spilled]:
        """Return where all rows are; call it at the end."""
        self._places += (place for _, place in self._buffer.flush())
        return self._places

    @property
    def repeated(self) -> int:
        """How many rows of tables have the features of another."""
        ordered = sort_digests(self._digests)
        return int((ordered[1:] == ordered[:-1]).all(axis=1).sum())

    def labels(self) -> dict[str, GroupLabels]:
        """Return the labels of each file as those of a capture group."""
        tasks, entry = self._manifest.claimed_tasks, self._entry
        found = {}
        for group, codes in self.codes.items():
            several = (task for task, code in zip(tasks, codes, strict=True) if code == _SEVERAL)
            sources = tuple(FlowSource(task.name, entry.source_name(task.name), "published") for task in several)
            known = tuple(code if code >= 0 else None for code in codes)
            found[group] = GroupLabels(group, known, (), True, sources)
        return found


def _code_of_all(codes: pa.Array) -> int:
    """Return the label number of all rows, -1 where all are unknown, `_SEVERAL` where they differ."""
    distinct = pc.unique(codes).to_pylist()
    if len(distinct) > 1:
        return _SEVERAL
    return -1 if distinct[0] is None else distinct[0]


def _as_packets(images: pa.RecordBatch) -> pa.RecordBatch:
    """Return images with all columns of the packets view, null where they do not tell them."""
    columns = packet_schema(images["bytes"].type.byte_width)
    schema = pa.schema([*columns, *(field for field in images.schema if field.name not in columns.names)])
    known = images.schema.names
    arrays = [images[f.name] if f.name in known else pa.nulls(images.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def _digests(entry: PublishedSource, folder: str) -> list[str]:
    """Return the SHA-256 of each stored file of an entry, ascending; files that cannot be read are rejects already."""
    paths = []
    for name in entry.files:
        path = os.path.normpath(os.path.join(folder, name))
        below = [os.path.join(root, file) for root, _, files in os.walk(path) for file in files]
        paths += below or [path]
    digests = []
    for path in paths:
        try:
            digests.append(capture_sha256(path))
        except CaptureError:
            continue
    return sorted(digests)
