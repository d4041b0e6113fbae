"""Capture files: matched by path or glob, identified by content, opened on any filesystem as they are stored."""

import contextlib
import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_digest import LeafHasher, join_leaves
from flowloom.transforms.io.archives import MemberFile, is_archive, member_names, open_member, split_member
from flowloom.transforms.io.compressions import DAMAGED, uncompressed
from flowloom.transforms.io.filesystems import find, is_url, open_url
from flowloom.transforms.io.streams import Stream, is_stream, open_stream

CAPTURE_MAGIC = (
    b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x34\xcd\xb2\xa1",
    b"\xa1\xb2\xcd\x34", b"\x0a\x0d\x0d\x0a", b"snoo",
)  # fmt: skip
"""First four bytes of captures: pcap of microseconds, nanoseconds and modified, pcapng, snoop."""
_NAMED = re.compile(r"\.(pcap|pcapng|cap|snoop)(\d+|\.|_|-|$)", re.IGNORECASE)

READ_BYTES = 1 << 22
"""Bytes read from a file, or added to the window of a streamed capture, at a time."""
FINGERPRINT_BYTES = 2 << 20
"""Bytes of a file that its fingerprint covers, half at each end; all bytes of a smaller file."""

_STREAM_HEAD_BYTES = 40
_DIGEST_BYTES = 1 << 20  # fits a cache; smaller reads would wait for the interpreter lock more often


class FileStamp(NamedTuple):
    """Metadata of a local file that changes with its bytes."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Returns the stamp of a file from its status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class CaptureError(Exception):
    """Error that stops reading a capture: a reject reason, the offset in uncompressed bytes, and a sentence."""

    def __init__(self, reason: RejectReason, offset: int, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


def match_captures(pattern: str) -> list[str]:
    """Returns the files that a path or glob matches, sorted; `**` crosses folders.

    An archive stands for its captures (`archive_captures`), and can be a folder of the pattern: `days.zip/*.pcap`.
    URLs (`s3://`, `gs://`, `https://`, ...) are matched by `transforms/io/filesystems.py`.
    """
    if is_url(pattern):
        return find(pattern)
    if os.path.isfile(pattern):
        return archive_captures(pattern) or [pattern]
    if (split := split_member(pattern)) and split[1] in _names(split[0]):
        return [pattern]
    files = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    found = {uri for path in files for uri in archive_captures(path) or [path]}
    return sorted(found.union(_matched_members(pattern)))


def archive_captures(path: str) -> list[str]:
    """Returns the captures in a ZIP or tar by name or content, sorted; none for other files."""
    if not is_archive(path):
        return []
    return [uri for name in _names(path) if is_named_capture(uri := f"{path}/{name}") or _begins_as_capture(uri)]


def is_named_capture(path: str) -> bool:
    """Returns whether a file has the name of a capture: `.pcap`, `.pcapng` or `.cap`, also compressed or numbered."""
    return _NAMED.search(os.path.basename(path)) is not None


def _names(path: str) -> list[str]:
    """Returns the names of an archive's members, none if it is damaged: opening it then says so."""
    try:
        return member_names(path) if is_archive(path) else []
    except OSError:
        return []


def _matched_members(pattern: str) -> list[str]:
    """Returns the members of archives that a pattern goes into."""
    parts = pattern.split("/")
    found = []
    for cut in range(1, len(parts)):
        for archive in glob.glob("/".join(parts[:cut]), recursive=True) if parts[cut - 1] else []:
            if os.path.isfile(archive):
                rest = "/".join(parts[cut:])
                found += [f"{archive}/{name}" for name in _names(archive) if glob_names(rest, name)]
    return found


def _begins_as_capture(uri: str) -> bool:
    """Returns whether a member begins as a capture that is not compressed in itself."""
    try:
        with open_stored(uri) as file:
            if isinstance(file, MemberFile) and file.compression:
                return next(uncompressed(file, file.compression), b"")[:4] in CAPTURE_MAGIC
            return file.read(4) in CAPTURE_MAGIC
    except (CaptureError, *DAMAGED):
        return False


def glob_names(pattern: str, path: str) -> bool:
    """Returns whether a glob matches a path as `glob.glob` does, even if the file does not exist."""
    return _names_parts(pattern.split("/"), path.split("/"))


def _names_parts(wanted: Sequence[str], names: Sequence[str]) -> bool:
    if not wanted or not names:
        return not wanted and not names
    first, rest = wanted[0], wanted[1:]
    if first == "**":
        crossed = range(len(names) + 1 if not rest else len(names))
        return any(
            _names_parts(rest, names[at:]) for at in crossed if not any(name.startswith(".") for name in names[:at])
        )
    hidden = names[0].startswith(".") and not first.startswith(".")
    return not hidden and fnmatch.fnmatchcase(names[0], first) and _names_parts(rest, names[1:])


def name_fault(uri: str) -> str | None:
    """Returns a sentence if the name of a file is not UTF-8; None for other names."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        return "the name of the file is not UTF-8; rename the file"
    return None


def capture_digest(uri: str, stamp: FileStamp | None = None) -> str:
    """Returns the hexadecimal digest of a capture's stored bytes (`capture_digest.py`).

    Args:
      stamp: the stamp that a local file must have before and after; None for that of its opening.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read; `changed-while-read`.
    """
    hasher, size = LeafHasher(), 0
    for piece in _stored_pieces(uri, stamp):
        hasher.update(piece)
        size += len(piece)
    return join_leaves([hasher.leaves(uri)], {uri: size})[uri]


def capture_sha256(uri: str, stamp: FileStamp | None = None) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes as they are stored.

    Args:
      stamp: the stamp that a local file must have before and after; None for that of its opening.

    Raises:
      CaptureError: `unreadable`, if the file cannot be read; `changed-while-read`.
    """
    digest = hashlib.sha256()
    for piece in _stored_pieces(uri, stamp):
        digest.update(piece)
    return digest.hexdigest()


def _stored_pieces(uri: str, stamp: FileStamp | None) -> Iterator[memoryview]:
    """Yields the bytes of a file as it is stored; a piece is valid until the next."""
    with open_stored(uri) as file:
        before, buffer = stamp or stamp_of(uri, file), memoryview(bytearray(_DIGEST_BYTES))
        try:
            while count := file.readinto(buffer):  # type: ignore[attr-defined]
                yield buffer[:count]
        except OSError as error:
            raise CaptureError(
                RejectReason.UNREADABLE, 0, f"cannot read the file: {error}; check the disk, or copy the file again"
            ) from None
        if changed := change(before, stamp_of(uri, file), 0):
            raise changed


def stamp_of(uri: str, file: IO[bytes]) -> FileStamp | None:
    """Returns the stamp of an open file, None for a URL."""
    return None if is_url(uri) or isinstance(file, Stream) else FileStamp.of(os.fstat(file.fileno()))


def change(before: FileStamp | None, after: FileStamp | None, offset: int) -> CaptureError | None:
    """Returns the error `changed-while-read` of a file that has another stamp than before, None for others.

    Args:
      offset: the place of the capture up to which it was read.
    """
    if before is None or after is None or before == after:
        return None
    how = f"from {before.size:,} to {after.size:,} bytes" if before.size != after.size else "its content"
    return CaptureError(
        RejectReason.CHANGED,
        offset,
        f"the file must not change while it is read, but it changed {how}; read it again when it is complete",
    )


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


def stream_fingerprint(stream: Stream) -> str:
    """Returns the fingerprint of a stream: the hexadecimal SHA-256 of its first 40 bytes.

    These are a pcap header and the time and lengths of the first record; more could let a live capture wait.

    Raises:
      OSError: if the stream cannot be read.
    """
    return hashlib.sha256(stream.head(_STREAM_HEAD_BYTES)).hexdigest()


@contextlib.contextmanager
def open_stored(uri: str) -> Iterator[IO[bytes]]:
    """Opens a file of any filesystem as it is stored; its name does not matter.

    Raises:
      CaptureError: `unreadable`, if it cannot be opened.
    """
    try:
        if is_url(uri):
            file = open_url(uri, READ_BYTES)
        elif is_stream(uri):
            file = cast("IO[bytes]", open_stream(uri))
        elif split := split_member(uri):
            file = cast("IO[bytes]", open_member(*split))
        else:
            file = Path(uri).open("rb")  # noqa: SIM115 - closed below
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
    if not isinstance(file, Stream):
        file.seek(0)
    return contextlib.nullcontext(file)
