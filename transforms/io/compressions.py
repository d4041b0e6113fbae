"""Compressed streams, recognised by their first bytes and decompressed in small pieces."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator

import pyarrow as pa
import zstandard

PIECE_BYTES = 1 << 16
"""Uncompressed bytes of a piece, for those that let us choose."""
_ZSTD_BYTES = 1 << 11
"""Stored bytes given to the zstd decompressor at a time: they can become 64 MiB, as a block of 128 KiB takes 4."""
_LZ4_BYTES = 1 << 12
"""Bytes asked of the LZ4 decompressor at a time: so many are lost at most before damage."""
_STORED_BYTES = 1 << 20
"""Stored bytes that are read, and digested, at a time."""

COMPRESSIONS = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}
"""Compressions by the first bytes of a file."""
DEFLATE = "zip"
"""The compression of a member of a ZIP file, which no first bytes tell."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""Errors of damaged streams."""


def compression_of(first_bytes: bytes) -> str:
    """Returns the compression of a file from its first six bytes, `none` for others."""
    return next((name for start, name in COMPRESSIONS.items() if first_bytes.startswith(start)), "none")


def uncompressed(stored: io.RawIOBase, compression: str) -> Iterator[bytes]:
    """Yields uncompressed bytes in small pieces, so that all bytes before damage are read.

    Several members or frames in a row are read as one; a stream that ends early raises EOFError.
    """
    file = io.BufferedReader(stored, _STORED_BYTES)
    if compression == "zst":
        yield from _unzstd(file)
        return
    if compression == DEFLATE:
        yield from _inflated(file)
        return
    if compression == "lz4":
        read: Callable[[int], bytes] = pa.CompressedInputStream(pa.PythonFile(file, "r"), "lz4").read
        while piece := read(_LZ4_BYTES):
            yield piece
        return
    if compression == "gz":
        read = gzip.GzipFile(fileobj=file).read1
    elif compression == "xz":
        read = lzma.LZMAFile(file).read1  # noqa: SIM115 - ends with `file`
    else:
        read = bz2.BZ2File(file).read1
    while piece := read(PIECE_BYTES):
        yield piece


def _unzstd(file: io.BufferedIOBase) -> Iterator[bytes]:
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


def _inflated(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yields the content of a raw deflate stream (RFC 1951)."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    while not stream.eof:
        stored = stream.unconsumed_tail or file.read(_ZSTD_BYTES)
        if not stored:
            raise EOFError("the stream is cut off")
        if piece := stream.decompress(stored, PIECE_BYTES):
            yield piece
