"""Batches for PyTorch: the arrays of the feed as tensors, with workers and a step to resume at."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import IterableDataset, get_worker_info

from flowloom.trainers.feed.array_feed import ArrayFeed

TorchBatch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""An `ArrayBatch` of tensors."""


class TorchBatches(IterableDataset):
    """Batches of a feed as tensors, for `torch.utils.data.DataLoader(batches, batch_size=None, num_workers=N)`.

    Worker n of N reads every N-th window of row groups. A loader takes one batch of each worker in turn, so batches
    and their order depend on the seed and on N alone.

    Args:
      feed: the feed of all workers.
      epochs: number of epochs, counted from step 0; None for an endless stream.
      start_step: number of batches, of all workers together, that a stopped loader has given already.
    """

    def __init__(self, feed: ArrayFeed, epochs: int | None, start_step: int):
        super().__init__()
        self._feed, self._epochs, self._start_step = feed, epochs, start_step

    def __iter__(self) -> Iterator[TorchBatch]:
        worker = get_worker_info()
        position, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # a small split has fewer windows than there are workers
        reading = min(workers, len(self._feed.windows(0)))
        feeds = [replace(self._feed, worker=each, workers=workers) for each in range(reading)]
        lengths = None
        if self._epochs is not None:
            lengths = [sum(len(feed.stripes(epoch)) for epoch in range(self._epochs)) for feed in feeds]
        # a loader begins with its first worker, which is the one whose turn is next
        turns = next_turns(self._start_step, reading, lengths)
        if position >= len(turns):
            return
        number, start = turns[position]
        for parts in feeds[number].arrays(start, self._epochs):
            inputs, labels, weights = (
                {name: torch.from_numpy(array) for name, array in part.items()} for part in parts
            )
            yield inputs, labels, weights


def next_turns(total: int, workers: int, lengths: Sequence[int] | None) -> list[tuple[int, int]]:
    """Returns the workers of a loader that has given `total` batches, in the order of their next turns.

    Args:
      total: batches of all workers together; the loader took one of each worker in turn.
      workers: number of workers.
      lengths: number of batches of each worker, whose turn is skipped after its last; None without an end.

    Returns:
      The number of each worker that has batches left, and the number of batches that it has given.

    Example:

    >>> next_turns(4, 3, [1, 9, 9])
    [(2, 1), (1, 2)]
    """
    done = [0] * workers
    while going := [at for at in range(workers) if lengths is None or done[at] < lengths[at]]:
        rounds = total // len(going)
        if lengths is not None:
            rounds = min(rounds, *(lengths[at] - done[at] for at in going))
        if not rounds:  # the rest of a round
            for at in going[:total]:
                done[at] += 1
            turns = [*going[total:], *going[:total]]
            return [(at, done[at]) for at in turns if lengths is None or done[at] < lengths[at]]
        for at in going:
            done[at] += rounds
        total -= rounds * len(going)
    return []
