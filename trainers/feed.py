"""The feed: Parquet row groups to batches of tensors, as a pure function of the seed and the step."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.rows import label_column
from flowloom.trainers.dataset import Dataset, RowGroup
from flowloom.trainers.features import FeatureSpec

PARALLEL_WINDOWS = 2
"""Windows decoded ahead at once; each holds `window_rows` rendered flows in memory."""

Batch = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]
"""Inputs {"sequence": float32 [B, k, C], "length": int32 [B]}; labels {task: int32 [B]}, 0 where unknown; weights
{task: float32 [B]}, 1 where the label is known and 0 where it is not."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Row groups that are decoded and shuffled together; a batch never crosses a window."""

    groups: tuple[RowGroup, ...]
    task: str | None
    """The one task whose labels count (a miniset of Rainbow), or None: all of them."""

    @property
    def rows(self) -> int:
        """Flows in the window."""
        return sum(group.rows for group in self.groups)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of one split of a dataset.

    With a seed, row groups and rows are permuted anew in every epoch; without, rows come in the order of the shards.
    A permutation spreads the stripes of a Rainbow dataset evenly, so that batches are of all tasks (`rainbow_mixed`).
    With `striped` windows are minisets, which take turns round robin over the tasks, and a task stops for the epoch
    when its minisets are used up (Rainbow; MULTA, section III-C).

    Worker `worker` of `workers` sees every `workers`-th window, so workers get unequal numbers of steps.

    Raises:
      FlowloomError: if the split is missing or has no rows.
    """

    dataset: Dataset
    split: str
    features: FeatureSpec
    batch_size: int
    seed: int | None = None
    striped: bool = False
    window_rows: int = 65_536
    miniset_rows: int | None = None
    """Flows of a miniset: by default a tenth of a task's flows, at most 4,096. At least one row group."""
    kept: Mapping[str, pa.Array] = dataclasses.field(default_factory=dict)
    """Of some tasks the ids of the flows whose label counts (`few_labels.kept_flows`); all others are unknown."""
    only_labelled: bool = False
    """Leave out flows without a label that counts, under `striped` for the task of their miniset."""
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.worker < self.workers:
            raise ValueError(f"worker must be >= 0 and < workers, got worker={self.worker}, workers={self.workers}")
        for name in ("batch_size", "window_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.windows(0):
            raise FlowloomError(
                f"split {self.split!r} of dataset {self.dataset.root} has no rows for worker {self.worker} of "
                f"{self.workers}; give the split a larger share and build again"
            )

    @functools.cached_property
    def _tasks(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.dataset.tasks)

    @functools.cached_property
    def _pools(self) -> dict[str | None, list[RowGroup]]:
        """The row groups that may share a window: of each task under `striped`, else all."""
        pools = self._tasks if self.striped else (None,)
        found = {task: self.dataset.row_groups(self.split, task) for task in pools}
        if self.only_labelled:
            found = {task: [self._labelled(group, task) for group in groups] for task, groups in found.items()}
        return {task: [group for group in groups if group.rows] for task, groups in found.items()}

    def _labelled(self, group: RowGroup, task: str | None) -> RowGroup:
        """Return a row group with the number of its rows that have a label that counts."""
        wanted = {*map(label_column, self._tasks), *(["flow_id"] if self.kept else [])}
        labels = self._labels(_decode(group, wanted).combine_chunks().to_batches()[0], task)
        return dataclasses.replace(group, rows=int((labels >= 0).any(axis=1).sum()))

    def windows(self, epoch: int) -> list[Window]:
        """Return the windows of an epoch in the order of the stream; their number is the same in every epoch."""
        turns = []
        for number, (task, groups) in enumerate(self._pools.items()):
            order = np.arange(len(groups))
            if self.seed is not None:
                drawn = np.random.default_rng((self.seed, epoch, 0, number)).permutation(order)
                order = self._interleaved(groups, drawn)
            width = self._width(groups)
            starts = range(0, len(groups), width)
            turns.append([Window(tuple(groups[i] for i in order[start : start + width]), task) for start in starts])
        round_robin = [window for turn in itertools.zip_longest(*turns) for window in turn if window is not None]
        return round_robin[self.worker :: self.workers]

    def _interleaved(self, groups: Sequence[RowGroup], order: np.ndarray) -> np.ndarray:
        """Spread the row groups of every stripe evenly over an order, so that each window has rows of all tasks."""
        stripes = np.array([self._stripes[groups[at].path] for at in order], np.int64)
        places = np.empty(len(order))
        for stripe in np.unique(stripes):
            members = np.flatnonzero(stripes == stripe)
            places[members] = (np.arange(len(members)) + 0.5) / len(members)
        return order[np.argsort(places, kind="stable")]

    @functools.cached_property
    def _stripes(self) -> dict[str, int]:
        """The number of the stripe that a shard is of, by its path."""
        tasks = list(dict.fromkeys(shard.task for shard in self.dataset.card.shards))
        return {str(self.dataset.root / shard.path): tasks.index(shard.task) for shard in self.dataset.card.shards}

    def _width(self, groups: Sequence[RowGroup]) -> int:
        """Return how many row groups make a window, from their mean size."""
        rows = sum(group.rows for group in groups)
        wanted = self.window_rows
        if self.striped:
            wanted = self.miniset_rows or min(4096, -(-rows // 10))
        return max(1, round(wanted * len(groups) / max(rows, 1)))

    def stripes(self, epoch: int) -> list[str | None]:
        """Return for every step of an epoch the one task that it trains, or None: all of them."""
        return [window.task for window in self.windows(epoch) for _ in range(self._steps(window))]

    def _steps(self, window: Window) -> int:
        return -(-window.rows // self.batch_size)

    def position(self, step: int) -> tuple[int, int, int]:
        """Return (epoch, window of the epoch, batch of the window) of a step, all from 0."""
        for epoch in itertools.count():
            for number, window in enumerate(self.windows(epoch)):
                if step < self._steps(window):
                    return epoch, number, step
                step -= self._steps(window)
        raise AssertionError("an endless count has ended")

    def tensors(self, epoch: int, number: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decode and render one window of an epoch, without its first `skip` rows.

        Returns:
          float32 [N, k, C]; lengths int32 [N]; labels int32 [N, T] in the card's order of tasks, -1 = unknown.
        """
        window = self.windows(epoch)[number]
        flows = self._read(window)
        labels = self._labels(flows, window.task)
        rows = np.arange(flows.num_rows)
        if self.only_labelled:
            rows = np.flatnonzero((labels >= 0).any(axis=1))
        if self.seed is not None:
            place = self.worker + number * self.workers
            rows = np.random.default_rng((self.seed, epoch, 1, place)).permutation(rows)
        rows = rows[skip:]
        sequence, length = self.features.render(flows, rows)
        return sequence, length, labels[rows]

    def _labels(self, flows: pa.RecordBatch, only: str | None) -> np.ndarray:
        """Return the labels that count of all tasks, or of one: int32 [N, T], -1 = unknown."""
        labels = np.full((flows.num_rows, len(self._tasks)), -1, np.int32)
        for column, task in enumerate(self._tasks):
            if label_column(task) in flows.schema.names and only in (None, task):
                known = flows[label_column(task)]
                if task in self.kept:
                    known = pc.if_else(pc.is_in(flows["flow_id"], self.kept[task]), known, None)
                labels[:, column] = pc.fill_null(known, -1).to_numpy()
        return labels

    def _read(self, window: Window) -> pa.RecordBatch:
        """Decode the needed columns of a window's row groups."""
        wanted = {*self.features.columns, *map(label_column, self._tasks), *(["flow_id"] if self.kept else [])}
        tables = [_decode(group, wanted) for group in window.groups]
        table = pa.concat_tables(tables, promote_options="default").combine_chunks()  # stripes differ in label columns
        return table.to_batches()[0]

    @property
    def signature(self) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
        """Return the specs of a `Batch` of any size."""
        shape = (None, self.features.k, len(self.features.features))
        return (
            {"sequence": tf.TensorSpec(shape), "length": tf.TensorSpec((None,), tf.int32)},
            {task: tf.TensorSpec((None,), tf.int32) for task in self._tasks},
            {task: tf.TensorSpec((None,)) for task in self._tasks},
        )

    def batches(self, start_step: int = 0, epochs: int | None = None) -> "tf.data.Dataset[Batch]":
        """Return the stream of batches from a step on, over `epochs` epochs from the first (None: endless)."""
        first_epoch, first_window, first_batch = self.position(start_step)
        per_epoch = len(self.windows(0))
        first = first_epoch * per_epoch + first_window
        end = np.iinfo(np.int64).max if epochs is None else epochs * per_epoch
        inputs, _, _ = self.signature

        def load(index: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            skip = first_batch * self.batch_size if index == first else 0
            return self.tensors(*divmod(int(index), per_epoch), skip)

        @tf.autograph.experimental.do_not_convert
        def decode(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            sequence, length, labels = tf.numpy_function(load, [index], (tf.float32, tf.int32, tf.int32))
            return (
                tf.ensure_shape(sequence, inputs["sequence"].shape),
                tf.ensure_shape(length, inputs["length"].shape),
                tf.ensure_shape(labels, (None, len(self._tasks))),
            )

        @tf.autograph.experimental.do_not_convert
        def split(*window: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(window).rebatch(self.batch_size)

        @tf.autograph.experimental.do_not_convert
        def named(sequence: tf.Tensor, length: tf.Tensor, labels: tf.Tensor) -> Batch:
            columns = dict(zip(self._tasks, tf.unstack(labels, axis=1), strict=True))
            known = {task: tf.maximum(column, 0) for task, column in columns.items()}
            weights = {task: tf.cast(column >= 0, tf.float32) for task, column in columns.items()}
            return {"sequence": sequence, "length": length}, known, weights

        options = tf.data.Options()
        options.deterministic = True
        # the stream is recomputed from (seed, step), so the Python state in `load` need not be saved with it
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return (
            tf.data.Dataset.range(first, end)
            .map(decode, num_parallel_calls=PARALLEL_WINDOWS)
            .flat_map(split)
            .map(named)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(options)
        )


def _decode(group: RowGroup, wanted: Collection[str]) -> pa.Table:
    """Return those of the wanted columns that a row group has."""
    with pq.ParquetFile(group.path) as file:
        columns = [name for name in file.schema_arrow.names if name in wanted]
        return file.read_row_group(group.index, columns=columns)
