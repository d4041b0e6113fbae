"""Labels from the paths of captures (`label_from`), and labels that follow from other labels (`label_map`)."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic

from flowloom.schemas.corpus.label_sources import LabelMapping
from flowloom.schemas.corpus.tasks import NEGATIVE, POSITIVE, LabelValue, Task
from flowloom.schemas.errors import did_you_mean

PathPart = Literal["parent-folder", "file-name"]
"""Part of a capture's path that is a label: the name of its folder, or its own name without endings."""

_ENDINGS = re.compile(r"(?:\.(?:pcapng|pcap|cap|dmp|ntar))?\d*(?:\.(?:gz|zst|xz|bz2))?$", re.IGNORECASE)


class LabelFrom(pydantic.BaseModel):
    """Rules by which the path of a capture names its labels: parts of the path, or a pattern.

    Keys other than `pattern` are tasks. The groups of the pattern are named after tasks; it is searched in the path
    relative to the manifest (or to the folder of `--data`), with `/` between folders.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, PathPart]

    pattern: str | None = pydantic.Field(None, description="regular expression with groups named after tasks")

    @pydantic.field_validator("pattern")
    @classmethod
    def _has_named_groups(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error}), got {pattern!r}") from None
        if not groups:
            raise ValueError(f"must have groups named after tasks, such as (?P<app>[a-z]+), got {pattern!r}")
        return pattern

    @pydantic.model_validator(mode="after")
    def _gives_each_task_one_rule(self) -> Self:
        if not self.tasks:
            raise ValueError("must have a task, such as {device: parent-folder}, or a pattern, got neither; add one")
        if both := [task for task in self.parts if task in self.tasks[len(self.parts) :]]:
            raise ValueError(f"must have one rule for each task, got two for {both[0]!r}; remove one")
        return self

    @property
    def parts(self) -> dict[str, PathPart]:
        """The part of the path by task."""
        return self.__pydantic_extra__ or {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that paths label."""
        return (*self.parts, *(re.compile(self.pattern).groupindex if self.pattern else ()))

    def labels(self, path: str) -> dict[str, str]:
        """Returns the labels in a path by task; tasks that the path does not label are absent.

        Args:
          path: path with `/` between folders, relative to the folder that the pattern refers to.
        """
        folders, _, name = path.rpartition("/")
        of_part: dict[PathPart, str] = {
            "parent-folder": folders.rpartition("/")[2],
            "file-name": _ENDINGS.sub("", name, count=1),
        }
        found: dict[str, str | None] = {task: of_part[part] for task, part in self.parts.items()}
        if self.pattern and (match := re.search(self.pattern, path)):
            found |= match.groupdict()
        return {task: label for task, label in found.items() if label}


def _texts(table: object) -> object:
    """Replaces keys that YAML reads as numbers or truth values by the label values that they are."""
    if not isinstance(table, dict):
        return table
    truth = {True: POSITIVE, False: NEGATIVE}
    return {truth[key] if isinstance(key, bool) else str(key): row for key, row in table.items()}


DerivedLabels = Annotated[dict[str, dict[str, LabelValue | None]], pydantic.BeforeValidator(_texts)]
"""Labels of other tasks, by label value of one task; null means unknown."""


def check_path_labels(
    rules: LabelFrom,
    words: Mapping[str, LabelMapping],
    labels: Mapping[str, LabelValue],
    tasks: Mapping[str, Task],
    name: str,
) -> None:
    """Checks that the tasks and label values of an entry's rules exist, and that `labels` does not label them too.

    Raises:
      ValueError: naming the first fault.
    """
    place = f"label_from of {name!r}"
    for task in rules.tasks:
        _require_task(task, tasks, place)
        if task in labels:
            raise ValueError(f"{place}: task {task!r} is also in labels; remove it from one of them")
    for task, mapping in words.items():
        if task not in rules.tasks:
            raise ValueError(
                f"words of {name!r}: task must be one of label_from ({', '.join(rules.tasks)}), got {task!r}"
                f"{did_you_mean(task, rules.tasks)}"
            )
        for value in mapping.values():
            if value is not None:
                _require_value(tasks[task], value, f"words of {name!r}")


def check_label_map(label_map: Mapping[str, DerivedLabels], tasks: Mapping[str, Task]) -> None:
    """Checks that a label map names tasks and label values that exist, and gives every derived task in every row.

    Args:
      tasks: the manifest's tasks by name.

    Raises:
      ValueError: naming the first row with a fault.
    """
    owners: dict[str, str] = {}
    for source, rows in label_map.items():
        place = f"label_map.{source}"
        _require_task(source, tasks, "label_map")
        derived = {task for row in rows.values() for task in row}
        for task in sorted(derived):
            _require_task(task, tasks, place)
            if task in label_map:
                raise ValueError(
                    f"{place} must not derive a task that others follow from, got {task!r}; derive all from one task"
                )
            if (other := owners.setdefault(task, source)) != source:
                raise ValueError(f"label_map must derive task {task!r} once, got {other} and {source}; remove one")
        for value, row in rows.items():
            _require_value(tasks[source], value, place)
            if missing := sorted(derived - set(row)):
                raise ValueError(
                    f"{place}.{value} must have a label of {', '.join(sorted(derived))}, got none of "
                    f"{', '.join(missing)}; add it, or write {missing[0]}: null where it is unknown"
                )
            for task, label in row.items():
                if label is not None:
                    _require_value(tasks[task], label, f"{place}.{value}")


def _require_task(name: str, tasks: Mapping[str, Task], place: str) -> None:
    if name not in tasks:
        raise ValueError(f"{place}: task must be one of {', '.join(tasks)}, got {name!r}{did_you_mean(name, tasks)}")
    if tasks[name].kind == "auto":
        raise ValueError(f"{place}: task {name!r} is measured and takes no labels; remove it there")


def _require_value(task: Task, value: LabelValue, place: str) -> None:
    try:
        task.check(value)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
