"""Capture files: matched by path or glob, identified by content, opened on any filesystem as they are stored."""

import contextlib
import glob
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.io.filesystems import find, is_url, open_url

READ_BYTES = 1 << 22
"""Bytes read from a file, or added to the window of a streamed capture, at a time."""
FINGERPRINT_BYTES = 2 << 20
"""Bytes of a file that its fingerprint covers, half at each end; all bytes of a smaller file."""

_DIGEST_BYTES = 64 << 20  # mapped at a time; smaller reads would wait for the interpreter lock each time


class CaptureError(Exception):
    """Error that stops reading a capture: a reject reason, the offset in uncompressed bytes, and a sentence."""

    def __init__(self, reason: RejectReason, offset: int, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


def match_captures(pattern: str) -> list[str]:
    """Returns the files that a path or glob matches, sorted; `**` crosses folders.

    URLs (`s3://`, `gs://`, `https://`, ...) are matched by `transforms/io/filesystems.py`.
    """
    if not is_url(pattern):
        if os.path.isfile(pattern):
            return [pattern]
        return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    return find(pattern)


def capture_sha256(uri: str, file: IO[bytes] | None = None) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes as they are stored.

    Args:
      file: the file from `open_stored`, if it is open already.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read.
    """
    digest = hashlib.sha256()
    with opened(uri, file) as file:
        if not is_url(uri) and os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                for start in range(0, len(mapping), _DIGEST_BYTES):
                    with memoryview(mapping)[start : start + _DIGEST_BYTES] as piece:
                        digest.update(piece)
                    mapping.madvise(mmap.MADV_DONTNEED, start, min(_DIGEST_BYTES, len(mapping) - start))
        else:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def capture_fingerprint(uri: str, file: IO[bytes] | None = None) -> tuple[int, str]:
    """Returns a file's size and its fingerprint: the hexadecimal SHA-256 of size, first and last MiB.

    To name a large capture by all its bytes would cost more time than to meter it.

    Args:
      file: the file from `open_stored`, if it is open already.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read.
    """
    with opened(uri, file) as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for start in (0, max(size - FINGERPRINT_BYTES // 2, 0)):
            file.seek(start)
            digest.update(file.read(FINGERPRINT_BYTES // 2))
    return size, digest.hexdigest()


@contextlib.contextmanager
def open_stored(uri: str) -> Iterator[IO[bytes]]:
    """Opens a file of any filesystem as it is stored; its name does not matter.

    Raises:
      CaptureError: `unreadable`, if it cannot be opened.
    """
    try:
        file = open_url(uri, READ_BYTES) if is_url(uri) else Path(uri).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptureError(
            RejectReason.UNREADABLE, 0, f"cannot open the file: {reason}; check path and permissions"
        ) from None
    with file:
        yield file


def opened(uri: str, file: IO[bytes] | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Returns a file from its beginning: the open one, which stays open, or a new one."""
    if file is None:
        return open_stored(uri)
    file.seek(0)
    return contextlib.nullcontext(file)
