"""Reader of dataset directories: card, tasks, and the row groups of each split."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Self

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.dataset.dataset_card import DatasetCard, read_card
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.parquet_files import read_footer
from flowloom.trainers.feed.row_spec import require_view


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A Parquet row group, the smallest piece that the feed reads."""

    path: str
    index: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A complete dataset directory; open one with `Dataset.open`."""

    root: Path
    card: DatasetCard

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Returns the dataset of a directory, after a check that all shards exist.

        Raises:
          FlowloomError: if the card is missing, of another format version or damaged, or if a shard is missing.
        """
        root = Path(path)
        card = read_card(root)
        for shard in card.shards:
            if not (root / shard.path).is_file():
                raise FlowloomError(
                    f"dataset {root} lacks the shard {shard.path} of its card; copy it back or build again"
                )
        return cls(root, card)

    def restricted(self, tasks: Collection[str]) -> Self:
        """Returns the dataset with the named tasks alone, without the stripes of the others."""
        kept = tuple(task for task in self.card.tasks if task.name in tasks)
        shards = tuple(shard for shard in self.card.shards if shard.task is None or shard.task in tasks)
        return dataclasses.replace(self, card=self.card.model_copy(update={"tasks": kept, "shards": shards}))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the card's order."""
        return self.card.tasks

    def row_groups(self, split: str, task: str | None = None, view: View = "flows") -> list[RowGroup]:
        """Returns the row groups of a split in the card's order, optionally those with labels of one task.

        Under Aurora ("fused") every shard has labels of every task; under Rainbow ("striped") a shard has labels of
        one task.

        Raises:
          FlowloomError: if the dataset lacks the view or the split, or a shard differs from its entry in the card; the
            digest of a shard is checked once in the life of the process.
        """
        require_view(self.card, view)
        if split not in self.card.splits:
            raise FlowloomError(
                f"dataset {self.root} has no split {split!r}; it has {', '.join(self.card.splits)}"
                f"{did_you_mean(split, self.card.splits)}"
            )
        groups = []
        for shard in self.card.shards:
            if shard.split == split and shard.view == view and (task is None or shard.task in (None, task)):
                path = str(self._checked(shard))
                groups += [RowGroup(path, index, rows) for index, rows in enumerate(shard.row_groups)]
        return groups

    def _checked(self, shard: Shard) -> Path:
        """Returns the file of a shard, after a check of its digest and of its row groups."""
        path = shard_file(self.root, shard)
        _, rows = read_footer(path)
        if rows != shard.row_groups:
            raise FlowloomError(
                f"shard {path} must have row groups of {list(shard.row_groups)} rows, as its card "
                f"states, got {list(rows)}; copy it back or build again"
            )
        return path
