"""Streams: standard input and pipes, which are read once and forwards, as their bytes arrive."""

import io
import os
import stat
import sys
from typing import Any

STANDARD_INPUT = "-"


class Stream(io.RawIOBase):
    """Bytes of standard input or of a pipe; a read returns what is there, and waits only if nothing is."""

    def __init__(self, file: io.RawIOBase):
        super().__init__()
        self._file = file
        self._head = b""

    def readable(self) -> bool:  # noqa: D102 - those of `io.RawIOBase`, here and below
        return True

    def head(self, count: int) -> bytes:
        """Returns the first bytes, fewer only if the stream ends; later reads return them again."""
        while len(self._head) < count and (piece := self._file.read(count - len(self._head))):
            self._head += piece
        return self._head[:count]

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        if self._head:
            view = memoryview(buffer)
            count = min(len(self._head), len(view))
            view[:count], self._head = self._head[:count], self._head[count:]
            return count
        return self._file.readinto(buffer) or 0

    def close(self) -> None:  # noqa: D102
        if not self.closed:
            self._file.close()
        super().close()


def is_stream(uri: str) -> bool:
    """Returns whether a name is `-` or a pipe."""
    if uri == STANDARD_INPUT:
        return True
    try:
        return stat.S_ISFIFO(os.stat(uri).st_mode)
    except (OSError, ValueError):
        return False


def open_stream(uri: str) -> Stream:
    """Opens standard input (`-`) or a pipe.

    Raises:
      OSError: if it cannot be opened.
    """
    descriptor = os.dup(sys.stdin.fileno()) if uri == STANDARD_INPUT else uri
    return Stream(open(descriptor, "rb", buffering=0))
