"""Lock of a state: one run at a time, and no lock of a dead process."""

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
    """Holds a folder's lock while the block runs; the kernel releases it with the process.

    Raises:
      FlowloomError: if another process holds it; names the process, its host and the time.
    """
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlowloomError(
                f"{os.fspath(folder)}: the state is in use by {_holder(file.read())}; wait for it, or end that process"
            ) from None
        file.truncate(0)
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):  # the holder has not written its name yet
        return "another process"
