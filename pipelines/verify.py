"""`flowloom verify`: checks the claims of a dataset's card on its files."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.inspection.verify_files import (
    CheckedShard,
    check_accounting,
    check_files,
    check_leakage,
    check_schema,
    check_shard,
    check_statistics,
)
from flowloom.transforms.inspection.verify_rows import check_rows


@dataclasses.dataclass(frozen=True)
class Verification:
    """Numbers of verified shards, rows and captures, and the content hash."""

    shards: int
    rows: int
    captures: int
    content_hash: str


def verify(dataset: str | os.PathLike[str], progress: Callable[[Progress], None] = ignore_progress) -> Verification:
    """Checks a dataset's files against its card, one shard at a time.

    Label coverage is checked for sense only: which source said what is not in the dataset.

    Args:
      progress: called before each shard.

    Raises:
      FlowloomError: naming the first thing that is not as the card says.
    """
    root = Path(dataset)
    card = read_card(root)
    check_files(root, card)
    check_schema(root, card)
    check_accounting(root, card)
    check_statistics(root, card)
    shards: list[CheckedShard] = []
    for shard in card.shards:
        progress(Progress(shard.path, len(shards), len(card.shards)))
        shards.append(check_shard(root, shard, card))
    check_rows(shards, card)
    check_leakage(root, card)
    rows = sum(shard.rows for shard in card.shards)
    return Verification(len(shards), rows, card.accounting.captures, card.content_hash)
