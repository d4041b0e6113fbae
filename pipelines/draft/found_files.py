"""Files of a folder by what they may be for a manifest: captures and label tables."""

import dataclasses
import os
import re
import time
from collections.abc import Iterator

from flowloom.schemas.dataset.dataset_card import CARD
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.printable import printable
from flowloom.transforms.captures.capture_files import CaptureError, name_fault
from flowloom.transforms.captures.formats import first_time_ns
from flowloom.transforms.captures.pcap import PCAP_MAGIC
from flowloom.transforms.captures.pcapng import SECTION_HEADER

MOST_FILES = 200_000
"""Largest number of files that are looked at."""
CHECK_S = 10.0
"""Seconds for reading the first record of each capture."""

_CAPTURE = re.compile(r"\.(?:pcapng|pcap|cap|dmp|ntar)\d*(?:\.(?:gz|zst|xz|bz2))?$", re.IGNORECASE)
_TABLE = re.compile(
    r"(?:\.(?:csv|binetflow)|(?:^|/)conn\.log(?:\.labeled)?)(?:\.(?:gz|zst|xz|bz2))?$|\.(?:parquet|pq)$", re.IGNORECASE
)
_MAGIC = {*(bytes(magic) for magic in PCAP_MAGIC), SECTION_HEADER.to_bytes(4, "little")}


@dataclasses.dataclass(frozen=True)
class FoundCapture:
    """Capture by its path relative to the folder; `first_ns` is None without a record or if it was not read."""

    path: str
    size: int
    first_ns: int | None


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """Files of a folder.

    Attributes:
      captures: captures in the order of their paths.
      paths: paths of all files.
      rejects: paths of captures that cannot be read, with the reasons.
      tables: paths of tables and of connection logs of Zeek.
      unchecked: number of captures that were not read, for lack of time.
      truncated: whether the folder has more than `MOST_FILES` files.
    """

    captures: tuple[FoundCapture, ...]
    paths: tuple[str, ...]
    rejects: dict[str, str]
    tables: tuple[str, ...]
    unchecked: int
    truncated: bool


def find_files(folder: str, check_s: float = CHECK_S) -> FoundFiles:
    """Returns the files below a folder, without hidden ones and those of datasets.

    Args:
      check_s: seconds for reading the first record of each capture.

    Raises:
      FlowloomError: if the folder cannot be listed.
    """
    if not os.path.isdir(folder):
        raise FlowloomError(f"{folder}: the folder of captures must exist; check the path")
    paths: list[str] = []
    for path in _paths(folder):
        if len(paths) == MOST_FILES:
            break
        paths.append(path)
    captures: list[FoundCapture] = []
    rejects: dict[str, str] = {}
    unchecked, begun = 0, time.monotonic()
    for path in (path for path in paths if _may_be_capture(folder, path)):
        size, first_ns = os.path.getsize(os.path.join(folder, path)), None
        if fault := name_fault(path):
            rejects[printable(path)] = fault
            continue
        if time.monotonic() - begun > check_s:
            unchecked += 1
        else:
            try:
                first_ns = first_time_ns(os.path.join(folder, path))
            except CaptureError as error:
                rejects[path] = error.detail
                continue
        captures.append(FoundCapture(path, size, first_ns))
    return FoundFiles(
        captures=tuple(captures),
        paths=tuple(paths),
        rejects=rejects,
        tables=tuple(path for path in paths if _TABLE.search(path)),
        unchecked=unchecked,
        truncated=len(paths) == MOST_FILES,
    )


def _paths(folder: str) -> Iterator[str]:
    """Yields the paths of all files below a folder, relative to it, in the order of their names."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen or CARD in names:  # links may form a circle; datasets are no captures
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(place, folder)
        for name in sorted(names):
            path = name if below == "." else os.path.join(below, name)
            if not name.startswith(".") and os.path.isfile(os.path.join(folder, path)):
                yield path.replace(os.sep, "/")


def _may_be_capture(folder: str, path: str) -> bool:
    """Returns whether a file has the name of a capture, or begins like one."""
    if _CAPTURE.search(path):
        return True
    try:
        with open(os.path.join(folder, path), "rb") as file:
            return file.read(4) in _MAGIC
    except OSError:
        return False
