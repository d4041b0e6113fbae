"""`flowloom init`: drafts a manifest from a folder of captures, with a comment beside every guess."""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from flowloom.pipelines.draft.draft_text import DraftText
from flowloom.pipelines.draft.found_files import FoundCapture, FoundFiles, find_files
from flowloom.pipelines.draft.guess_labels import guess_labels, label_paths
from flowloom.pipelines.draft.guess_tables import PacketTableGuess, TableGuess, guess_packet_table, guess_table
from flowloom.pipelines.draft.sample_flows import FlowSample, estimate_flows, sample_flows
from flowloom.schemas.errors import FlowloomError

FEWEST_GROUPS = 3
"""Captures of a class that a split by capture needs."""
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class ClassEstimate:
    """Expected rows of one class; `flows` is None if no capture of the class was sampled."""

    task: str
    label: str
    captures: int
    flows: int | None


@dataclasses.dataclass(frozen=True)
class ManifestDraft:
    """Draft of a manifest.

    Attributes:
      text: the manifest (YAML), with comments; its paths are relative to the folder.
      findings: sentences about what is wrong with a dataset of it.
      captures, bytes: number and size of the captures.
      sampled_bytes: bytes of the sample that flows are estimated from.
      classes: classes of tasks that paths label.
    """

    text: str
    findings: tuple[str, ...]
    captures: int
    bytes: int
    sampled_bytes: int
    classes: tuple[ClassEstimate, ...]


def draft_manifest(folder: str | os.PathLike[str]) -> ManifestDraft:
    """Returns a manifest of the captures below a folder, whose labels, groups and tables are guessed, and its faults.

    Captures are read in part and for some seconds only. The folder is not changed.

    Raises:
      FlowloomError: if the folder does not exist or has no capture.

    Example:
      >>> import flowloom as fl
      >>> draft = fl.draft_manifest("captures/web")
      >>> draft.captures, draft.text.splitlines()[0].startswith("#")
      (36, True)
    """
    place = os.path.abspath(folder)
    found = find_files(place)
    if not found.captures:
        unread = next(iter(found.rejects.items()), None)
        why = f" ({unread[0]}: {unread[1]})" if unread else ""
        raise FlowloomError(
            f"{os.fspath(folder)}: the folder must have captures, got none in {len(found.paths):,} files{why}"
        )
    guess = guess_labels([capture.path for capture in found.captures])
    labels = label_paths(guess.label_from, [capture.path for capture in found.captures]) if guess else {}
    sample = sample_flows(place, found.captures, labels)
    tables = {
        path: guess_packet_table(place, path, sample.records) or guess_table(place, path) for path in found.tables
    }
    classes = tuple(_estimate(found.captures, labels, sample))
    sizes = collections.Counter(each.task for each in classes)
    tasks = [task for task, count in sizes.items() if count > 1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(place)).strip("-") or "corpus"
    text = DraftText(name, found, guess, tasks, tables, sample.table()).text()
    findings = (*_file_faults(found, sample), *_class_faults(found, labels, classes, tables))
    size = sum(capture.size for capture in found.captures)
    return ManifestDraft(text, findings, len(found.captures), size, sample.sampled_bytes, classes)


def class_table(draft: ManifestDraft) -> Table:
    """Returns the classes of a draft as a table for people, with the estimated flows of each."""
    title = f"Classes; flows estimated from a sample of {draft.sampled_bytes / 1e6:,.1f} MB"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(("task", "class", "captures", "flows")):
        table.add_column(name, justify="right" if at > 1 else "left", overflow="fold")
    shown = ""
    for each in draft.classes:
        flows = "not sampled" if each.flows is None else f"{each.flows:,}"
        table.add_row(each.task if each.task != shown else "", each.label, f"{each.captures:,}", flows)
        shown = each.task
    return table


def _estimate(
    captures: Sequence[FoundCapture], labels: Mapping[str, Mapping[str, str]], sample: FlowSample
) -> Iterable[ClassEstimate]:
    members: dict[tuple[str, str], list[FoundCapture]] = {}
    for capture in captures:
        for task, label in labels.get(capture.path, {}).items():
            members.setdefault((task, label), []).append(capture)
    for (task, label), known in sorted(members.items()):
        flows = estimate_flows(sample, known)
        yield ClassEstimate(task, label, len(known), None if flows is None else round(flows))


def _file_faults(found: FoundFiles, sample: FlowSample) -> Iterable[str]:
    unread = {**found.rejects, **sample.damaged}
    for path, why in list(unread.items())[:_SHOWN]:
        yield f"{path}: {why}"
    if len(unread) > _SHOWN:
        yield f"{len(unread) - _SHOWN:,} more captures cannot be read in whole"
    if found.truncated:
        yield f"only the first {len(found.paths):,} files of the folder were looked at"
    if found.unchecked:
        yield f"{found.unchecked:,} captures were not opened for lack of time"


def _class_faults(
    found: FoundFiles,
    labels: Mapping[str, Mapping[str, str]],
    classes: Sequence[ClassEstimate],
    tables: Mapping[str, TableGuess | PacketTableGuess | str],
) -> Iterable[str]:
    by_task: dict[str, list[ClassEstimate]] = collections.defaultdict(list)
    for each in classes:
        by_task[each.task].append(each)
    if not by_task and all(isinstance(table, str) for table in tables.values()):
        yield "no class was found in folders, names or tables, so the manifest cannot be built before it has labels"
    unlabelled = [capture.path for capture in found.captures if not labels.get(capture.path)]
    if by_task and unlabelled:
        yield f"captures without a label: {len(unlabelled):,}, such as {unlabelled[0]}"
    for task, known in by_task.items():
        few = [each.label for each in known if each.captures < FEWEST_GROUPS]
        if few:
            yield (
                f"task {task!r}: fewer than {FEWEST_GROUPS} captures of {_some(few)}, so that flows of one capture "
                "will be in train and test"
            )
        empty = [each.label for each in known if each.flows == 0]
        if empty:
            yield f"task {task!r}: the sample has no flow of {_some(empty)}; their captures may be empty or not IP"
        partly = sum(1 for capture in found.captures if task not in labels.get(capture.path, {}))
        if partly > len(unlabelled):
            yield f"task {task!r}: no label of it in the paths of {partly:,} of {len(found.captures):,} captures"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
