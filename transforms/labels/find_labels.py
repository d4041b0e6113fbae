"""Labels in the paths of captures: the files of an entry with `label_from`, by the labels that their paths name."""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.corpus.resolve_labels import FoundSource, Labels, mapped_labels
from flowloom.transforms.captures.groups import relative_uri

_SHOWN = 3


def find_labels(entry: CaptureSource, uris: Sequence[str], folder: str) -> list[FoundSource]:
    """Returns the captures of an entry by the labels that their paths name, in the order of their paths.

    A folder whose captures have the same labels is one glob, so that captures that it gets later have them too; other
    captures are named one by one. A capture whose path names no label has none.

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
    for uri in sorted(uris):
        path = relative_uri(uri, folder)
        labels = mapped_labels(entry.label_from.labels(path.replace(os.sep, "/")), entry.words)
        found.setdefault(os.path.dirname(path), {})[path] = labels
    if uris and not any(labels for captures in found.values() for labels in captures.values()):
        raise ValueError(_no_label(entry, [path for captures in found.values() for path in captures]))
    return [
        FoundSource.of(entry, pattern, labels)
        for place, captures in found.items()
        for pattern, labels in _globs(entry.glob, place, captures)
    ]


def _globs(pattern: str, place: str, captures: Mapping[str, Labels]) -> Iterable[tuple[str, Labels]]:
    """Yields globs of the captures in one folder, with their labels."""
    first, *others = captures.values()
    name = os.path.basename(pattern)
    if "://" not in pattern and "**" not in name and all(labels == first for labels in others):
        yield os.path.join(glob.escape(place), name), first
        return
    for path, labels in captures.items():
        # filesystems by URL know no escaped characters in a glob
        yield re.sub(r"[*?\[]", "?", path) if "://" in path else glob.escape(path), labels


def _no_label(entry: CaptureSource, paths: Sequence[str]) -> str:
    rules = entry.label_from
    assert rules is not None
    shown = ", ".join(map(repr, paths[:_SHOWN])) + (f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else "")
    wanted = f"pattern {rules.pattern!r}" if rules.pattern else ", ".join(sorted(set(rules.parts.values())))
    return (
        f"label_from of {entry.glob!r} must name a label in the path of a capture, got none by {wanted} in {shown}; "
        "correct the rule, or use labels"
    )
