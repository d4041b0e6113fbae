"""Overlap of tasks: contingency of the labels of two tasks, over the rows with both labels.

If one task nearly determines another, good scores of one model on both say little about either.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import TaskOverlap
from flowloom.transforms.arrays.columns import view_or

TaskPair = tuple[str, str]
"""Two tasks, in the order of the dataset."""


def count_pairs(rows: pa.RecordBatch, tasks: Sequence[Task]) -> dict[TaskPair, np.ndarray]:
    """Counts rows by the known labels of each pair of tasks: int64 [values of one, values of the other]."""
    known = [task for task in tasks if label_column(task.name) in rows.schema.names]
    codes = {task.name: view_or(rows[label_column(task.name)], -1).astype(np.int64) for task in known}
    counts = {}
    for one, other in itertools.combinations(known, 2):
        shape = len(one.vocabulary), len(other.vocabulary)
        both = (codes[one.name] >= 0) & (codes[other.name] >= 0)
        place = codes[one.name][both] * shape[1] + codes[other.name][both]
        counts[one.name, other.name] = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
    return counts


def task_overlap(pair: TaskPair, split: str, counts: np.ndarray) -> TaskOverlap:
    """Returns a contingency table and its measures of association, over classes with rows."""
    used = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    return TaskOverlap(
        tasks=pair,
        split=split,
        counts=tuple(map(tuple, counts.tolist())),
        cramers_v=cramers_v(used),
        determined=float(used.max(axis=0, initial=0).sum() / used.sum()) if used.size else None,
        commonest=float(used.sum(axis=1).max() / used.sum()) if used.size else None,
    )


def cramers_v(counts: np.ndarray) -> float | None:
    """Returns Cramer's V of a contingency table, from 0 to 1; None with fewer than two rows or columns.

    Source: Cramer, "Mathematical Methods of Statistics", 1946, section 21.9, without a correction for small samples.
    """
    if min(counts.shape) < 2:
        return None
    total = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    return min(1.0, math.sqrt(chi_squared / total / (min(counts.shape) - 1)))
