"""Captures as bytes: found by path or glob, told by content, mapped or decompressed in bounded windows."""

import bz2
import contextlib
import glob
import gzip
import hashlib
import lzma
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.io.filesystems import find, is_url, open_url

READ_BYTES = 1 << 22
"""Bytes added to the window of a streamed capture at a time."""
FINGERPRINT_BYTES = 2 << 20
"""Bytes of a file, at both ends, that its fingerprint sees: all of a file that is no larger."""

_PIECE_BYTES = 1 << 16
_DIGEST_BYTES = 64 << 20  # mapped at a time: a read for every cacheful would wait for the interpreter each time

_COMPRESSIONS = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class CaptureError(Exception):
    """Reading a capture has to stop: a reject reason, the byte offset in the uncompressed capture, and a sentence."""

    def __init__(self, reason: RejectReason, offset: int, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


def match_captures(pattern: str) -> list[str]:
    """Return the files that a path or glob matches, sorted; `**` crosses folders.

    Anything with a scheme (`s3://`, `gs://`, `https://`, ...) is looked for as `storage` does.
    """
    if not is_url(pattern):
        if os.path.isfile(pattern):
            return [pattern]
        return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    return find(pattern)


def capture_sha256(uri: str, file: IO[bytes] | None = None) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes as they are stored: the capture's identity.

    Args:
      file: what `open_stored` gave, if the file is open already.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read.
    """
    digest = hashlib.sha256()
    with _opened(uri, file) as file:
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
    """Return a file's size and a hexadecimal SHA-256 over size, first and last MiB: its name by content, almost free.

    Reading all of a large capture only to name it would cost more than metering it.

    Args:
      file: what `open_stored` gave, if the file is open already.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read.
    """
    with _opened(uri, file) as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for start in (0, max(size - FINGERPRINT_BYTES // 2, 0)):
            file.seek(start)
            digest.update(file.read(FINGERPRINT_BYTES // 2))
    return size, digest.hexdigest()


class CaptureBytes:
    """The uncompressed bytes of one capture as a window that moves forward.

    Local uncompressed files are mapped and pages behind the window are given back; all others are streamed, so memory
    is bounded by the window either way.

    Args:
      uri: path or URL.
      start: the byte to begin at; a compressed capture is read from its start.
      file: what `open_stored` gave, if the file is open already; it stays open.

    Attributes:
      size: bytes of the file as stored.
      compression: `none`, `gz`, `zst`, `xz` or `bz2`, told by content.
      window: uint8 view of the bytes at hand, beginning at `offset`. Valid until the next `advance`.
      offset: position of `window[0]` in the uncompressed capture.
      complete: whether the window reaches the end of the capture.
      damage: why the compressed stream ended early, or None.
    """

    def __init__(self, uri: str, start: int = 0, file: IO[bytes] | None = None):
        self.uri = uri
        self.offset = start
        self.damage: CaptureError | None = None
        self._resources = contextlib.ExitStack()
        try:
            self._begin(self._resources.enter_context(_opened(uri, file)))
        except BaseException:
            self.close()
            raise

    def _begin(self, file: IO[bytes]) -> None:
        magic = file.read(6)
        self.compression = next((name for start, name in _COMPRESSIONS.items() if magic.startswith(start)), "none")
        file.seek(0, os.SEEK_END)
        self.size = file.tell()
        if self.size == 0:
            raise CaptureError(RejectReason.EMPTY, 0, "the file has no bytes; record it again or take it out")
        if self.compression != "none" and self.offset:
            raise ValueError(f"a compressed capture is read from its start, got {self.uri} from byte {self.offset}")
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
        """Move the window forward by `consumed` bytes; a streamed window is refilled when it runs short."""
        self.window = self.window[consumed:]
        self.offset += consumed
        if self._mapping is not None:
            # pages of the stretch just passed stay: its records are still to be decoded
            behind = (self.offset - consumed) & -mmap.ALLOCATIONGRANULARITY
            if behind - self._released >= READ_BYTES:
                self._mapping.madvise(mmap.MADV_DONTNEED, self._released, behind - self._released)
                self._released = behind
        elif not self.complete and len(self.window) < READ_BYTES // 2:
            self.grow()

    def grow(self) -> None:
        """Add up to `READ_BYTES` to a streamed window; at the end, or at damage, the window becomes `complete`."""
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
        """Let go of the file; views of the window that are still alive keep its memory, not the file."""
        self.window = np.empty(0, np.uint8)
        self._resources.close()


@contextlib.contextmanager
def open_stored(uri: str) -> Iterator[IO[bytes]]:
    """Open a file of any filesystem as stored, without looking at its name.

    Raises:
      CaptureError: `unreadable`, if it cannot be opened.
    """
    try:
        file = open_url(uri, READ_BYTES) if is_url(uri) else Path(uri).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptureError(
            RejectReason.UNREADABLE, 0, f"cannot open the file: {reason}; check path and rights"
        ) from None
    with file:
        yield file


def _opened(uri: str, file: IO[bytes] | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Return a file from its beginning: the one that is open already, which stays so, or a new one."""
    if file is None:
        return open_stored(uri)
    file.seek(0)
    return contextlib.nullcontext(file)


def _uncompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """Yield a file's uncompressed bytes in small pieces, so that damage costs nothing that came before it.

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
    """Yield the content of zstd frames; `stream_reader` would take a cut frame for a whole one."""
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
