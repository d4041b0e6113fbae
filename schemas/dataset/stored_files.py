"""Files of a dataset directory, checked against the digests of its card before they are read."""

import concurrent.futures
import os
from collections.abc import Iterable
from pathlib import Path

from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.file_digests import check_digest

RESTORE = "build the dataset again, or restore the file from a copy"


def shard_file(root: str | os.PathLike[str], shard: Shard) -> Path:
    """Returns the file of a shard, after a check of its digest.

    Raises:
      FlowloomError: if the file is missing or has another digest than the card states.
    """
    path = Path(root) / shard.path
    check_digest(path, shard.sha256, RESTORE)
    return path


def check_shards(root: str | os.PathLike[str], shards: Iterable[Shard], workers: int = 1) -> None:
    """Checks the digests of shards, several at a time.

    Raises:
      FlowloomError: if a file is missing or has another digest than the card states.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda shard: shard_file(root, shard), shards):
            pass


def table_file(root: str | os.PathLike[str], card: DatasetCard, name: str) -> Path:
    """Returns a file beside the shards, such as the captures table, after a check of its digest.

    Raises:
      FlowloomError: if the file is missing or has another digest than the card states.
    """
    path = Path(root) / name
    check_digest(path, card.files.get(name), RESTORE)
    return path
