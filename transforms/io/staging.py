"""Staging: datasets are built in a hidden folder beside their place, so that unfinished ones are never mistaken."""

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator

from flowloom.schemas.abandoned import made_folder, owned_folder, remove_abandoned
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_output

_BUILDING = ".building"


@contextlib.contextmanager
def staged_folder(out: str) -> Iterator[str]:
    """Yields a new hidden folder that becomes `out` when the block succeeds, and is removed when it fails.

    Folders that dead processes left for the same `out` are removed first.

    Raises:
      FlowloomError: if `out` exists, another process makes it, or its folder cannot be written to.
    """
    out = os.path.abspath(out)
    parent, name = os.path.split(out)
    remove_abandoned(parent, f".{name}{_BUILDING}-")
    if os.path.lexists(out):
        raise FlowloomError(f"output folder {out} exists already; remove it, or name another one")
    with contextlib.ExitStack() as stack:
        try:
            staging = stack.enter_context(owned_folder(os.path.join(parent, f".{name}{_BUILDING}")))
        except OSError as error:
            raise FlowloomError(f"output folder {out} cannot be made: {error.strerror}; name another one") from None
        stack.enter_context(locked_output(out))
        yield staging
        try:
            os.rename(staging, out)
        except OSError as error:
            raise FlowloomError(
                f"output folder {out} appeared while it was built ({error.strerror}); remove it and build again"
            ) from None


_HELD: weakref.WeakKeyDictionary[object, list[tuple[int, str]]] = weakref.WeakKeyDictionary()
"""Locks and paths of held folders, by their holders."""


def held_folder(out: str, holder: object) -> str:
    """Returns a new hidden folder beside `out` for a job that outlives this call.

    It is locked until its holder lets it go or this process ends. Folders that dead processes left for the same `out`
    are removed first.

    Args:
      holder: the pipeline that writes to it.

    Raises:
      FlowloomError: if `out` exists, or its folder cannot be written to.
    """
    parent, name = os.path.split(os.path.abspath(out))
    remove_abandoned(parent, f".{name}{_BUILDING}-")
    if os.path.lexists(out):
        raise FlowloomError(f"output folder {out} exists already; remove it, or name another one")
    try:
        descriptor, folder = made_folder(os.path.join(parent, f".{name}{_BUILDING}"))
    except OSError as error:
        raise FlowloomError(f"output folder {out} cannot be made: {error.strerror}; name another one") from None
    _HELD.setdefault(holder, []).append((descriptor, folder))
    return folder


def let_go(holder: object) -> None:
    """Removes the folders of unfinished datasets that a pipeline holds, and lets go of all."""
    for descriptor, folder in _HELD.pop(holder, []):
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder(parent: str | None, name: str = _BUILDING) -> Iterator[str]:
    """Yields a new folder for temporary files that is removed when the block ends.

    Folders that dead processes left there are removed first.

    Args:
      parent: the folder that it is made in; None: that of temporary files of this machine.
      name: beginning of its name.

    Raises:
      FlowloomError: if it cannot be made.
    """
    place = parent or tempfile.gettempdir()
    remove_abandoned(place, f"{name}-")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(os.path.join(place, name)))
        except OSError as error:
            raise FlowloomError(
                f"the job's folder cannot be made below {place}: {error.strerror}; name another"
            ) from None
        os.chmod(folder, 0o700)
        yield folder


def empty_folder(folder: str) -> None:
    """Removes everything in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
