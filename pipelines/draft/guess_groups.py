"""Guesses about rotated captures: files whose names continue each other and are parts of one recording."""

import os
import re
from collections.abc import Sequence

from flowloom.transforms.io.rotation import rotation_stem

_COMPRESSED = re.compile(r"\.(?:gz|zst|xz|bz2)$")
_ENDING = r"\.(?:pcapng|pcap|cap|dmp|ntar)"
_COUNTED_ENDING = re.compile(rf"{_ENDING}\d+$", re.IGNORECASE)
_PLAIN_COUNTER = re.compile(rf"[-_.]?\d{{1,9}}(?P<ending>{_ENDING})?$", re.IGNORECASE)


def rotated_sets(paths: Sequence[str]) -> dict[str, int]:
    """Returns the globs of sets of files that are parts of one recording, and the number of files of each.

    These have the names of tcpdump's -C, -G and -W and of Wireshark's ring buffer. A plain counter, as in
    `web-01.pcap`, is no sign, because separate recordings have one too.
    """
    stems: dict[str, list[str]] = {}
    for path in paths:
        if not _has_plain_counter(path):
            stems.setdefault(rotation_stem(path), []).append(path)
    sets: dict[str, int] = {}
    for stem, members in stems.items():
        if len(members) > 1:
            folder, name = os.path.split(stem)
            sets[os.path.join(folder, f"{os.path.splitext(name)[0]}*")] = len(members)
    return sets


def counted_names(paths: Sequence[str]) -> tuple[str, str] | None:
    """Returns two paths of one folder whose names differ by a plain counter; None if there are none."""
    first: dict[str, str] = {}
    for path in paths:
        if _has_plain_counter(path):
            other = first.setdefault(rotation_stem(path), path)
            if other != path:
                return other, path
    return None


def _has_plain_counter(path: str) -> bool:
    """Returns whether a plain counter is all that the name of a capture has in addition to its stem."""
    name = _COMPRESSED.sub("", path)
    without = _PLAIN_COUNTER.sub(lambda found: found["ending"] or "", name, count=1)
    return without != name and without == rotation_stem(path) and not _COUNTED_ENDING.search(name)
