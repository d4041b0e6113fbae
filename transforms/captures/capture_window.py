"""Capture windows: uncompressed bytes of a capture, read or decompressed in bounded memory.

Files are never mapped: a mapped file that shrinks ends the process (SIGBUS), and reading is faster.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import zstandard

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

_PIECE_BYTES = 1 << 16
_ZSTD_BYTES = 1 << 11
"""Stored bytes given to the zstd decompressor at a time: they can become 64 MiB, as a block of 128 KiB takes 4."""

_COMPRESSIONS = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
}
_STORED_BYTES = 1 << 20
"""Stored bytes of a compressed capture that are read, and digested, at a time."""
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class CaptureBytes:
    """Uncompressed bytes of one capture as a window that moves forward.

    A window is valid until the second `advance` or `grow` after it: two buffers take turns.

    Args:
      uri: path or URL.
      start: the byte to begin at; a compressed capture is read from its start.
      file: the file from `open_stored`, if it is open already; it stays open.
      stamp: the stamp that a local file must have; None for any.
      hasher: digests the stored bytes as they are read; None for no digest.
      limits: how many bytes a compressed capture may become.

    Attributes:
      size: bytes of the file as stored; bytes that are added to it later are not read.
      compression: `none`, `gz`, `zst`, `xz` or `bz2`, detected from the content.
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
        magic = file.read(6)
        self.compression = next((name for start, name in _COMPRESSIONS.items() if magic.startswith(start)), "none")
        self.size = file.seek(0, os.SEEK_END) if self._stamp is None else self._stamp.size
        if self.size == 0:
            raise CaptureError(RejectReason.EMPTY, 0, "the file has no bytes; record it again or remove it")
        if self.compression != "none" and self.offset:
            raise ValueError(
                f"start must be 0 for a compressed capture, got {self.offset} for {self.uri}; read it from its start"
            )
        file.seek(self.offset)
        self._stored = _StoredBytes(file, self.size - self.offset, self._hasher)
        self._fill = _filler(self._stored, self.compression)
        self._buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self._most = None if self.compression == "none" else self._limits.most(self.size)
        self._step = min(_PIECE_BYTES, READ_BYTES)
        self.window = self._buffers[0]
        self.complete = False
        self.grow()

    def advance(self, consumed: int) -> None:
        """Moves the window forward by `consumed` bytes, and refills it when it runs short."""
        self.window = self.window[consumed:]
        self.offset += consumed
        if not self.complete and len(self.window) < READ_BYTES // 2:
            self.grow()

    def grow(self) -> None:
        """Adds up to `READ_BYTES` to the window, or as much as it has if that is more.

        So few calls reach any size. The window is `complete` at the end of the capture or at damage.
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
        except _DAMAGED as error:
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
        rest = bytearray(_STORED_BYTES)
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
      size: number of the bytes; later ones are not read.
    """

    def __init__(self, file: IO[bytes], size: int, hasher: LeafHasher | None):
        super().__init__()
        self._file = file
        self._left = size
        self._hasher = hasher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: self._left]
        count = self._file.readinto(wanted)  # type: ignore[attr-defined] # binary files have it, `IO` does not
        self._left -= count
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
    pieces = _uncompressed(io.BufferedReader(stored, _STORED_BYTES), compression)
    return fill


def _uncompressed(file: io.BufferedReader, compression: str) -> Iterator[bytes]:
    """Yields a file's uncompressed bytes in small pieces, so that all bytes before damage are read.

    Several members or frames in a row are read as one; a stream that ends early raises EOFError.
    """
    if compression == "zst":
        yield from _unzstd(file)
        return
    if compression == "gz":
        read: Callable[[int], bytes] = gzip.GzipFile(fileobj=file).read1
    elif compression == "xz":
        read = lzma.LZMAFile(file).read1  # noqa: SIM115 - ends with `file`
    else:
        read = bz2.BZ2File(file).read1
    while piece := read(_PIECE_BYTES):
        yield piece


def _unzstd(file: io.BufferedReader) -> Iterator[bytes]:
    """Yields the content of zstd frames; unlike `stream_reader` it raises at a frame that is cut off."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    while stored := file.read(_ZSTD_BYTES):
        while stored:
            if piece := frame.decompress(stored):
                yield piece
            begun, stored = not frame.eof, frame.unused_data
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
    if begun:
        raise EOFError("the last frame is cut off")
