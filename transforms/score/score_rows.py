"""Scoring in a pipeline: batches of rows to sorted shards of scores, and one account of what became of every row."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import IDENTITY, View
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import ScoreReject, ScoreShard, class_column, probability_column, score_path
from flowloom.transforms.arrays.columns import view, view_or
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.shards import row_order, write_rows
from flowloom.transforms.io.staging import file_sha256

ROW_GROUP_ROWS = 65_536
HELD_BYTES = 16 << 20
"""Scores that a worker holds back before it spills them: 80,000 rows of three tasks."""


class Scored(Protocol):
    """What a scorer says of a batch: see `trainers.scorer.ScoredRows`."""

    scores: pa.RecordBatch
    rejected: dict[str, int]
    profile: FeatureProfile | None


class RowScorer(Protocol):
    """What scores batches; one is loaded in each process, and its threads share it."""

    def score(self, rows: pa.RecordBatch) -> Scored:
        """Return the scores of some rows."""


@dataclasses.dataclass
class ScoreCounts:
    """What became of some rows: how many came, how many were rejected by reason, and what the others are like.

    Attributes:
      counts: of `Profile.counts`, whose rows are `profiled`.
    """

    rows: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    profiled: int = 0
    counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        return ScoreCounts(
            self.rows + other.rows,
            sum_by_key([self.rejected, other.rejected]),
            self.profiled + other.profiled,
            sum_by_key([self.counts, other.counts]),
        )


@dataclasses.dataclass(frozen=True)
class WrittenScores:
    """A shard of scores, the rows left out of it because they came again, and rows of each class by task."""

    shard: ScoreShard
    repeated: int
    classes: dict[str, np.ndarray]


def score_rows(scorer: RowScorer, rows: pa.RecordBatch, addresses: bool = True) -> tuple[pa.RecordBatch, ScoreCounts]:
    """Return the scores of rows, and what became of these.

    Args:
      addresses: whether the scored rows may have addresses.
    """
    if not addresses:
        rows = rows.drop_columns([name for name in IDENTITY if name in rows.schema.names])
    scored = scorer.score(rows)
    counts = ScoreCounts(rows.num_rows, dict(scored.rejected))
    if scored.profile is not None:
        counts.profiled = scored.profile.rows
        counts.counts = {name: np.array(bins) for name, bins in scored.profile.counts.items()}
    return scored.scores, counts


def score_order(batches: Sequence[pa.RecordBatch], tasks: Iterable[str], view_name: View) -> tuple[np.ndarray, int]:
    """Return the positions of rows, through all batches, in the order of their view without those that come again.

    Of the rows with one id that one stays whose scores come first; so it does not matter in which order they came.

    Returns:
      the positions, and how many others there are.
    """
    rows = sum(batch.num_rows for batch in batches)
    order = row_order(batches, np.zeros((rows, 2), np.uint64), view_name)
    ids = np.concatenate([view(batch["flow_id"]) for batch in batches])
    keys = [ids[:, 0], ids[:, 1]]
    if view_name == "packets":
        keys.append(np.concatenate([view_or(batch["record"], 0) for batch in batches]))
    again = np.zeros(rows, bool)
    again[1:] = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
    if again.any():
        said = [
            np.concatenate([batch[probability_column(task)].flatten().to_numpy() for batch in batches])
            for task in tasks
        ]
        columns = [column for outputs in said for column in outputs.reshape(rows, -1).T]
        behind = np.lexsort([column[order] for column in columns])
        # a stable sort by what `again` tells apart puts equal ids side by side once more, the first scores first
        block = np.cumsum(~again)[behind]
        order = order[behind[np.argsort(block, kind="stable")]]
    return order[~again], int(again.sum())


def write_scores(
    shard: int, shards: int, batches: Sequence[pa.RecordBatch], folder: str, tasks: dict[str, int], view_name: View
) -> WrittenScores:
    """Write the scores of one shard, in any order, and return what is counted of them.

    Args:
      tasks: number of classes by task.
    """
    order, repeated = score_order(batches, tasks, view_name)
    path = score_path(shard, shards)
    groups = write_rows(batches, order, f"{folder}/{path}", ROW_GROUP_ROWS)
    classes = {}
    for task, words in tasks.items():
        likeliest = np.concatenate([view(batch[class_column(task)]) for batch in batches])
        classes[task] = np.bincount(likeliest[order], minlength=words)
    return WrittenScores(
        ScoreShard(path=path, rows=sum(groups), sha256=file_sha256(f"{folder}/{path}")), repeated, classes
    )


def lost_rows(unreadable: tuple[pa.RecordBatch, int]) -> ScoreCounts:
    """Return what became of the rows of a row group that cannot be read."""
    _, rows = unreadable
    return ScoreCounts(rows, {ScoreReject.UNREADABLE: rows} if rows else {})
