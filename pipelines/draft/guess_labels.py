"""Guesses of labels in the paths of captures: folders, and parts of names that repeat."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

from flowloom.schemas.corpus.path_labels import LabelFrom

MOST_CLASSES = 50
"""Largest number of names of captures that are taken for classes."""
FEWEST_CAPTURES = 2
"""Captures that at least two values of a part of a name must have to be taken for classes."""

_PART = "[^-_ /]+"
_STEM = LabelFrom.model_validate({"stem": "file-name"})


@dataclasses.dataclass(frozen=True)
class PathGuess:
    """Labels that paths seem to name.

    Attributes:
      label_from: the rule of a manifest.
      reasons: by task, a sentence about the part of the path.
    """

    label_from: dict[str, str]
    reasons: dict[str, str]


def guess_labels(paths: Sequence[str]) -> PathGuess | None:
    """Returns the labels that the paths of captures seem to name; None if they name none.

    Folders that differ between captures are labels, and so are parts of names between `-`, `_` and blanks that repeat
    and are no counters or times. A part that says the same as another one is omitted.
    """
    known: dict[str, Sequence[str | None]] = {}
    folders = _varying_folders(paths, known)
    names, parts = _varying_parts(paths, known)
    if not known:
        return _whole_names(paths)
    reasons = {task: _reason(task, values) for task, values in known.items()}
    if not folders:
        return PathGuess({"pattern": f"(?:^|/){names}$"}, reasons)
    if folders == ["parent-folder"]:
        rule = {"folder": "parent-folder"}
        return PathGuess({**rule, "pattern": f"(?:^|/){names}$"} if parts else rule, reasons)
    pattern = "^" + "".join(f"{each}/" for each in folders)
    return PathGuess({"pattern": f"{pattern}(?:{names}$)?" if parts else pattern}, reasons)


def _varying_folders(paths: Sequence[str], known: dict[str, Sequence[str | None]]) -> list[str]:
    """Adds the labels in folders to `known`, and returns the folders' part of a pattern, or `parent-folder`."""
    split = [path.split("/")[:-1] for path in paths]
    depths = {len(folders) for folders in split}
    if len(depths) > 1 or depths == {0}:
        parents = [folders[-1] if folders else None for folders in split]
        if len(set(parents) - {None}) < 2:
            return []
        known["folder"] = parents
        return ["parent-folder"]
    (depth,) = depths
    levels = {at: [folders[at] for folders in split] for at in range(depth)}
    varying = [at for at, values in levels.items() if len(set(values)) > 1]
    varying = [at for place, at in enumerate(varying) if not any(
        _says_the_same(levels[at], levels[other]) for other in varying[place + 1 :])]  # fmt: skip
    if varying == [depth - 1]:
        known["folder"] = levels[depth - 1]
        return ["parent-folder"]
    tasks = {at: f"folder{number + 1}" for number, at in enumerate(varying)}
    known.update({task: levels[at] for at, task in tasks.items()})
    return [f"(?P<{tasks[at]}>[^/]+)" if at in tasks else "[^/]+" for at in range(depth)] if varying else []


def _varying_parts(paths: Sequence[str], known: dict[str, Sequence[str | None]]) -> tuple[str, int]:
    """Adds the labels in parts of names to `known`, and returns the names' part of a pattern and their number."""
    split = [re.split("[-_ ]", _STEM.labels(path).get("stem", "")) for path in paths]
    length, count = collections.Counter(map(len, split)).most_common(1)[0]
    if length == 1 or count * 2 < len(paths):
        return "", 0
    shaped: dict[int, list[str | None]] = {
        at: [parts[at] if len(parts) == length else None for parts in split] for at in range(length)
    }
    chosen: list[int] = []
    for at, values in shaped.items():
        if _are_classes([value for value in values if value is not None]) and not any(
            _says_the_same(values, other) for other in (*known.values(), *(shaped[each] for each in chosen))
        ):
            chosen.append(at)
    tasks = {at: f"name{number + 1}" if len(chosen) > 1 else "name" for number, at in enumerate(chosen)}
    known.update({task: shaped[at] for at, task in tasks.items()})
    parts = [f"(?P<{tasks[at]}>{_PART})" if at in tasks else _PART for at in range(length)]
    if length - 1 in tasks:  # without the endings of the name
        parts[-1] = f"(?P<{tasks[length - 1]}>[^-_ /.]+)[^-_ /]*"
    return "[-_ ]".join(parts), len(chosen)


def _are_classes(values: Sequence[str]) -> bool:
    """Returns whether the values of one part of names seem to be classes: they repeat, and are no counters."""
    counts = collections.Counter(values)
    repeated = sum(count >= FEWEST_CAPTURES for count in counts.values())
    if repeated < 2 or len(counts) > len(values) / 2:
        return False
    if any(value.isdigit() or len(value) < 2 for value in counts):
        return False
    ends = [re.fullmatch(r"(\D*)(\d+)", value) for value in counts]
    if not all(ends) or len({end[1] for end in ends if end}) > 1:
        return True
    numbers = sorted(int(end[2]) for end in ends if end)
    return numbers[-1] - numbers[0] >= len(numbers)  # a counter has no gaps, versions do


def _says_the_same(one: Sequence[str | None], other: Sequence[str | None]) -> bool:
    """Returns whether one label determines another one and the reverse, where both are known."""
    both = {(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None}
    return bool(both) and len(both) == len({a for a, _ in both}) == len({b for _, b in both})


def _whole_names(paths: Sequence[str]) -> PathGuess | None:
    """Returns the names of captures as labels, without counters at their ends."""
    stems = [_STEM.labels(path).get("stem", "") for path in paths]
    without = [re.sub(r"[-_ ]?\d+$", "", stem) for stem in stems]
    if 2 <= len(set(without)) <= MOST_CLASSES and all(without):
        pattern = r"(?:^|/)(?P<name>[^/.]*?)[-_ ]?\d*\.[^/]*$"
        if len(set(without)) < len(paths) and not any("." in stem for stem in stems):
            return PathGuess({"pattern": pattern}, {"name": _reason("name", without)})
        return PathGuess({"name": "file-name"}, {"name": _reason("name", stems)})
    return None


def _reason(task: str, values: Sequence[str | None]) -> str:
    found = sorted({value for value in values if value})
    shown = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
    return f"{len(found)} values: {shown}"


def label_paths(label_from: Mapping[str, str], paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the labels of each path under a rule."""
    rule = LabelFrom.model_validate(dict(label_from))
    return {path: rule.labels(path) for path in paths}
