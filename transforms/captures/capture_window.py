"""Capture windows: uncompressed bytes of a capture, read or decompressed in bounded memory.

Files are never mapped: a mapped file that shrinks ends the process (SIGBUS), and reading is faster.
"""

import contextlib
import io
import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.transforms.captures.capture_digest import CaptureLeaves, LeafHasher
from flowloom.transforms.captures.capture_files import (
    READ_BYTES,
    CaptureError,
    FileStamp,
    change,
    opened,
    stamp_of,
)
from flowloom.transforms.io.archives import MemberFile
from flowloom.transforms.io.compressions import DAMAGED, compression_of, uncompressed
from flowloom.transforms.io.streams import Stream

_PIECE_BYTES = 1 << 16
"""Bytes of the first window; each further one grows by twice as many, up to `READ_BYTES`."""
_REST_BYTES = 1 << 20
"""Bytes read at a time behind the place where reading ended, for their digest."""


class CaptureBytes:
    """Uncompressed bytes of one capture as a window that moves forward.

    A window is valid until the second `advance` or `grow` after it: two buffers take turns.

    Args:
      uri: path or URL.
      start: the byte to begin at; a compressed capture is read from its start.
      file: the file from `open_stored`, if it is open already; it stays open. A `Stream` is read as its bytes arrive.
      stamp: the stamp that a local file must have; None for any.
      hasher: digests the stored bytes as they are read; None for no digest.
      limits: how many bytes a compressed capture may become.

    Attributes:
      size: bytes of the file as stored; bytes that are added to it later are not read. Of a stream, those so far.
      compression: `none`, `gz`, `zst`, `xz`, `bz2` or `lz4`, detected from the content; `zip` of a deflated member.
      window: uint8 view of the available bytes, beginning at `offset`.
      offset: position of `window[0]` in the uncompressed capture.
      complete: whether the window reaches the end of the capture.
      damage: the error that ended the stream early, or None.
    """

    def __init__(
        self,
        uri: str,
        start: int = 0,
        file: IO[bytes] | None = None,
        stamp: FileStamp | None = None,
        hasher: LeafHasher | None = None,
        limits: CaptureLimits = NO_LIMITS,
    ):
        self.uri = uri
        self._hasher = hasher
        self._limits = limits
        self.offset = start
        self.damage: CaptureError | None = None
        self._resources = contextlib.ExitStack()
        try:
            self._begin(self._resources.enter_context(opened(uri, file)), stamp)
        except BaseException:
            self.close()
            raise

    def _begin(self, file: IO[bytes], stamp: FileStamp | None) -> None:
        self._file = file
        self._stamp = stamp or stamp_of(self.uri, file)
        if changed := self.changed():
            raise changed
        self._streamed = isinstance(file, Stream)
        magic = file.head(6) if isinstance(file, Stream) else file.read(6)
        self.compression = (file.compression if isinstance(file, MemberFile) else None) or compression_of(magic)
        size = len(magic) if self._streamed else _size(file, self._stamp)
        if size == 0:
            raise CaptureError(RejectReason.EMPTY, 0, "the file has no bytes; record it again or remove it")
        if self.compression != "none" and self.offset:
            raise ValueError(
                f"start must be 0 for a compressed capture, got {self.offset} for {self.uri}; read it from its start"
            )
        if not self._streamed:
            file.seek(self.offset)
        self._stored = _StoredBytes(file, None if self._streamed else size - self.offset, self._hasher)
        self._size = size
        self._fill = _filler(self._stored, self.compression)
        self._buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self._most = None if self.compression == "none" or self._streamed else self._limits.most(size)
        self._step = min(_PIECE_BYTES, READ_BYTES)
        self.window = self._buffers[0]
        self.complete = False
        self.grow()

    @property
    def size(self) -> int:
        """Bytes of the file as stored; of a stream, those that were read so far."""
        return self._stored.count if self._streamed else self._size

    def advance(self, consumed: int) -> None:
        """Moves the window forward by `consumed` bytes, and refills it when it runs short; a stream might wait then."""
        self.window = self.window[consumed:]
        self.offset += consumed
        if not self.complete and not self._streamed and len(self.window) < READ_BYTES // 2:
            self.grow()

    def skip(self, count: int) -> bool:
        """Moves the window forward by bytes that need not be in it at once; returns whether there are so many."""
        while count:
            if not len(self.window):
                if self.complete:
                    return False
                self.grow()
            step = min(count, len(self.window))
            self.advance(step)
            count -= step
        return True

    def grow(self) -> None:
        """Adds up to `READ_BYTES` to the window, or as much as it has if that is more.

        So few calls reach any size. Of a stream it adds what has arrived, at least a byte. The window is `complete` at
        the end of the capture or at damage.
        """
        filled = len(self.window)
        end = filled + max(self._step, filled)
        self._step = min(2 * self._step, READ_BYTES)
        self._buffers.reverse()
        if len(self._buffers[0]) < end:
            self._buffers[0] = np.empty(end, np.uint8)
        buffer = self._buffers[0]
        buffer[:filled] = self.window
        try:
            while filled < end and not self.complete:
                count = self._fill(buffer.data[filled:end])
                self.complete = count == 0
                filled += count
                if self._streamed and count:
                    break
        except DAMAGED as error:
            self.complete = True
            self.damage = self._damaged(self.offset + filled, error)
        if self._most is not None and self.offset + filled > self._most:
            filled = self._most - self.offset
            self.complete = True
            self.damage = self._over_limit()
        if self.complete:
            self.damage = self.changed() or self.damage
        self.window = buffer[:filled]

    def leaves(self) -> CaptureLeaves:
        """Returns the digests of the hasher's leaves, and reads for them what lies behind damage or the last record.

        Raises:
          CaptureError: `unreadable`, if the file cannot be read; `changed-while-read`.
        """
        assert self._hasher is not None
        if self._streamed:
            return self._hasher.leaves(self.uri)
        rest = bytearray(_REST_BYTES)
        try:
            while not self._hasher.complete and self._stored.readinto(rest):
                pass
        except OSError as error:
            raise CaptureError(
                RejectReason.UNREADABLE,
                self.offset,
                f"the file cannot be read to its end ({error}); check the disk",
            ) from None
        if changed := self.changed():
            raise changed
        return self._hasher.leaves(self.uri)

    def changed(self) -> CaptureError | None:
        """Returns the error `changed-while-read` if a local file has another stamp than at first, else None."""
        return change(self._stamp, stamp_of(self.uri, self._file), self.offset)

    def close(self) -> None:
        """Closes the file; the memory of the window is released with its last view."""
        self.window = np.empty(0, np.uint8)
        self._buffers = []
        self._resources.close()

    def _over_limit(self) -> CaptureError:
        return CaptureError(
            RejectReason.OVER_LIMIT,
            self._most or 0,
            f"the {self.compression} stream of {self.size:,} bytes must have at most {self._most:,} uncompressed "
            "bytes, got more; raise the limits, or remove the capture; all records before that were read",
        )

    def _damaged(self, reached: int, error: BaseException) -> CaptureError:
        if self.compression == "none":
            return CaptureError(
                RejectReason.UNREADABLE,
                reached,
                f"the file cannot be read from byte {reached:,} on ({error}); all records before that were read",
            )
        return CaptureError(
            RejectReason.DECOMPRESSION,
            reached,
            f"the {self.compression} stream is damaged after {reached} uncompressed bytes ({error}); "
            "all records before that were read",
        )


class _StoredBytes(io.RawIOBase):
    """Bytes of a file as stored, from its place on, which pass by a hasher.

    Args:
      size: number of the bytes; later ones are not read. None for all.

    Attributes:
      count: bytes read so far.
    """

    def __init__(self, file: IO[bytes], size: int | None, hasher: LeafHasher | None):
        super().__init__()
        self._file = file
        self._size = size
        self.count = 0
        self._hasher = hasher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: None if self._size is None else self._size - self.count]
        count = self._file.readinto(wanted)  # type: ignore[attr-defined] # binary files have it, `IO` does not
        self.count += count
        if self._hasher is not None:
            self._hasher.update(wanted[:count])
        return count


def _filler(stored: _StoredBytes, compression: str) -> Callable[[memoryview], int]:
    """Returns a function that fills a buffer with uncompressed bytes and returns their number, 0 at the end."""
    piece = memoryview(b"")

    def fill(buffer: memoryview) -> int:
        nonlocal piece
        piece = piece or memoryview(next(pieces, b""))
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        piece = piece[count:]
        return count

    if compression == "none":
        return stored.readinto
    pieces = uncompressed(stored, compression)
    return fill


def _size(file: IO[bytes], stamp: FileStamp | None) -> int:
    """Returns the bytes of a file as it was stamped, or of a member of the stamped archive."""
    return file.seek(0, os.SEEK_END) if stamp is None or isinstance(file, MemberFile) else stamp.size
