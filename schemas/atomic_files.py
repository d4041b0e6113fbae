"""Atomic files: each appears under its name only when it is complete."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowloom.schemas.abandoned import owner_mark, remove_abandoned

UNFINISHED = ".writing"
"""Part of the names of incomplete files."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_CLEANED: set[str] = set()
"""Folders that this process has cleaned."""


def unfinished(path: str | os.PathLike[str], suffix: str = "") -> str:
    """Returns a new hidden name beside a path, so that two attempts never share a file.

    The first call for a folder removes what dead processes left there.
    """
    folder, name = os.path.split(path)
    place = os.path.abspath(folder)
    if place not in _CLEANED:
        _CLEANED.add(place)
        remove_abandoned(folder, ".", UNFINISHED)
    return os.path.join(folder, f".{name}{owner_mark()}{UNFINISHED}{suffix}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds, and is removed if it fails.

    Args:
      path: of the file.
      suffix: end of the temporary name, for writers that demand one.
    """
    temporary = Path(unfinished(path, suffix))
    try:
        with file_named(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def file_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds a file's path to errors of writing (full disk, quota, size limit), which lack it.

    Raises:
      OSError: with the path, if the block raises such an error without.
    """
    try:
        yield
    except OSError as error:
        full = "No space left" in str(error) and errno.ENOSPC  # as libraries in C report it, without a number
        number = error.errno if error.errno in _FULL else full
        if error.filename is not None or not number:
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a whole text file in UTF-8, with line feeds as line ends."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a value as a whole, indented JSON file.

    Raises:
      ValueError: if the value has NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
