"""Label sources of single flows: tables are read before a build, captures are decoded or inspected by its workers.

Both write indexes of label windows to files of a scratch folder, which every process maps.
"""

import collections
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi, PacketTable, WindowSpec
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.groups import CaptureGroup, reject_rows
from flowloom.transforms.labels import dpi
from flowloom.transforms.labels.packet_labels import packet_windows
from flowloom.transforms.windows.table_rows import forget_samples, summary_file, table_writer
from flowloom.transforms.windows.window_files import forget_indexes, write_windows
from flowloom.transforms.windows.window_index import Measure

Kind = Literal["table", "packets", "dpi"]

_INSPECTED_TOGETHER = 32
"""Capture groups that one NFStream process serves: loading nDPI costs about 3 s."""


@dataclasses.dataclass(frozen=True)
class WindowSource:
    """Source of label windows of one captures entry of a manifest.

    Attributes:
      entry: position of the entry.
      spec: the source in the manifest.
      place: path of the source's files in the scratch folder, without an ending.
    """

    entry: int
    spec: WindowSpec
    place: str

    @property
    def kind(self) -> Kind:
        """The kind of source, as in the card."""
        return source_kind(self.spec)

    @property
    def measure(self) -> Measure:
        """Measure by which windows match flows."""
        return "windows" if isinstance(self.spec, PacketTable) else "time"

    @property
    def tolerance_ns(self) -> int:
        """Maximum distance between flow and window in ns."""
        if isinstance(self.spec, LabelTable):
            return round(self.spec.tolerance_s * 1e9)
        return dpi.TOLERANCE_NS if isinstance(self.spec, Dpi) else 0

    @property
    def codes(self) -> str:
        """The file with a packet table's label numbers."""
        return f"{self.place}.npy"

    def windows(self, group: str) -> str:
        """Returns the file of label windows for the flows of a group."""
        return f"{self.place}.windows" if isinstance(self.spec, LabelTable) else f"{self.place}-{group}.windows"


@contextlib.contextmanager
def label_folder(staging: str) -> Iterator[str]:
    """Yields the path of a folder for label windows in a staging folder, and removes the folder at the end."""
    scratch = os.path.join(staging, "labels")
    try:
        yield scratch
    finally:
        forget_indexes()
        forget_samples()
        shutil.rmtree(scratch, ignore_errors=True)


def source_kind(spec: WindowSpec) -> Kind:
    """Returns the kind of a source, as in the card."""
    return "table" if isinstance(spec, LabelTable) else "packets" if isinstance(spec, PacketTable) else "dpi"


def read_sources(
    manifest: CorpusManifest, folder: str, scratch: str
) -> tuple[tuple[WindowSource, ...], pa.RecordBatch]:
    """Reads all tables of a manifest, and checks the requirements of the other sources.

    Args:
      folder: the folder of relative paths.
      scratch: the folder for label windows, made if there are any sources.

    Returns:
      The sources in order of precedence, and `REJECTS` of unreadable table rows.

    Raises:
      FlowloomError: if a table cannot be read or has an undefined label, or NFStream is missing.
    """
    tasks = {task.name: task for task in manifest.tasks}
    places: dict[str, str] = {}
    sources, rejects = [], []
    for entry, captures in enumerate(manifest.captures):
        if not isinstance(captures, CaptureSource):
            continue
        for at, spec in enumerate(captures.window_specs):
            place = os.path.join(scratch, f"{entry}-{at}")
            os.makedirs(scratch, exist_ok=True)
            if isinstance(spec, LabelTable):  # a table of several entries is read once
                place = places.setdefault(spec.model_dump_json(), place)
            source = WindowSource(entry, spec, place)
            sources.append(source)
            if isinstance(spec, Dpi):
                dpi.require_nfstream()
                continue
            # imported here, so that labels by path alone do not load polars
            from flowloom.transforms.labels.label_tables import read_label_table, read_packet_labels

            path = spec.path if "://" in spec.path else os.path.join(folder, spec.path)
            if isinstance(spec, PacketTable):
                np.save(source.codes, read_packet_labels(spec, path, tasks[spec.task]))
            elif not os.path.exists(source.windows("")):
                with table_writer(source.windows("")) as write:
                    summary = read_label_table(spec, path, tasks[spec.task], write)
                write_text(summary_file(source.windows("")), json.dumps(dataclasses.asdict(summary)))
                rejects.append(summary.rejects(spec.path))
    return tuple(sources), concatenated(rejects, REJECTS)


def require_one_capture(
    manifest: CorpusManifest, groups: Iterable[CaptureGroup], sources: Iterable[WindowSource]
) -> None:
    """Checks that each packet table is for one capture; files with the same bytes are one.

    Raises:
      FlowloomError: if one is for several.
    """
    captures = collections.Counter(at for group in groups for each in group.captures for at in each.sources)
    for source in sources:
        if isinstance(source.spec, PacketTable) and (found := captures[source.entry]) > 1:
            raise FlowloomError(
                f"{source.spec.path}: a packet table must label one capture, got {found} that match "
                f"{manifest.captures[source.entry].name!r}; give each capture an entry and a packet table of its own"
            )


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Work of one process: a source that decodes or inspects captures, and capture groups."""

    source: WindowSource
    groups: tuple[CaptureGroup, ...]


def plan_inspections(groups: Iterable[CaptureGroup], sources: Sequence[WindowSource]) -> Iterator[Inspection]:
    """Yields the work of all sources that decode or inspect captures."""
    groups = tuple(groups)
    for source in sources:
        known = tuple(group for group in groups if source.entry in group.sources)
        if not isinstance(source.spec, LabelTable):
            for at in range(0, len(known), _INSPECTED_TOGETHER):
                yield Inspection(source, known[at : at + _INSPECTED_TOGETHER])


def window_captures(
    groups: Iterable[CaptureGroup], sources: Sequence[WindowSource], tasks: Sequence[Task], definition: FlowDefinition
) -> list[pa.RecordBatch]:
    """Writes the label windows of all sources that decode or inspect captures, and returns `REJECTS` of each."""
    return [window_inspection(work, tasks, definition) for work in plan_inspections(groups, sources)]


def window_inspection(work: Inspection, tasks: Sequence[Task], definition: FlowDefinition) -> pa.RecordBatch:
    """Writes the label windows of a source for the capture groups of an inspection.

    Returns:
      `REJECTS` of captures and table rows that cannot be used.
    """
    source, spec = work.source, work.source.spec
    captures = {group.group: [c for c in group.captures if source.entry in c.sources] for group in work.groups}
    if isinstance(spec, Dpi):
        task = next(task for task in tasks if task.name == spec.task)
        readable = {group: [c.uri for c in known if c.first_ns is not None] for group, known in captures.items()}
        return _inspect(source, spec, readable, task, definition)
    rejects = []
    for group, (capture,) in captures.items():
        windows, mismatch = packet_windows(capture.uri, np.load(source.codes), definition, spec.path)
        write_windows(source.windows(group), windows, source.measure)
        rejects.append(mismatch)
    return concatenated(rejects, REJECTS)


def _inspect(
    source: WindowSource, spec: Dpi, captures: dict[str, list[str]], task: Task, definition: FlowDefinition
) -> pa.RecordBatch:
    """Writes the windows of one source by DPI and returns `REJECTS` of captures that NFStream does not read."""
    inspected = {group: f"{source.windows(group)}.inspected" for group in captures}
    unreadable = dpi.inspect_captures({inspected[group]: uris for group, uris in captures.items()}, definition)
    for group, path in inspected.items():
        write_windows(source.windows(group), dpi.dpi_windows(dpi.read_inspected(path), spec, task), source.measure)
        os.remove(path)
    return reject_rows(
        [
            (uri, 0, RejectReason.DPI, f"NFStream cannot read this capture ({reason}); its flows get no label by DPI")
            for uri, reason in unreadable.items()
        ]
    )
