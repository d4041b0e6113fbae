"""Paths inside a dataset directory: the one definition for cards, readers, writers and stores."""

import os
import re
from pathlib import Path

from flowloom.schemas.errors import FlowloomError

_SHARD = re.compile(r"(flows|packets|tables)/(task=[^/]+/)?split=[^/]+/part-\d+-of-\d+\.parquet")


def dataset_path(path: str) -> str:
    """Returns a path inside a dataset directory if it is relative, with plain names between single slashes.

    Raises:
      FlowloomError: if it is empty or absolute, or has an empty part, `.`, `..`, a backslash or a control character.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or re.search(r"[\\\x00-\x1f\x7f]|^[A-Za-z]:", path):
        raise FlowloomError(
            f"path in a dataset must be relative, without '..', empty parts, backslashes and control characters, got "
            f"{path!r}; do not trust this dataset"
        )
    return path


def shard_file_path(path: str) -> str:
    """Returns the path of a shard inside a dataset directory if it has the form that `shard_path` gives.

    Raises:
      FlowloomError: if it has another form.
    """
    if not _SHARD.fullmatch(dataset_path(path)):
        raise FlowloomError(
            f"path of a shard must be VIEW/[task=TASK/]split=SPLIT/part-NUMBER-of-SHARDS.parquet, got "
            f"{path!r}; build the dataset again"
        )
    return path


def path_within(root: str | os.PathLike[str], path: str) -> Path:
    """Returns the file of a path inside a dataset directory, which no symbolic link leads out of.

    Raises:
      FlowloomError: if the path is none of a dataset, or a symbolic link leads to another directory.
    """
    target = Path(root) / dataset_path(path)
    top = os.path.realpath(root)
    if os.path.commonpath([top, os.path.realpath(target)]) != top:
        raise FlowloomError(
            f"{target} must be inside {os.fspath(root)}, got a symbolic link that leads to another directory; replace "
            "the link by the file"
        )
    return target
