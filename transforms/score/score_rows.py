"""Scores of row batches: sorted shards, and counts of scored and rejected rows."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import IDENTITY, View
from flowloom.schemas.file_digests import file_sha256
from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.score_card import ScoreShard, class_column, probability_column, score_path
from flowloom.transforms.arrays.columns import view, view_or
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.shards import row_order, write_rows
from flowloom.transforms.score.probability_counts import ProbabilityCounts, count_probabilities

ROW_GROUP_ROWS = 65_536
HELD_BYTES = 16 << 20
"""Bytes of scores in memory before a worker spills them, about 80,000 rows of three tasks."""


class Scored(Protocol):
    """Result of a scorer for one batch, such as `trainers.deploy.scorer.ScoredRows`."""

    @property
    def scores(self) -> pa.RecordBatch:
        """Rows with the columns of the score schema."""

    @property
    def rejected(self) -> dict[str, int]:
        """Number of rows without a score, by reason."""

    @property
    def profile(self) -> FeatureProfile | None:
        """Feature profile of the scored rows."""


class RowScorer(Protocol):
    """Scorer of row batches; each process loads one, and its threads share it."""

    def score(self, rows: pa.RecordBatch) -> Scored:
        """Returns the scores of rows."""


@dataclasses.dataclass
class ScoreCounts:
    """Counts of rows that a scorer got.

    Attributes:
      rows: all rows.
      rejected: rows without a score, by reason.
      profiled: number of rows in the histograms `counts`.
      counts: histogram of each feature, as in `FeatureProfile.counts`.
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
    """A shard of scores, the number of rejected repeated rows, and by task the rows and probabilities of each class."""

    shard: ScoreShard
    repeated: int
    classes: dict[str, np.ndarray]
    probabilities: dict[str, ProbabilityCounts]


def score_rows(scorer: RowScorer, rows: pa.RecordBatch, addresses: bool = True) -> tuple[pa.RecordBatch, ScoreCounts]:
    """Returns the scores of rows, and counts of the rows.

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
    """Returns the positions of rows in the order of their view, each id once.

    Among rows with the same id, the row with the smallest scores stays, so the order of the batches does not matter.

    Returns:
      Positions through all batches, and the number of rejected rows.
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
        outputs_of = [
            np.concatenate([batch[probability_column(task)].flatten().to_numpy() for batch in batches])
            for task in tasks
        ]
        columns = [column for outputs in outputs_of for column in outputs.reshape(rows, -1).T]
        by_scores = np.lexsort([column[order] for column in columns])
        # a stable sort by id makes equal ids adjacent again, the smallest scores first
        block = np.cumsum(~again)[by_scores]
        order = order[by_scores[np.argsort(block, kind="stable")]]
    return order[~again], int(again.sum())


def write_scores(
    shard: int, shards: int, batches: Sequence[pa.RecordBatch], folder: str, tasks: dict[str, int], view_name: View
) -> WrittenScores:
    """Writes the scores of one shard, given in any order, and returns their counts.

    Args:
      tasks: number of classes by task.
    """
    order, repeated = score_order(batches, tasks, view_name)
    path = score_path(shard, shards)
    groups = write_rows(batches, order, f"{folder}/{path}", ROW_GROUP_ROWS)
    counts, probabilities = {}, {}
    for task, classes in tasks.items():
        likeliest = np.concatenate([view(batch[class_column(task)]) for batch in batches])[order]
        counts[task] = np.bincount(likeliest, minlength=classes)
        flat = np.concatenate([batch[probability_column(task)].flatten().to_numpy() for batch in batches])
        probabilities[task] = count_probabilities(flat.reshape(-1, classes)[order], likeliest)
    return WrittenScores(
        ScoreShard(path=path, rows=sum(groups), sha256=file_sha256(f"{folder}/{path}")),
        repeated,
        counts,
        probabilities,
    )
