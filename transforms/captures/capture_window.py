"""Capture windows: uncompressed bytes of a capture, mapped or decompressed in bounded memory."""

import bz2
import contextlib
import gzip
import lzma
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import zstandard

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import READ_BYTES, CaptureError, opened
from flowloom.transforms.io.filesystems import is_url

_PIECE_BYTES = 1 << 16

_COMPRESSIONS = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class CaptureBytes:
    """Uncompressed bytes of one capture as a window that moves forward.

    Local uncompressed files are mapped, and pages behind the window are released; all other files are streamed. The
    window bounds memory either way.

    Args:
      uri: path or URL.
      start: the byte to begin at; a compressed capture is read from its start.
      file: the file from `open_stored`, if it is open already; it stays open.

    Attributes:
      size: bytes of the file as stored.
      compression: `none`, `gz`, `zst`, `xz` or `bz2`, detected from the content.
      window: uint8 view of the available bytes, beginning at `offset`; valid until the next `advance`.
      offset: position of `window[0]` in the uncompressed capture.
      complete: whether the window reaches the end of the capture.
      damage: the error that ended the compressed stream early, or None.
    """

    def __init__(self, uri: str, start: int = 0, file: IO[bytes] | None = None):
        self.uri = uri
        self.offset = start
        self.damage: CaptureError | None = None
        self._resources = contextlib.ExitStack()
        try:
            self._begin(self._resources.enter_context(opened(uri, file)))
        except BaseException:
            self.close()
            raise

    def _begin(self, file: IO[bytes]) -> None:
        magic = file.read(6)
        self.compression = next((name for start, name in _COMPRESSIONS.items() if magic.startswith(start)), "none")
        file.seek(0, os.SEEK_END)
        self.size = file.tell()
        if self.size == 0:
            raise CaptureError(RejectReason.EMPTY, 0, "the file has no bytes; record it again or remove it")
        if self.compression != "none" and self.offset:
            raise ValueError(
                f"start must be 0 for a compressed capture, got {self.offset} for {self.uri}; read it from its start"
            )
        self._mapping: mmap.mmap | None = None
        self._released = self.offset & -mmap.ALLOCATIONGRANULARITY
        if self.compression == "none" and not is_url(self.uri):
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._mapping.madvise(mmap.MADV_SEQUENTIAL)
            self.window = np.frombuffer(self._mapping, np.uint8)[self.offset :]
            self.complete = True
        else:
            file.seek(self.offset)
            self._pieces = _uncompressed(file, self.compression)
            self.window = np.empty(0, np.uint8)
            self.complete = False
            self.grow()

    def advance(self, consumed: int) -> None:
        """Moves the window forward by `consumed` bytes; a streamed window is refilled when it runs short."""
        self.window = self.window[consumed:]
        self.offset += consumed
        if self._mapping is not None:
            # pages of the last step stay mapped: their records are decoded next
            behind = (self.offset - consumed) & -mmap.ALLOCATIONGRANULARITY
            if behind - self._released >= READ_BYTES:
                self._mapping.madvise(mmap.MADV_DONTNEED, self._released, behind - self._released)
                self._released = behind
        elif not self.complete and len(self.window) < READ_BYTES // 2:
            self.grow()

    def grow(self) -> None:
        """Adds up to `READ_BYTES` to a streamed window, which is `complete` at the end of the stream or at damage."""
        parts = [self.window.tobytes()]
        wanted = READ_BYTES
        try:
            while wanted > 0:
                piece = next(self._pieces, None)
                if piece is None:
                    self.complete = True
                    break
                parts.append(piece)
                wanted -= len(piece)
        except _DAMAGED as error:
            self.complete = True
            reached = self.offset + sum(map(len, parts))
            self.damage = CaptureError(
                RejectReason.DECOMPRESSION,
                reached,
                f"the {self.compression} stream is damaged after {reached} uncompressed bytes ({error}); "
                "all records before that were read",
            )
        self.window = np.frombuffer(b"".join(parts), np.uint8)

    def close(self) -> None:
        """Closes the file; the memory of the window is released with its last view."""
        self.window = np.empty(0, np.uint8)
        self._resources.close()


def _uncompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
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
    elif compression == "bz2":
        read = bz2.BZ2File(file).read1
    else:
        read = file.read
    while piece := read(_PIECE_BYTES):
        yield piece


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    """Yields the content of zstd frames; unlike `stream_reader` it raises at a frame that is cut off."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    while stored := file.read(_PIECE_BYTES):
        while stored:
            yield frame.decompress(stored)
            begun, stored = not frame.eof, frame.unused_data
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
    if begun:
        raise EOFError("the last frame is cut off")
