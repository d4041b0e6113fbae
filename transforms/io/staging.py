"""Staging: datasets are built in a hidden folder beside their place, so that unfinished ones are never mistaken."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_output


@contextlib.contextmanager
def staged_folder(out: str) -> Iterator[str]:
    """Yields a new hidden folder that becomes `out` when the block succeeds, and is removed when it fails.

    Raises:
      FlowloomError: if `out` exists, another process makes it, or its folder cannot be written to.
    """
    out = os.path.abspath(out)
    if os.path.lexists(out):
        raise FlowloomError(f"output folder {out} exists already; remove it, or name another one")
    parent, name = os.path.split(out)
    staging = os.path.join(parent, f".{name}.building-{uuid.uuid4().hex[:8]}")
    try:
        os.makedirs(staging)
    except OSError as error:
        raise FlowloomError(f"output folder {out} cannot be made: {error.strerror}; name another one") from None
    try:
        with locked_output(out):
            yield staging
            try:
                os.rename(staging, out)
            except OSError as error:
                raise FlowloomError(
                    f"output folder {out} appeared while it was built ({error.strerror}); remove it and build again"
                ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(parent: str | None) -> Iterator[str]:
    """Yields a new folder for temporary files, below `parent` if given, that is removed when the block ends.

    Raises:
      FlowloomError: if it cannot be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix=".building-", dir=parent)
    except OSError as error:
        raise FlowloomError(f"the job's folder cannot be made below {parent}: {error.strerror}; name another") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def empty_folder(folder: str) -> None:
    """Removes everything in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
