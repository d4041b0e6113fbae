"""Manifest without `label_from`, `label_map` and open vocabularies: what a build works with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import pydantic

from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.label_words import LabelMapping, label_meaning
from flowloom.schemas.corpus.manifest import CaptureSource, CorpusManifest, Entry
from flowloom.schemas.corpus.path_labels import DerivedLabels
from flowloom.schemas.corpus.published_sources import PublishedSource
from flowloom.schemas.corpus.tasks import LabelValue, Task

Labels = dict[str, LabelValue]
"""Label values by task; tasks without a label are absent."""


class FoundSource(CaptureSource):
    """Captures of an entry with `label_from` whose paths name the same labels."""

    found_by: str
    """The glob of the entry, under which messages and the card name the captures."""

    @property
    def name(self) -> str:
        """The glob of the entry."""
        return self.found_by

    @classmethod
    def of(cls, entry: CaptureSource, glob: str, labels: Labels) -> Self:
        """Returns an entry's captures below another glob, with labels that their paths name."""
        kept = {name: getattr(entry, name) for name in CaptureSource.model_fields}
        return cls.model_validate(
            {**kept, "glob": glob, "labels": {**labels, **entry.labels}, "label_from": None, "words": {},
             "found_by": entry.glob}
        )  # fmt: skip


def mapped_labels(found: Mapping[str, str], words: Mapping[str, LabelMapping]) -> Labels:
    """Returns the labels in a path after the mapping of an entry's `words`, without unknown ones."""
    values = {task: label_meaning(label, words.get(task, {}), label) for task, label in found.items()}
    return {task: value for task, value in values.items() if value is not None}


def with_found_labels(manifest: CorpusManifest, found: Mapping[int, Sequence[FoundSource]]) -> CorpusManifest:
    """Returns a manifest in which every label is written out: no `label_from`, no `label_map`, no open vocabulary.

    Args:
      found: the captures of each entry with `label_from`, by the entry's position.

    Raises:
      ValueError: if a task has fewer than two label values, or a label is not in its vocabulary or in the label map.
    """
    entries: list[Entry] = []
    for at, entry in enumerate(manifest.captures):
        entries += found.get(at, [entry])
    tasks = {task.name: task for task in manifest.tasks}
    derived = {task for rows in manifest.label_map.values() for row in rows.values() for task in row}
    for name in [name for name in tasks if name not in derived]:
        tasks[name] = _closed(tasks[name], entries)
    for name, rows in manifest.label_map.items():
        _require_rows(tasks[name], rows)
        entries = [_derive(entry, tasks[name], rows) for entry in entries]
    for name in derived:
        tasks[name] = _closed(tasks[name], entries)
    changed = {"captures": tuple(entries), "tasks": tuple(tasks.values()), "label_map": {}}
    try:
        return CorpusManifest.model_validate({**dict(manifest), **changed})
    except pydantic.ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _closed(task: Task, entries: Iterable[Entry]) -> Task:
    """Returns a task whose vocabulary is known: its own, or all label values of the entries, sorted."""
    if not task.is_open:
        return task
    values = {value for entry in entries for value in _values(entry, task.name)}
    if len(values) < 2:
        only = f"only {values.pop()!r}" if values else "none"
        raise ValueError(
            f"task {task.name!r} must have at least 2 label values, got {only} from the entries of captures; write its "
            "vocabulary, or label captures of another class"
        )
    return task.model_copy(update={"vocabulary": tuple(sorted(values))})


def _values(entry: Entry, task: str) -> Iterable[str]:
    """Yields the label values that an entry gives to a task."""
    values: list[LabelValue | None] = [entry.labels.get(task)]
    for spec in (spec for spec in entry.window_specs if spec.task == task):
        values += [*spec.words.values(), spec.default if isinstance(spec, LabelTable) else None]
    if isinstance(entry, PublishedSource):
        values += entry.words.get(task, {}).values()
    return (str(value) for value in values if value is not None)


def _require_rows(task: Task, rows: DerivedLabels) -> None:
    missing = [value for value in task.vocabulary if value not in rows]
    if missing:
        raise ValueError(
            f"label_map.{task.name} must have a row for every label value, got none for {', '.join(missing)}; add "
            f"{'it' if len(missing) == 1 else 'them'}, with null where a label is unknown"
        )


def _derive(entry: Entry, task: Task, rows: DerivedLabels) -> Entry:
    """Returns an entry that also labels the tasks that follow from a task, unless it has labels of their own."""
    followers = sorted({name for row in rows.values() for name in row})
    maps = {name: {value: row[name] for value, row in rows.items()} for name in followers}
    update: dict[str, object] = {}
    if task.name in entry.labels:
        value = task.vocabulary[task.index(entry.labels[task.name])]
        new = {name: label for name, label in rows[value].items() if label is not None}
        update["labels"] = {**new, **entry.labels}
    if isinstance(entry, PublishedSource):
        return entry.model_copy(update={**update, **_derived_meanings(entry, task, maps)})
    return entry.model_copy(update={**update, **_derived_sources(entry, task, maps)})


def _derived_sources(entry: CaptureSource, task: Task, maps: Mapping[str, LabelMapping]) -> dict[str, object]:
    """Returns the changed sources of single flows: one more of each that labels the task, for every follower."""
    specs = [spec for spec in entry.window_specs if spec.task == task.name]
    labelled = {spec.task for spec in entry.window_specs}
    wanted = {name: mapping for name, mapping in maps.items() if name not in labelled}
    if not specs or not wanted:
        return {}
    unsuited = next((spec for spec in specs if not isinstance(spec, LabelTable)), None)
    if unsuited is not None:
        kind = "packet_table" if isinstance(unsuited, PacketTable) else "dpi"
        raise ValueError(
            f"label_map.{task.name} follows labels of paths and of label tables, got labels by {kind} of "
            f"{entry.name!r}; repeat the {kind} in an entry for each of {', '.join(wanted)}"
        )
    tables = [
        _derived_table(spec, task, name, mapping)
        for spec in specs
        for name, mapping in wanted.items()
        if isinstance(spec, LabelTable)
    ]
    return {"label_tables": (*entry.label_tables, *tables)}


def _derived_table(table: LabelTable, task: Task, name: str, mapping: LabelMapping) -> LabelTable:
    default = None if table.default is None else mapping[_value(task, table.default)]
    words = _composed(table.words, task, mapping)
    return table.model_copy(update={"task": name, "words": words, "default": default})


def _derived_meanings(entry: PublishedSource, task: Task, maps: Mapping[str, LabelMapping]) -> dict[str, object]:
    """Returns the changed keys of published files: followers get the labels of the task's kind, mapped."""
    kind = entry.label_kind(task.name)
    if kind is None:
        return {}
    wanted = [name for name in maps if entry.label_kind(name) is None]
    own = entry.words.get(task.name, {})
    return {
        "labels_as": {**entry.labels_as, kind: (*entry.labels_as.get(kind, (task.name,)), *wanted)},
        "words": {**entry.words, **{name: _composed(own, task, maps[name]) for name in wanted}},
    }


def _composed(words: LabelMapping, task: Task, mapping: LabelMapping) -> LabelMapping:
    """Returns the labels of a follower by a source's own labels."""
    known = {value: value for value in task.vocabulary}
    numbers = {str(at): value for at, value in enumerate(task.vocabulary)} if task.kind == "binary" else {}
    meant: LabelMapping = {label: label_meaning(label, words, value) for label, value in {**numbers, **known}.items()}
    meant |= words
    return {label: None if value is None else mapping[_value(task, value)] for label, value in meant.items()}


def _value(task: Task, value: LabelValue) -> str:
    return task.vocabulary[task.index(value)]
