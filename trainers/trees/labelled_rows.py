"""Labelled rows of a feed in memory, as trees, linear models and baselines need them."""

from collections.abc import Callable

import numpy as np

from flowloom.trainers.feed.array_feed import ArrayFeed

Rows = tuple[np.ndarray, np.ndarray]
"""Columns, float32 [N, columns], and labels, int32 [N]."""


def flattened(*inputs: np.ndarray) -> np.ndarray:
    """Returns the input arrays side by side, float32: for flows [N, k * C + 1] with the length last."""
    return np.hstack([array.reshape(len(array), -1).astype(np.float32) for array in inputs])


def labelled_rows(
    feed: ArrayFeed, limit: int | None = None, matrix: Callable[..., np.ndarray] = flattened
) -> dict[str, Rows]:
    """Returns the first `limit` labelled rows of each task in one epoch of a feed.

    Args:
      feed: with a seed for a random choice of rows.
      limit: largest number of rows of a task; None: all.
      matrix: function from the feed's inputs to columns.

    Returns:
      {task: rows}. Tasks that know the labels of all rows share one array of columns.
    """
    tasks = [task.name for task in feed.dataset.tasks]
    room = np.full(len(tasks), np.iinfo(np.int64).max if limit is None else limit)
    columns, labels = [], []
    for number in range(len(feed.windows(0))):
        *inputs, known = feed.tensors(0, number)
        counts = np.cumsum(known >= 0, axis=0)
        needed = ((known >= 0) & (counts <= room)).any(axis=1)
        columns.append(matrix(*(array[needed] for array in inputs)))
        labels.append(known[needed])
        room = np.maximum(room - (counts[-1] if len(counts) else 0), 0)
        if not room.any():
            break
    values, every = np.concatenate(columns), np.concatenate(labels)
    found = {}
    for task, known in zip(tasks, every.T, strict=True):
        chosen = np.flatnonzero(known >= 0)[:limit]
        found[task] = (values if len(chosen) == len(values) else values[chosen], known[chosen])
    return found
