"""Temporary files and folders of dead processes, found by a lock or by the owner in their name.

The owner of a folder holds its lock (`flock`), which the kernel releases with the process. Where locks do not work, and
for files, the name decides: it has the host, the process and its start. On a filesystem that several hosts share (NFS,
Lustre, ...) a lock may be unknown to other hosts, so there nothing of another host is removed.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator

OLD_S = 24 * 3600
"""Age in seconds from which a folder counts as abandoned whose name has no owner, as 0.1 named them."""

_LOCAL = ("btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
_MARK = re.compile(r"-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}")
_TRIES = 10


def owner_mark() -> str:
    """Returns a new part of a temporary name: host, process, start of the process, random digits."""
    return f"-{_host()}-{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def owned_folder(prefix: str) -> Iterator[str]:
    """Yields a new folder whose path begins with `prefix`, and removes what is left of it at the end.

    Raises:
      OSError: if it cannot be made.
    """
    descriptor, folder = made_folder(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def made_folder(prefix: str) -> tuple[int, str]:
    """Makes and locks a folder whose path begins with `prefix`, and returns the lock's descriptor and the path.

    The lock is held until the descriptor is closed or the process ends.

    Raises:
      OSError: if it cannot be made.
    """
    # another process may take the folder for abandoned before it is locked, and remove it
    for _ in range(_TRIES):
        folder = prefix + owner_mark()
        os.makedirs(folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.isdir(folder):
            return descriptor, folder
        os.close(descriptor)
    raise FileNotFoundError(2, "another process removed the new folder", prefix)


def remove_abandoned(parent: str, prefix: str, part: str = "") -> list[str]:
    """Removes files and folders that have no living owner, and returns their paths.

    Args:
      parent: the folder to look in.
      prefix: beginning of their names.
      part: a further part of their names.
    """
    try:
        names = [name for name in os.listdir(parent or ".") if name.startswith(prefix) and part in name]
    except OSError:
        return []
    removed = []
    for name in names:
        path = os.path.join(parent, name)
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if status.st_uid == os.getuid() and (
                _remove_folder(path, status) if stat.S_ISDIR(status.st_mode) else _remove_file(path, status)
            ):
                removed.append(path)
    return removed


def _remove_file(path: str, status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode) or not _is_dead(path):
        return False
    os.unlink(path)
    return True


def _remove_folder(path: str, status: os.stat_result) -> bool:
    if _MARK.search(os.path.basename(path)) is None and time.time() - status.st_mtime < OLD_S:
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a filesystem without locks
        if not _is_dead(path):
            return False
    else:
        if not _is_local(status.st_dev) and not _is_dead(path):
            return False
    finally:
        os.close(descriptor)
    shutil.rmtree(path, ignore_errors=True)
    return True


def _is_dead(path: str) -> bool:
    """Returns whether a name has a process of this host that has ended; False for other names."""
    found = _MARK.search(os.path.basename(path))
    return found is not None and found[1] == _host() and _started(int(found[2])) != int(found[3])


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _started(process: int) -> int:
    """Returns when a process started, in ticks since the start of the machine; 0 if it does not exist."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        pass
    try:  # a system without /proc
        os.kill(process, 0)
    except ProcessLookupError:
        return 0
    except OSError:
        pass
    return 1


def _is_local(device: int) -> bool:
    """Returns whether a filesystem is one of this machine alone; False if that is unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError, IndexError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as (mounts),
    ):
        for line in mounts:
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == wanted:
                return rest.split()[0] in _LOCAL
    return False
