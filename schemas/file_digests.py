"""Digests of stored files, and JSON documents that carry the digest of their own content."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from flowloom.schemas.errors import FlowloomError

SEAL = "document_sha256"
"""Key of a JSON document with the SHA-256 of all its other keys and values."""
SHOWN_DIGITS = 12

_verified: dict[tuple[str, int, int, int], str] = {}
"""SHA-256 of files that this process has read, by path, size, time of change (ns) and inode."""


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: str | os.PathLike[str], sha256: str | None, remedy: str) -> None:
    """Checks the SHA-256 of a file, once in the life of the process unless the file changes.

    Args:
      sha256: the expected digest; None or empty if none was recorded, which is no check.
      remedy: what a user does about a damaged file.

    Raises:
      FlowloomError: if the file has another digest or cannot be read.
    """
    if not sha256:
        return
    name = os.path.abspath(path)
    try:
        status = os.stat(name)
        key = (name, status.st_size, status.st_mtime_ns, status.st_ino)
        found = _verified.get(key) or file_sha256(name)
    except OSError as error:
        raise FlowloomError(f"{os.fspath(path)} cannot be read ({error.strerror}); {remedy}") from None
    if found != sha256:
        raise FlowloomError(
            f"{os.fspath(path)} must have the SHA-256 {sha256[:SHOWN_DIGITS]}..., got {found[:SHOWN_DIGITS]}...; "
            f"{remedy}"
        )
    _verified[key] = found


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON document with the digest of its content."""
    return {**document, SEAL: _content_digest(document)}


def sealed_text(text: str, indent: int) -> str:
    """Returns the text of a JSON document with the digest of its content, indented, with a line end."""
    return json.dumps(sealed(json.loads(text)), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def unsealed(document: Any, path: str | os.PathLike[str], remedy: str) -> Any:
    """Returns a JSON document without its digest; documents without a digest are returned unchanged.

    Args:
      document: the parsed file.
      path: the file, for the error message.
      remedy: what a user does about a damaged file.

    Raises:
      FlowloomError: if the content has another digest.
    """
    if not isinstance(document, dict) or SEAL not in document:
        return document
    content = {name: value for name, value in document.items() if name != SEAL}
    claimed, found = document[SEAL], _content_digest(content)
    if claimed != found:
        raise FlowloomError(
            f"{os.fspath(path)} must have the {SEAL} {str(claimed)[:SHOWN_DIGITS]}..., got content with "
            f"{found[:SHOWN_DIGITS]}...; {remedy}"
        )
    return content


def _content_digest(content: Mapping[str, Any]) -> str:
    stored = json.loads(json.dumps(content))  # with the keys and lists that a file has
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
