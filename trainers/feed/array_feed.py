"""The feed without TensorFlow: Parquet row groups to batches of arrays, a function of seed and step alone."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.augmentation import UNCHANGED, Augmentation
from flowloom.trainers.feed.balancing import Balance, TrainLabels
from flowloom.trainers.feed.dataset import Dataset, RowGroup
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_group_cache import RowGroups
from flowloom.trainers.feed.row_spec import RowSpec

ArrayBatch = tuple[dict[str, np.ndarray], dict[str, npt.NDArray[np.int32]], dict[str, npt.NDArray[np.float32]]]
"""Inputs {name: [B, ...]} of the `RowSpec`; labels {task: int32 [B]}, 0 where unknown; weights {task: float32 [B]}, 1
where the label is known and 0 where it is unknown."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Row groups that are shuffled together; a batch never crosses a window."""

    groups: tuple[RowGroup, ...]
    task: str | None
    """The one task whose labels count (a miniset of Rainbow); None for all tasks."""
    rows: int
    """Rows of the window; a row that balancing repeats counts each time."""


@dataclasses.dataclass(frozen=True)
class LoadedWindow:
    """A decoded window."""

    places: tuple[np.ndarray, ...]
    """Positions of the rows in the order of the stream; with augmentation also their `Draws`."""
    labels: npt.NDArray[np.int32]
    """int32 [N, T] by position and task, -1 for unknown."""
    render: Callable[..., tuple[np.ndarray, ...]]
    """Function from `places` to the inputs."""

    def inputs(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Returns the inputs of some rows of the stream."""
        return self.render(*(each[start:stop] for each in self.places))

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Positions of the rows in the order of the stream."""
        return self.places[0]


@dataclasses.dataclass(frozen=True)
class ArrayFeed:
    """Batches of one split of a dataset: flows, packets or tables, as `features` defines.

    With a seed, row groups and rows are permuted in every epoch; without a seed, rows keep the order of the shards. The
    permutation spreads the stripes of a Rainbow ("striped") dataset evenly, so that batches have rows of all tasks
    (`rainbow_mixed`). With `striped` the windows are minisets of one task each. The tasks take turns, and a task stops
    for the epoch when its minisets are used up (MULTA, section III-C).

    Worker `worker` of `workers` reads every `workers`-th window, so workers may have unequal numbers of steps.

    Raises:
      ValueError: if an argument is out of range, or random choices have no seed.
      FlowloomError: if the split is missing or has no rows; while it is read, if a label is none of its task's classes.

    Example:

    ```python
    dataset = Dataset.open("dataset")
    features = FeatureSpec.of(dataset.card, k=20, channels=("size", "direction"), scaling="fixed")
    for inputs, labels, weights in ArrayFeed(dataset, "train", features, batch_size=256, seed=1).arrays(epochs=1):
        ...
    ```
    """

    dataset: Dataset
    split: str
    features: RowSpec
    batch_size: int
    seed: int | None = None
    striped: bool = False
    window_rows: int = 65_536
    miniset_rows: int | None = None
    """Rows of a miniset, at least one row group; None takes a tenth of a task's rows, at most 4,096."""
    kept: Mapping[str, pa.Array] = dataclasses.field(default_factory=dict)
    """By task the ids of the flows that keep their label (`few_labels.kept_flows`); tasks that are absent keep all."""
    only_labelled: bool = False
    """Drops rows without a label that counts, under `striped` a label of the miniset's task."""
    balance: Balance | None = None
    """Balancing of the train split; under `striped` it affects the minisets of its task alone."""
    augment: Augmentation = UNCHANGED
    """Changes of training rows, drawn anew in every epoch; by default none."""
    memory_bytes: int = 1 << 29
    """Size of the cache of decoded row groups; row groups beyond it are decoded in every epoch."""
    worker: int = 0
    workers: int = 1

    def __getstate__(self) -> dict[str, Any]:
        """Returns the arguments alone, so that another process reads row groups of its own."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __post_init__(self) -> None:
        if not 0 <= self.worker < self.workers:
            raise ValueError(f"worker must be >= 0 and < workers, got worker={self.worker}, workers={self.workers}")
        for name in ("batch_size", "window_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.balance and self.seed is None:
            raise ValueError("seed must be set with balance, got None")
        if self.augment.changes_rows:
            if self.split != "train" or self.seed is None or not isinstance(self.features, FeatureSpec):
                raise ValueError(
                    "augment must change nothing unless flows of the train split are drawn with a seed, got "
                    f"split={self.split!r}, seed={self.seed}, view={self.features.view!r}"
                )
            if reason := self.augment.unfit(self.features.scaling, self.features.channels):
                raise ValueError(reason)
        if not self.windows(0):
            raise FlowloomError(
                f"split {self.split!r} of dataset {self.dataset.root} has no rows for worker {self.worker} of "
                f"{self.workers}; give the split a larger share and build again"
            )

    @functools.cached_property
    def _tasks(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.dataset.tasks)

    @functools.cached_property
    def _row_groups(self) -> RowGroups:
        """The decoded and prepared row groups of the split."""
        labels = map(label_column, self._tasks)
        columns = [*self.features.columns, *labels, *(["flow_id"] if self.kept else [])]
        further = self.augment.further_packets(self.features.k) if isinstance(self.features, FeatureSpec) else 0
        prepare = functools.partial(self.features.prepared, further=further)
        return RowGroups(columns, self.memory_bytes, prepare)

    @functools.cached_property
    def _pools(self) -> dict[str | None, dict[RowGroup, npt.NDArray[np.int64] | None]]:
        """The row groups that may share a window, with the positions of their rows; one pool per task if `striped`.

        None stands for all rows; balancing may repeat a position.
        """
        pools: dict[str | None, dict[RowGroup, npt.NDArray[np.int64] | None]] = {}
        for task in self._tasks if self.striped else (None,):
            groups = self.dataset.row_groups(self.split, task, self.features.view)
            drawn = self._drawn(groups) if self.balance and task in (None, self.balance.task) else {}
            chosen = {group: self._chosen(group, task, drawn.get(group)) for group in groups}
            pools[task] = {group: rows for group, rows in chosen.items() if (group.rows if rows is None else len(rows))}
        return pools

    def _drawn(self, groups: Sequence[RowGroup]) -> dict[RowGroup, npt.NDArray[np.int64]]:
        """Returns the rows that balancing draws from the row groups with labels of its task."""
        assert self.balance is not None
        assert self.seed is not None
        carrying = set(self.dataset.row_groups(self.split, self.balance.task, self.features.view))
        balanced = [group for group in groups if group in carrying]
        labels = [self._labels(self._row_groups.read([group]), None) for group in balanced]
        columns = np.concatenate([np.empty((0, len(self._tasks)), np.int32), *labels]).T
        known = TrainLabels(self.split, dict(zip(self._tasks, columns, strict=True)))
        rows = self.balance.draw(known, self.dataset.tasks, self.seed)
        drawn, start = {}, 0
        for group in balanced:
            first, last = np.searchsorted(rows, (start, start + group.rows))
            drawn[group] = rows[first:last] - start
            start += group.rows
        return drawn

    def _chosen(
        self, group: RowGroup, task: str | None, rows: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.int64] | None:
        """Returns the rows of a row group that the feed shows; None for all.

        Args:
          group: the row group.
          task: the task whose labels count; None for all tasks.
          rows: the rows that balancing drew; None for all.
        """
        if not self.only_labelled:
            return rows
        labels = self._labels(self._row_groups.read([group]), task)
        labelled = np.flatnonzero((labels >= 0).any(axis=1))
        return labelled if rows is None else rows[np.isin(rows, labelled)]

    def windows(self, epoch: int) -> list[Window]:
        """Returns the windows of an epoch in the order of the stream; every epoch has the same number of them."""
        turns = []
        for number, (task, pool) in enumerate(self._pools.items()):
            groups = list(pool)
            sizes = [group.rows if rows is None else len(rows) for group, rows in pool.items()]
            order = np.arange(len(groups))
            if self.seed is not None:
                drawn = np.random.default_rng((self.seed, epoch, 0, number)).permutation(order)
                order = self._interleaved(groups, drawn)
            width = self._width(sizes)
            parts = [order[start : start + width].tolist() for start in range(0, len(groups), width)]
            turns.append([Window(tuple(groups[i] for i in part), task, sum(sizes[i] for i in part)) for part in parts])
        round_robin = [window for turn in itertools.zip_longest(*turns) for window in turn if window is not None]
        return round_robin[self.worker :: self.workers]

    def _interleaved(self, groups: Sequence[RowGroup], order: np.ndarray) -> np.ndarray:
        """Spreads the row groups of every stripe evenly, so that each window has rows of all tasks."""
        stripes = np.array([self._stripes[groups[at].path] for at in order], np.int64)
        places = np.empty(len(order))
        for stripe in np.unique(stripes):
            members = np.flatnonzero(stripes == stripe)
            places[members] = (np.arange(len(members)) + 0.5) / len(members)
        return order[np.argsort(places, kind="stable")]

    @functools.cached_property
    def _stripes(self) -> dict[str, int]:
        """Number of the stripe of each shard, by path."""
        tasks = list(dict.fromkeys(shard.task for shard in self.dataset.card.shards))
        return {str(self.dataset.root / shard.path): tasks.index(shard.task) for shard in self.dataset.card.shards}

    def _width(self, sizes: Sequence[int]) -> int:
        """Returns the number of row groups per window, from their mean size."""
        rows = sum(sizes)
        wanted = self.window_rows
        if self.striped:
            wanted = self.miniset_rows or min(4096, -(-rows // 10))
        return max(1, round(wanted * len(sizes) / max(rows, 1)))

    def stripes(self, epoch: int) -> list[str | None]:
        """Returns the one task that each step of an epoch trains; None for all tasks."""
        return [window.task for window in self.windows(epoch) for _ in range(self._steps(window))]

    def _steps(self, window: Window) -> int:
        return -(-window.rows // self.batch_size)

    def position(self, step: int) -> tuple[int, int, int]:
        """Returns (epoch, window of the epoch, batch of the window) of a step, each from 0."""
        for epoch in itertools.count():
            for number, window in enumerate(self.windows(epoch)):
                if step < self._steps(window):
                    return epoch, number, step
                step -= self._steps(window)
        raise AssertionError("an endless count has ended")

    def tensors(self, epoch: int, number: int) -> tuple[np.ndarray, ...]:
        """Returns the arrays of one window of an epoch.

        Returns:
          The inputs in the order of the spec (for flows float32 [N, k, C] and lengths int32 [N]), then the labels,
          int32 [N, T] in the card's order of tasks, -1 for unknown.
        """
        window = self._load(epoch, number)
        return *window.inputs(0, len(window.order)), window.labels[window.order]

    def _load(self, epoch: int, number: int) -> LoadedWindow:
        """Decodes one window of an epoch and draws the order of its rows."""
        window = self.windows(epoch)[number]
        decoded = self._row_groups.read(window.groups)
        parts, start = [], 0
        for group in window.groups:
            rows = self._pools[window.task][group]
            parts.append(start + (np.arange(group.rows) if rows is None else rows))
            start += group.rows
        order = np.concatenate(parts)
        places: tuple[np.ndarray, ...] = (order,)
        if self.seed is not None:
            place = self.worker + number * self.workers
            places = (np.random.default_rng((self.seed, epoch, 1, place)).permutation(order),)
            if self.augment.changes_rows:
                places += self.augment.draws((self.seed, epoch, place), len(order))
        render = self.features.renderer(decoded)
        if self.augment.changes_rows:
            render = functools.partial(render, augmentation=self.augment)
        return LoadedWindow(places, self._labels(decoded, window.task), render)

    def _labels(self, rows: pa.RecordBatch, only: str | None) -> np.ndarray:
        """Returns the labels that count for all tasks or one: int32 [N, T], -1 for unknown."""
        labels = np.full((rows.num_rows, len(self._tasks)), -1, np.int32)
        for column, task in enumerate(self._tasks):
            if label_column(task) in rows.schema.names and only in (None, task):
                known = rows[label_column(task)]
                if task in self.kept:
                    known = pc.if_else(pc.is_in(rows["flow_id"], self.kept[task]), known, None)
                labels[:, column] = pc.fill_null(known, -1).to_numpy()
        self._check_labels(labels)
        return labels

    def _check_labels(self, labels: npt.NDArray[np.int32]) -> None:
        """Raises an error if a label is none of its task's classes; a binary loss would accept 2."""
        for task, column in zip(self.dataset.tasks, labels.T, strict=True):
            if len(column) and not -1 <= column.min() <= column.max() < len(task.vocabulary):
                wrong = int(column[(column < -1) | (column >= len(task.vocabulary))][0])
                raise FlowloomError(
                    f"dataset {self.dataset.root}: labels of task {task.name!r} must be from 0 to "
                    f"{len(task.vocabulary) - 1} or null in split {self.split}, got {wrong}; build the dataset again"
                )

    def arrays(self, start_step: int = 0, epochs: int | None = None) -> Iterator[ArrayBatch]:
        """Yields the batches from a step on; one decoded window is in memory beside the cache of row groups.

        Args:
          start_step: the first step.
          epochs: number of epochs, counted from step 0; None for an endless stream.
        """
        first_epoch, first_window, first_batch = self.position(start_step)
        for epoch in itertools.count(first_epoch) if epochs is None else range(first_epoch, epochs):
            for number, window in enumerate(self.windows(epoch)):
                begun = (epoch, number) <= (first_epoch, first_window)
                if begun and number < first_window:
                    continue
                loaded = self._load(epoch, number)
                for start in range(first_batch * self.batch_size if begun else 0, window.rows, self.batch_size):
                    yield self._array_batch(loaded, start, min(start + self.batch_size, window.rows))

    def _array_batch(self, window: LoadedWindow, start: int, stop: int) -> ArrayBatch:
        inputs = dict(zip(self.features.inputs, window.inputs(start, stop), strict=True))
        found = labels_and_weights(window.labels, window.order[start:stop])
        tasks = self._tasks
        return inputs, dict(zip(tasks, found, strict=False)), dict(zip(tasks, found[len(tasks) :], strict=True))


def labels_and_weights(labels: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> tuple[np.ndarray, ...]:
    """Returns the labels of each task, int32 [N] and 0 where unknown, then the weights, float32 [N]."""
    known = np.ascontiguousarray(labels[rows].T)
    return *np.maximum(known, 0), *(known >= 0).astype(np.float32)
