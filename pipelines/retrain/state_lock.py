"""The lock of a state: one run at a time, and none that a dead process could leave behind."""

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Iterator

from flowloom.schemas.errors import FlowloomError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder's lock while the block runs; the kernel lets go of it when the process ends, however it ends.

    Raises:
      FlowloomError: if another process holds it; saying which, where, since when.
    """
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlowloomError(
                f"state {os.fspath(folder)} is in use by {_holder(file.read())}; wait for it, or end that process"
            ) from None
        file.truncate(0)
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        told = json.loads(text)
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError):  # it has begun this very moment
        return "another process"
