"""Plan of published rows: read and labelled before a build begins, and kept in spill files for its workers.

A label without a label value then stops the build before anything is metered, and the labels of each file are known
before groups are split, as are those of captures that are labelled by path.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.schemas.arrow.feature_tables import feature_rows
from flowloom.schemas.arrow.rows import View, label_column, packet_schema
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.published_sources import CicidsTables, PublishedSource
from flowloom.schemas.dataset.card_parts import PublishedAccount
from flowloom.schemas.dataset.views import StoredViews
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.arrays.digests import row_digests, sort_digests
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.captures.capture_files import CaptureError, capture_sha256
from flowloom.transforms.io.spill import SpillBuffer, Spilled, read_spilled
from flowloom.transforms.io.tally import tally
from flowloom.transforms.labels.join_labels import Counts, FlowSource, SourceKey
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.published.label_published import label_published
from flowloom.transforms.published.published_rejects import Rejects
from flowloom.transforms.published.read_published import read_published

_SEVERAL = -2
"""Stands for the label number of a group whose rows have several."""


@dataclasses.dataclass(frozen=True)
class PublishedFindings:
    """Account of each entry, counted answers of its labels, and rejected rows and files."""

    accounts: tuple[PublishedAccount, ...]
    sources: dict[SourceKey, Counts]
    rejects: pa.RecordBatch


NO_PUBLISHED = PublishedFindings((), {}, concatenated([], REJECTS))
"""Findings of a corpus of captures alone."""


@dataclasses.dataclass(frozen=True)
class PublishedPlan:
    """All rows of a corpus' published files.

    Attributes:
      places: labelled batches by view.
      labels: labels of each file with rows; a task whose label differs from row to row has a source there.
      packet_bytes: for each entry the bytes of a row of the packets view, None without such rows.
      sha256: SHA-256 in hex of the stored files, ascending.
    """

    places: dict[View, tuple[Spilled, ...]]
    labels: tuple[GroupLabels, ...]
    packet_bytes: tuple[int | None, ...]
    sha256: tuple[str, ...]
    findings: PublishedFindings


def plan_published(manifest: CorpusManifest, folder: str, job: str) -> PublishedPlan:
    """Reads and labels all published files of a manifest, and spills their rows below a job's folder.

    A file of two entries is read once, for the first of them.

    Raises:
      FlowloomError: if a published label has no label value, or a format cannot be metered by the definition.
    """
    places: dict[View, list[Spilled]] = {}
    labels: dict[str, GroupLabels] = {}
    accounts, rejected, lengths = [], [], []
    hashes: set[str] = set()
    sources: dict[SourceKey, Counts] = {}
    for entry in manifest.published:
        rejects = Rejects()
        entry_rows = _EntryRows(entry, manifest, job, frozenset(labels))
        for rows in read_published(entry, folder, manifest.definition, rejects):
            entry_rows.add(rows, rejects)
        places.setdefault(entry.view, []).extend(entry_rows.places())
        labels |= entry_rows.labels()
        lengths.append(entry_rows.packet_bytes)
        sources = sum_by_key([sources, entry_rows.sources])
        stored = _stored_sha256(entry, folder)
        hashes.update(stored)
        accounts.append(entry_rows.account(stored, rejects))
        rejected.append(rejects.rows())
    findings = PublishedFindings(tuple(accounts), sources, concatenated(rejected, REJECTS))
    spilled = {name: tuple(found) for name, found in places.items()}
    return PublishedPlan(spilled, tuple(labels.values()), tuple(lengths), tuple(sorted(hashes)), findings)


def recall_published(places: Iterable[Spilled]) -> Iterator[pa.RecordBatch]:
    """Yields the labelled batches of one view of a `PublishedPlan`."""
    for place in places:
        yield read_spilled([place])


def stored_views(manifest: CorpusManifest, published: PublishedPlan) -> StoredViews:
    """Returns the columns of a corpus' views.

    Raises:
      FlowloomError: if rows of the packets view have different lengths.
    """
    lengths = {} if manifest.published_only else {manifest.packets.length: "packets: {length: ...}"}
    for entry, length in zip(manifest.published, published.packet_bytes, strict=True):
        lengths |= {} if length is None else {length: entry.path}
    if "packets" in manifest.views and len(lengths) > 1:
        found = ", ".join(f"{length} bytes ({name})" for length, name in sorted(lengths.items()))
        raise FlowloomError(f"rows of the packets view must have one length, got {found}; remove all but one of them")
    features = (entry.features for entry in manifest.published if isinstance(entry, CicidsTables))
    views = frozenset(entry.view for entry in manifest.published)
    return StoredViews(manifest.identity, views, next(iter(lengths), manifest.packets.length), next(features, ()))


class _EntryRows:
    """Rows of one entry, labelled, counted and spilled.

    Args:
      known: groups of the entries before.
    """

    def __init__(self, entry: PublishedSource, manifest: CorpusManifest, job: str, known: frozenset[str]):
        self._entry = entry
        self._manifest = manifest
        self._job = job
        self._known = known
        self._rejected: set[str] = set()
        self._buffer = SpillBuffer[None](job)
        self._places: list[Spilled] = []
        self._digests: list[np.ndarray] = []
        self._codes: dict[str, list[int]] = {}
        self._rows = 0
        self.sources: dict[SourceKey, Counts] = {}
        self.packet_bytes: int | None = None

    def add(self, rows: pa.RecordBatch, rejects: Rejects) -> None:
        """Adds a batch with rows of one file."""
        if not rows.num_rows:
            return
        group = rows["group"][0].as_py()
        if group in self._known:
            if group not in self._rejected:
                detail = "has a file that an entry before it has too, and which is read once"
                rejects.add(self._entry.path, [0], RejectReason.DUPLICATE, detail)
            self._rejected.add(group)
            return
        labelled, counted = label_published(rows, self._entry, self._manifest)
        self.sources = sum_by_key([self.sources, counted])
        codes = [_code_of_all(labelled[label_column(task.name)]) for task in self._manifest.claimed_tasks]
        before = self._codes.get(group, codes)
        self._codes[group] = [code if code == other else _SEVERAL for code, other in zip(codes, before, strict=True)]
        if self._entry.view == "packets":
            labelled = _as_packets(labelled)
            self.packet_bytes = labelled["bytes"].type.byte_width
        if self._entry.view == "tables":
            self._digests.append(row_digests(feature_rows(labelled), ""))
        self._rows += labelled.num_rows
        tally(self._job).add(flows=labelled.num_rows)
        self._places += (place for _, place in self._buffer.add([(None, labelled)]))

    def places(self) -> list[Spilled]:
        """Returns the places of all rows; it must be called after the last batch."""
        self._places += (place for _, place in self._buffer.flush())
        return self._places

    def labels(self) -> dict[str, GroupLabels]:
        """Returns the labels of each file, as those of a capture group."""
        tasks, entry = self._manifest.claimed_tasks, self._entry
        found = {}
        for group, codes in self._codes.items():
            several = (task for task, code in zip(tasks, codes, strict=True) if code == _SEVERAL)
            sources = tuple(FlowSource(task.name, entry.source_name(task.name), "published") for task in several)
            known = tuple(code if code >= 0 else None for code in codes)
            found[group] = GroupLabels(group, known, (), True, sources)
        return found

    def account(self, stored: Sequence[str], rejects: Rejects) -> PublishedAccount:
        """Returns the card's account of the entry, whose stored files have these SHA-256."""
        return PublishedAccount(
            path=self._entry.path,
            published=self._entry.published,
            view=self._entry.view,
            sha256=hashlib.sha256("".join(stored).encode()).hexdigest(),
            groups=len(self._codes),
            rows=self._rows,
            set_aside=dict(sorted(rejects.counts().items())),
            repeated=self._repeated(),
        )

    def _repeated(self) -> int:
        """Returns the number of table rows that have the features of an earlier row."""
        ordered = sort_digests(self._digests)
        return int((ordered[1:] == ordered[:-1]).all(axis=1).sum())


def _code_of_all(codes: pa.Array) -> int:
    """Returns the label number of all rows, -1 if all are unknown, `_SEVERAL` if they differ."""
    distinct = pc.unique(codes).to_pylist()
    if len(distinct) > 1:
        return _SEVERAL
    return -1 if distinct[0] is None else distinct[0]


def _as_packets(images: pa.RecordBatch) -> pa.RecordBatch:
    """Returns images with all columns of the packets view, null where images lack them."""
    columns = packet_schema(images["bytes"].type.byte_width)
    schema = pa.schema([*columns, *(field for field in images.schema if field.name not in columns.names)])
    known = images.schema.names
    arrays = [images[f.name] if f.name in known else pa.nulls(images.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def _stored_sha256(entry: PublishedSource, folder: str) -> list[str]:
    """Returns the SHA-256 of each stored file of an entry, ascending; files that cannot be read are rejects already."""
    paths = []
    for name in entry.files:
        path = os.path.normpath(os.path.join(folder, name))
        below = [os.path.join(root, file) for root, _, files in os.walk(path) for file in files]
        paths += below or [path]
    found = []
    for path in paths:
        try:
            found.append(capture_sha256(path))
        except CaptureError:
            continue
    return sorted(found)
