"""Locks of folders and outputs: one process writes at a time, and a dead process holds no lock."""

import contextlib
import datetime as dt
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from typing import TextIO

from flowloom.schemas.errors import FlowloomError

LOCK = ".lock"
"""Name of the lock file in a folder; the lock of an output OUT is `.OUT.lock` beside it."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a run folder or a state while the block runs; makes a missing folder.

    The kernel releases the lock with the process. The lock file is removed with the lock, and an empty folder that was
    made for it too.

    Raises:
      FlowloomError: if another process holds it (names the process, its host and the time), or it cannot be made.
    """
    existed = os.path.isdir(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise FlowloomError(
            f"{os.fspath(folder)} must be a folder to write to, got {error.strerror}; name another"
        ) from None
    try:
        with _locked(os.path.join(folder, LOCK), os.fspath(folder)):
            yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


@contextlib.contextmanager
def locked_output(out: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a file or folder that appears when it is complete; the lock file lies beside it.

    Args:
      out: a path in a folder that exists.

    Raises:
      FlowloomError: if another process holds it (names the process, its host and the time), or it cannot be made.
    """
    parent, name = os.path.split(os.path.abspath(out))
    with _locked(os.path.join(parent, f".{name}{LOCK}"), os.fspath(out)):
        yield


@contextlib.contextmanager
def _locked(path: str, subject: str) -> Iterator[None]:
    file = _acquired(path, subject)
    try:
        file.truncate(0)
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):  # while the lock is held, so that no later holder loses its file
            os.unlink(path)
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _acquired(path: str, subject: str) -> TextIO:
    """Returns the open lock file, which this process has locked and which still has its name."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise FlowloomError(
                f"{subject} cannot be locked by the file {path}: {error.strerror}; name another place"
            ) from None
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return file
            file.close()  # its last holder removed it between opening and locking
        except BlockingIOError:
            holder = _holder(file.read())
            file.close()
            raise FlowloomError(f"{subject} is in use by {holder}; wait for it, or end that process") from None
        except FileNotFoundError:
            file.close()
        except OSError as error:
            if error.errno in _UNSUPPORTED:  # a filesystem without locks
                return file
            file.close()
            raise


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # the holder has not written its name yet
        return "another process"
