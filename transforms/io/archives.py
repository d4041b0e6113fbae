"""Archives: members of ZIP and tar files are files of their own, read where they lie.

A member is named as if the archive were a folder: `captures.zip/monday/web.pcap`. A tar that is compressed is no
archive here: a member could only be reached through all members before it.
"""

import functools
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from flowloom.transforms.io.compressions import DEFLATE

_TAR_MAGIC_AT = 257
_METHODS = {zipfile.ZIP_STORED: None, zipfile.ZIP_DEFLATED: DEFLATE}
_ENCRYPTED = 0x1


class Member(NamedTuple):
    """One file of an archive.

    Attributes:
      start, size: place of its stored bytes in the archive, and their number.
      compression: how the archive stores it; None as it is.
      fault: why it cannot be read, as a sentence; empty for the others.
    """

    start: int
    size: int
    compression: str | None
    fault: str = ""


class MemberFile(io.RawIOBase):
    """Stored bytes of one member, as a file that can be read and sought in.

    Attributes:
      compression: that of `Member`.
    """

    def __init__(self, archive: IO[bytes], member: Member):
        super().__init__()
        self.compression = member.compression
        self._archive = archive
        self._start, self._size = member.start, member.size
        self._at = 0

    def readable(self) -> bool:  # noqa: D102 - those of `io.RawIOBase`, here and below
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def fileno(self) -> int:  # noqa: D102
        return self._archive.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(begin + offset, 0)
        return self._at

    def tell(self) -> int:  # noqa: D102
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        wanted = memoryview(buffer)[: max(self._size - self._at, 0)]
        self._archive.seek(self._start + self._at)
        count = self._archive.readinto(wanted)  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:  # noqa: D102
        if not self.closed:
            self._archive.close()
        super().close()


def is_archive(path: str) -> bool:
    """Returns whether a local file is a ZIP or a tar, by its content."""
    try:
        with open(path, "rb") as file:
            head = file.read(_TAR_MAGIC_AT + 5)
    except OSError:
        return False
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or is_tar(head)


def is_tar(head: bytes) -> bool:
    """Returns whether bytes are the beginning of a tar (POSIX.1-1988 and GNU)."""
    return head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar"


def member_names(path: str) -> list[str]:
    """Returns the names of an archive's members, sorted.

    Raises:
      OSError: if the archive cannot be read or is damaged.
    """
    return sorted(_members_of(path))


def split_member(uri: str) -> tuple[str, str] | None:
    """Returns the archive and the name within it of a path that leads into a file; None for other paths."""
    archive, name = uri, ""
    while archive and not os.path.lexists(archive):
        archive, _, last = archive.rpartition("/")
        name = f"{last}/{name}" if name else last
    return (archive, name) if name and os.path.isfile(archive) else None


def open_member(archive: str, name: str) -> MemberFile:
    """Opens a member of an archive.

    Raises:
      OSError: if there is none of this name, or it cannot be read.
    """
    member = _members_of(archive).get(name)
    if member is None:
        raise FileNotFoundError(f"the archive has no member {name}")
    if member.fault:
        raise OSError(member.fault)
    return MemberFile(open(archive, "rb"), member)


def _members_of(path: str) -> dict[str, Member]:
    status = os.stat(path)
    return _members(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _members(path: str, size: int, mtime_ns: int) -> dict[str, Member]:
    """Returns the members of an archive by name; the stamp is there for the cache alone."""
    found: dict[str, Member] = {}
    with open(path, "rb") as file:
        listed = _tar_members(file) if is_tar(file.read(_TAR_MAGIC_AT + 5)) else _zip_members(file)
        for told, member in listed:
            # a name can never lead out of the archive
            name = "/".join(part for part in told.split("/") if part not in ("", ".", "..")) or "_"
            again = 1
            while name in found:
                again += 1
                name = f"{name}~{again}"
            found[name] = member
    return found


def _zip_members(file: IO[bytes]) -> Iterator[tuple[str, Member]]:
    try:
        with zipfile.ZipFile(file) as archive:
            for each in archive.infolist():
                if not each.is_dir():
                    yield each.filename, _zip_member(file, each)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise OSError(f"the ZIP file is damaged ({error}); copy it again") from None


def _zip_member(file: IO[bytes], each: zipfile.ZipInfo) -> Member:
    """Returns where the bytes of a member lie, behind a header of their own whose length may differ."""
    if each.flag_bits & _ENCRYPTED:
        return Member(0, 0, None, "the member of the ZIP file is encrypted; unpack it with its password")
    if each.compress_type not in _METHODS:
        method = zipfile.compressor_names.get(each.compress_type, str(each.compress_type))  # type: ignore[attr-defined]
        return Member(0, 0, None, f"the member of the ZIP file must be stored or deflated, got {method}; unpack it")
    file.seek(each.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        return Member(0, 0, None, "the member of the ZIP file has no header; copy the file again")
    behind = 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return Member(each.header_offset + behind, each.compress_size, _METHODS[each.compress_type])


def _tar_members(file: IO[bytes]) -> Iterator[tuple[str, Member]]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for each in archive:
                if each.isreg() and not each.issparse():
                    yield each.name, Member(each.offset_data, each.size, None)
    except (tarfile.TarError, ValueError) as error:
        raise OSError(f"the tar is damaged ({error}); copy it again") from None
