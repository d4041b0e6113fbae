"""Labels in the paths of captures: the files of an entry with `label_from`, by the labels that their paths name."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.corpus.resolve_labels import FoundSource, Labels, mapped_labels
from flowloom.schemas.corpus.tasks import LabelValue
from flowloom.transforms.captures.groups import relative_uri

_SHOWN = 3
_MOST_GLOBS = 64
"""Largest number of label sets in one folder for which globs are sought."""


class LabelledFiles(NamedTuple):
    """Captures of an entry whose paths name the same labels, as an entry of their own, and their uris."""

    source: FoundSource
    uris: tuple[str, ...]


def find_labels(entry: CaptureSource, uris: Sequence[str], folder: str) -> list[LabelledFiles]:
    """Returns the captures of an entry by the labels that their paths name, in the order of their paths.

    Captures of one folder with the same labels are one glob where their names allow it. A capture whose path names no
    label has none.

    Args:
      entry: an entry with `label_from`.
      uris: the files that its glob matches.
      folder: the folder of relative globs.

    Raises:
      ValueError: if no path names a label, or one packet table is for several captures.
    """
    assert entry.label_from is not None
    if entry.packet_table and len(uris) > 1:
        raise ValueError(
            f"{entry.packet_table.path}: a packet table must label one capture, got {len(uris):,} that match "
            f"{entry.glob!r}; give each capture an entry and a packet table of its own"
        )
    found: dict[str, dict[str, Labels]] = {}
    uri_of = {relative_uri(uri, folder): uri for uri in sorted(uris)}
    for path in uri_of:
        labels = mapped_labels(entry.label_from.labels(path.replace(os.sep, "/")), entry.words)
        found.setdefault(os.path.dirname(path), {})[path] = labels
    if uris and not any(labels for captures in found.values() for labels in captures.values()):
        raise ValueError(_no_label(entry, [path for captures in found.values() for path in captures]))
    return [
        LabelledFiles(FoundSource.of(entry, pattern, labels), tuple(uri_of[path] for path in paths))
        for place, captures in found.items()
        for pattern, labels, paths in _globs(entry.glob, place, captures, folder)
    ]


def _globs(
    pattern: str, place: str, captures: Mapping[str, Labels], folder: str
) -> Iterator[tuple[str, Labels, Sequence[str]]]:
    """Yields globs of the captures in one folder, with their labels and paths.

    Captures with the same labels have one glob if the beginning and the end of their names tell them from other files.
    """
    alike: dict[tuple[tuple[str, LabelValue], ...], list[str]] = {}
    for path, labels in captures.items():
        alike.setdefault(tuple(sorted(labels.items())), []).append(path)
    name, local = os.path.basename(pattern), "://" not in pattern
    named = all(fnmatch.fnmatchcase(os.path.basename(path), name) for path in captures)  # a glob may name their archive
    if local and len(alike) == 1 and "**" not in name and named:
        yield os.path.join(glob.escape(place), name), dict(next(iter(alike))), list(captures)
        return
    others: set[str] = set()
    if sought := local and len(alike) <= _MOST_GLOBS:  # captures of an earlier run may be gone
        at = os.path.join(folder, place)
        others = {*map(os.path.basename, captures), *(os.listdir(at) if os.path.isdir(at) else ())}
    for key, paths in alike.items():
        labels = dict(key)
        names = [os.path.basename(path) for path in paths]
        first, last = _beginning(names), _beginning([name[::-1] for name in names])[::-1]
        shared = f"{glob.escape(first)}*{glob.escape(last)}"
        if sought and len(paths) > 1 and len(fnmatch.filter(others, shared)) == len(paths):
            yield os.path.join(glob.escape(place), shared), labels, paths
            continue
        for path in paths:
            # filesystems by URL know no escaped characters in a glob
            yield glob.escape(path) if local else re.sub(r"[*?\[]", "?", path), labels, [path]


def _beginning(names: Sequence[str]) -> str:
    """Returns the characters with which all names begin."""
    first, last = min(names), max(names)
    return first[
        : next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    ]


def _no_label(entry: CaptureSource, paths: Sequence[str]) -> str:
    rules = entry.label_from
    assert rules is not None
    shown = ", ".join(map(repr, paths[:_SHOWN])) + (f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else "")
    wanted = f"pattern {rules.pattern!r}" if rules.pattern else ", ".join(sorted(set(rules.parts.values())))
    return (
        f"label_from of {entry.glob!r} must name a label in the path of a capture, got none by {wanted} in {shown}; "
        "correct the rule, or use labels"
    )
