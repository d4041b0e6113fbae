"""Atomic files: each appears under its name only when it is complete."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNFINISHED = ".writing"
"""Part of the names of incomplete files."""


def unfinished(path: str | os.PathLike[str], suffix: str = "") -> str:
    """Returns a new hidden name beside a path, so that two attempts never share a file."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}{UNFINISHED}{suffix}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds, and is removed if it fails.

    Args:
      path: of the file.
      suffix: end of the temporary name, for writers that demand one.
    """
    temporary = Path(unfinished(path, suffix))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
