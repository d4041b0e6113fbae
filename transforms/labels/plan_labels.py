"""Label plan: the labels of all capture groups, from entries of a manifest or of a user's pipeline."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS
from flowloom.schemas.corpus.manifest import FILE_GROUP, CaptureSource, CorpusManifest, parse_manifest
from flowloom.schemas.corpus.resolve_labels import with_found_labels
from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.groups import CaptureGroup, GroupPlan, reject_rows
from flowloom.transforms.captures.inventory import glob_names
from flowloom.transforms.labels.find_labels import find_labels
from flowloom.transforms.labels.label_flows import GroupLabels, label_groups
from flowloom.transforms.labels.window_sources import WindowSource, read_sources, require_one_capture

Entries = Mapping[str, Mapping[str, LabelValue]] | Sequence[Mapping[str, Any]]
"""Label values by task for each glob, or entries as under `captures` of a manifest."""


@dataclasses.dataclass(frozen=True)
class LabelPlan:
    """Labels of all capture groups of a corpus.

    Attributes:
      manifest: its tasks and its entries, with every label written out.
      labels: labels of the groups, in their order.
      sources: sources that label single flows.
      groups: the groups whose captures these sources decode or inspect; none once that is done.
      rejects: `REJECTS` of captures and table rows that cannot be used.
    """

    manifest: CorpusManifest
    labels: tuple[GroupLabels, ...] = ()
    sources: tuple[WindowSource, ...] = ()
    groups: tuple[CaptureGroup, ...] = ()
    rejects: pa.RecordBatch = dataclasses.field(default_factory=lambda: reject_rows([]))


def describe_labels(tasks: Sequence[Task], entries: Entries, **options: Any) -> CorpusManifest:
    """Returns the description of labels that a pipeline gives, checked like a manifest.

    Args:
      options: further keys of a manifest.

    Raises:
      FlowloomError: if a label, a task or an option is invalid, a vocabulary is open, or an entry names a group or
        published files.
    """
    if isinstance(entries, Mapping):
        entries = [{"glob": glob, "labels": dict(labels)} for glob, labels in entries.items()]
    document = {"name": "labels", "captures": list(entries), "tasks": list(tasks), **options}
    manifest = parse_manifest(document, "labels")
    for entry in manifest.captures:
        if not isinstance(entry, CaptureSource) or entry.group != FILE_GROUP:
            raise FlowloomError(
                f"labels: entry {entry.name!r} must be captures without a group, got others; name the group in "
                "ReadCaptures, and build published files with a manifest"
            )
    for task in manifest.tasks:
        if task.is_open:
            raise FlowloomError(f"labels: task {task.name!r} must have a vocabulary, got none; write its label values")
    return manifest


def plan_labels(
    plans: Iterable[GroupPlan], described: CorpusManifest, folder: str = "", scratch: str | None = None
) -> LabelPlan:
    """Returns the labels of all groups, whose captures belong to the entries that name their paths.

    Label tables are read; captures that a source decodes or inspects are not yet (see `window_captures`).

    Args:
      plans: groups of captures, in any order.
      described: the result of `describe_labels`.
      folder: the folder of the relative paths of label tables.
      scratch: the folder for label windows, which all workers share; None without sources of single flows.

    Raises:
      FlowloomError: as `read_sources` and `label_plan`; if labels in paths do not fit the tasks, or an entry names no
        capture.
    """
    groups = sorted((group for plan in plans for group in plan.groups), key=lambda group: group.group)
    paths = sorted({path for group in groups for each in group.captures for path in (each.uri, *each.copies)})
    manifest = _with_labels_of_paths(described, paths)
    sources, unread = read_sources(manifest, folder, scratch) if scratch else ((), reject_rows([]))
    plan = GroupPlan(tuple(_named(group, manifest) for group in groups), reject_rows([]))
    return label_plan(manifest, plan, sources, unread)


def label_plan(
    manifest: CorpusManifest, plan: GroupPlan, sources: Sequence[WindowSource], unread: pa.RecordBatch
) -> LabelPlan:
    """Returns the labels of groups whose captures know their entries.

    Args:
      sources, unread: the result of `read_sources`.

    Raises:
      FlowloomError: if a packet table is for several captures.
    """
    require_one_capture(manifest, plan.groups, sources)
    labels = label_groups(plan, manifest, sources)
    inspected = plan.groups if sources else ()
    return LabelPlan(manifest, labels, tuple(sources), inspected, unread)


def with_windows(plan: LabelPlan, rejects: Iterable[pa.RecordBatch]) -> LabelPlan:
    """Returns a plan whose label windows are all written, with the reject rows that came up."""
    return dataclasses.replace(plan, groups=(), rejects=concatenated([plan.rejects, *rejects], REJECTS))


def _with_labels_of_paths(described: CorpusManifest, paths: Sequence[str]) -> CorpusManifest:
    found = {}
    for at, entry in enumerate(described.captures):
        named = [path for path in paths if _names(entry.name, path)]
        if not named:
            raise FlowloomError(f"labels: {entry.name!r} must name a capture that was read, got none; correct the glob")
        if isinstance(entry, CaptureSource) and entry.label_from is not None:
            try:
                found[at] = [each.source for each in find_labels(entry, named, "")]
            except ValueError as error:
                raise FlowloomError(f"labels: {error}") from None
    try:
        return with_found_labels(described, found)
    except ValueError as error:
        raise FlowloomError(f"labels: {error}") from None


def _named(group: CaptureGroup, manifest: CorpusManifest) -> CaptureGroup:
    """Returns a group whose captures have the positions of the entries that name them."""
    globs = [entry.glob for entry in manifest.captures if isinstance(entry, CaptureSource)]
    captures = (
        dataclasses.replace(
            each,
            sources=tuple(
                at for at, glob in enumerate(globs) if any(_names(glob, path) for path in (each.uri, *each.copies))
            ),
        )
        for each in group.captures
    )
    return dataclasses.replace(group, captures=tuple(captures))


def _names(glob: str, path: str) -> bool:
    """Returns whether a glob matches a path, or is a folder above it."""
    pattern = glob if "://" in glob else os.path.normpath(glob)
    above = not re.search(r"[*?\[]", glob) and path.startswith(os.path.join(pattern, ""))
    return above or glob_names(pattern, path)
