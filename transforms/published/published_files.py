"""Published files: an author's own processed data, as one file, a folder or a tar archive, plain or compressed."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import GROUP_DIGITS
from flowloom.transforms.arrays.columns import column
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.captures.capture_files import CaptureError, capture_fingerprint
from flowloom.transforms.published.published_rejects import Rejects

DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)
"""Exceptions of reading damaged compressed files and archives."""
_ROW = pa.schema([pa.field("row", pa.int64(), nullable=False)])


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """One file that was opened for reading.

    Attributes:
      uri: its path; inside an archive `path!member`.
      name: its path inside the folder or archive, or its own name.
      group: its group's name: 16 hexadecimal digits of a hash of the stored file and of the name in its archive.
      content: its uncompressed bytes.
    """

    uri: str
    name: str
    group: str
    content: io.BufferedReader

    def read(self, rejects: Rejects) -> bytes | None:
        """Returns the whole content; a file with a damaged stream is a reject, and gives None."""
        try:
            return self.content.read()
        except DAMAGED as error:
            rejects.add(self.uri, [0], RejectReason.DECOMPRESSION, f"the compressed stream is damaged ({error})")
            return None

    def ids(self, rows: np.ndarray) -> pa.Array:
        """Returns the flow id of each row by its int64 position in the file, as binary(16)."""
        positions = pa.RecordBatch.from_arrays([column(rows.astype(np.int64), pa.int64())], schema=_ROW)
        return column(row_digests(positions, f"published {self.group}"), pa.binary(16))


def published_files(path: str, rejects: Rejects) -> Iterator[PublishedFile]:
    """Yields the file at a path, all files below a folder by name, or all members of a tar archive.

    Files that cannot be opened or come twice are rejects, and so is the rest of an archive behind damage. Reading the
    `content` of a file raises one of `DAMAGED` where its own stream is damaged.
    """
    root = Path(path)
    paths = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
    seen: set[str] = set()
    for file in paths:
        try:
            _, fingerprint = capture_fingerprint(str(file))
        except CaptureError as error:
            rejects.add(str(file), [error.offset], error.reason, error.detail)
            continue
        if fingerprint in seen:  # its rows would have the same ids
            detail = "has the same bytes as a file before it, which is read once"
            rejects.add(str(file), [0], RejectReason.DUPLICATE, detail)
            continue
        seen.add(fingerprint)
        try:
            with _uncompressed(file) as content:
                if _is_tar(content):
                    yield from _members(file, content, fingerprint)
                else:
                    name = str(file.relative_to(root)) if root.is_dir() else file.name
                    yield PublishedFile(str(file), name, _group(fingerprint), content)
        except DAMAGED as error:
            rejects.add(str(file), [0], RejectReason.DECOMPRESSION, f"the archive is damaged ({error})")


def _members(file: Path, content: io.BufferedReader, fingerprint: str) -> Iterator[PublishedFile]:
    with tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            opened = archive.extractfile(member)
            if opened is not None:
                name = posixpath.normpath(member.name)
                group = _group(f"{fingerprint} {name}")
                yield PublishedFile(f"{file}!{name}", name, group, cast(io.BufferedReader, opened))


def _uncompressed(file: Path) -> io.BufferedReader:
    """Opens a file, and decompresses it if its content is compressed."""
    with file.open("rb") as stored:
        magic = stored.read(6)
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(file)))
    if magic == b"\xfd7zXZ\x00":
        return io.BufferedReader(cast(io.RawIOBase, lzma.LZMAFile(file)))
    return file.open("rb")


def _is_tar(content: io.BufferedReader) -> bool:
    magic = content.read(263)[257:262]
    content.seek(0)
    return magic == b"ustar"


def _group(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:GROUP_DIGITS]
