"""Storage: files by URL, on object stores by Arrow and on anything else by fsspec.

Credentials come from the environment alone (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
`GOOGLE_APPLICATION_CREDENTIALS`, ...), so that no URL in a manifest, card or log carries a secret
(`schemas/secrets.py`).
"""

import functools
import io
import re
import shutil
from typing import IO, cast

import pyarrow as pa
from pyarrow import fs

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.secrets import url_fault

COPY_BYTES = 8 << 20
"""Bytes of a file in memory at a time; object stores take parts of 5 MiB and more."""

_NATIVE = ("abfs", "abfss", "gcs", "gs", "hdfs", "s3", "viewfs")
_WILD = re.compile(r"[*?\[]")


def is_url(path: str) -> bool:
    """Returns whether a path is a URL rather than a file of this machine."""
    return "://" in path


def locate(url: str) -> tuple[fs.FileSystem, str]:
    """Returns the filesystem of a URL and the path on it.

    Raises:
      FlowloomError: if the URL carries credentials, or its scheme is unknown.
    """
    if fault := url_fault(url):
        raise FlowloomError(fault)
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if scheme in _NATIVE:
        return _native(scheme, authority), f"{authority}/{path}" if scheme in ("s3", "gs", "gcs") else path
    return _foreign(scheme, url)


@functools.lru_cache
def _native(scheme: str, authority: str) -> fs.FileSystem:
    try:
        return fs.FileSystem.from_uri(f"{scheme}://{authority}/")[0]
    except (OSError, pa.ArrowException) as error:
        raise FlowloomError(f"the storage of {scheme}://{authority} cannot be used: {error}; check its name") from None


def _foreign(scheme: str, url: str) -> tuple[fs.FileSystem, str]:
    try:
        from fsspec.core import url_to_fs

        found, path = url_to_fs(url)
    except ImportError as error:
        raise FlowloomError(
            f"{scheme}:// needs {error.name or error}; install it with: pip install 'flowloom[storage]' or by its name"
        ) from None
    except ValueError as error:
        raise FlowloomError(
            f"a URL's scheme must be one of {', '.join(_NATIVE)}, or one that fsspec knows, got {scheme}:// ({error})"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def find(pattern: str) -> list[str]:
    """Returns the URLs of the files that a URL or a glob matches, sorted; `**` crosses folders.

    Raises:
      FlowloomError: as `locate`.
      OSError: if the files cannot be listed.
    """
    if fault := url_fault(pattern):
        raise FlowloomError(fault)
    wild = _WILD.search(pattern)
    if wild is None:
        return [pattern] if exists(pattern) else []
    base = pattern[: pattern.rindex("/", 0, wild.start()) + 1]
    filesystem, folder = locate(base)
    folder = folder.rstrip("/")
    wanted = re.compile(_expression(pattern[len(base) :]))
    below = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    names = (file.path[len(folder) :].lstrip("/") for file in below if file.type == fs.FileType.File)
    return sorted(base + name for name in names if wanted.fullmatch(name))


def _expression(glob: str) -> str:
    """Returns a glob as a regular expression over names with slashes."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", glob)
    parts = [part.replace("[!", "[^") if part.startswith("[") else words.get(part, re.escape(part)) for part in parts]
    return "".join(parts)


def exists(url: str) -> bool:
    """Returns whether a file exists; the store is asked by name, as listings may lag."""
    filesystem, path = locate(url)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def open_url(url: str, buffer_bytes: int = COPY_BYTES) -> IO[bytes]:
    """Opens a file for reading; a store is asked for `buffer_bytes` at a time.

    Raises:
      OSError: if it cannot be opened.
    """
    filesystem, path = locate(url)
    return io.BufferedReader(cast(io.RawIOBase, filesystem.open_input_file(path)), buffer_bytes)


def upload(path: str, url: str) -> None:
    """Copies a local file to a URL, and checks that the store has all of it.

    Raises:
      OSError: if it is not.
    """
    filesystem, place = locate(url)
    if not isinstance(filesystem, fs.S3FileSystem | fs.GcsFileSystem):  # which have no folders
        filesystem.create_dir(place.rpartition("/")[0], recursive=True)
    with open(path, "rb") as source, filesystem.open_output_stream(place) as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
        size = source.tell()
    stored = filesystem.get_file_info(place)
    if stored.size != size:
        raise OSError(f"{size} bytes were sent, the store has {stored.size}")


def download(url: str, path: str) -> None:
    """Copies the file of a URL to a local path.

    Raises:
      OSError: if it cannot be read.
    """
    with open_url(url) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
