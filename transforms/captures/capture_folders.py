"""Folders of captures: every capture below a folder, recognised by its name or its content."""

import dataclasses
import os

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.printable import printable
from flowloom.transforms.captures.capture_files import CaptureError, archive_captures, is_named_capture
from flowloom.transforms.captures.ranges import CaptureRange


@dataclasses.dataclass(frozen=True)
class FolderCaptures:
    """Files below a folder.

    Attributes:
      captures: paths of captures, sorted. A file with the name of a capture (`.pcap`, `.pcapng`, `.cap`, also
        compressed or numbered) is one whatever its content, so that its damage becomes a reject.
      others: paths of files that are no captures by name and content.
      unreadable: folders that cannot be listed, each with the reason.
    """

    captures: tuple[str, ...]
    others: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]

    def rejects(self, folder: str) -> list[tuple[str, RejectReason, str]]:
        """Returns what keeps captures of a folder from being read: uri, reason and sentence of each fault."""
        if not self.captures and not self.unreadable:
            return [(folder, RejectReason.NO_MATCH, "the folder has no capture; check the path")]
        return [
            (printable(place), RejectReason.UNREADABLE, f"cannot list the folder: {reason}; check its permissions")
            for place, reason in self.unreadable
        ]


def folder_captures(folder: str) -> FolderCaptures:
    """Returns the captures below a folder, at every depth; hidden files and folders are not entered.

    A ZIP or tar stands for its captures.
    """
    unreadable: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        unreadable.append((os.fspath(error.filename), error.strerror or str(error)))

    captures: list[str] = []
    others: list[str] = []
    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.startswith(".") and os.path.isfile(path):
                if found := archive_captures(path):
                    captures += found
                else:
                    (captures if is_named_capture(path) or _starts_as_capture(path) else others).append(path)
    return FolderCaptures(tuple(sorted(captures)), tuple(sorted(others)), tuple(sorted(unreadable)))


def _starts_as_capture(path: str) -> bool:
    try:
        capture, _ = CaptureRange(path).open()
    except CaptureError:
        return False
    capture.close()
    return True
