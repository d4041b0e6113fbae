"""The feed of a training: the batches of `ArrayFeed` as tensors of TensorFlow, prepared in parallel."""

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from flowloom.trainers.batch_stream import BatchStream, Failures
from flowloom.trainers.feed.array_feed import ArrayFeed, labels_and_weights

PIECE_ROWS = 4_096
"""Rows that are passed to TensorFlow at once, in whole batches (docs/performance.md)."""
PARALLEL_PIECES = 2

Batch = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]
"""An `ArrayBatch` of tensors."""


@dataclasses.dataclass(frozen=True)
class Feed(ArrayFeed):
    """`ArrayFeed` whose batches are tensors.

    Example:

    ```python
    dataset = Dataset.open("dataset")
    features = FeatureSpec.of(dataset.card, k=20, channels=("size", "direction"), scaling="fixed")
    for inputs, labels, weights in Feed(dataset, "train", features, batch_size=256, seed=1).stream(epochs=1):
        ...
    ```
    """

    @property
    def signature(self) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
        """The specs of a `Batch` of any size."""
        return (
            {name: tf.TensorSpec((None, *each.shape), each.dtype) for name, each in self.features.inputs.items()},
            {task: tf.TensorSpec((None,), tf.int32) for task in self._tasks},
            {task: tf.TensorSpec((None,)) for task in self._tasks},
        )

    def stream(
        self, start_step: int = 0, epochs: int | None = None, each: Callable[..., Any] | None = None
    ) -> BatchStream:
        """Returns an iterator over the batches from a step on, which raises a failure of the feed as it is.

        Args:
          start_step: the first step.
          epochs: number of epochs, counted from step 0; None for an endless stream.
          each: TensorFlow's function of a batch, whose results are streamed.
        """
        failures = Failures()
        batches = self._batches(start_step, epochs, failures)
        return BatchStream(batches if each is None else batches.map(each), failures)

    def batches(self, start_step: int = 0, epochs: int | None = None) -> "tf.data.Dataset[Batch]":
        """Returns the batches as a dataset of TensorFlow; arguments as in `stream`, which is safer to iterate over."""
        return self._batches(start_step, epochs, Failures())

    def _batches(self, start_step: int, epochs: int | None, failures: Failures) -> "tf.data.Dataset[Batch]":
        first_epoch, first_window, first_batch = self.position(start_step)
        end = np.iinfo(np.int64).max if epochs is None else epochs
        specs = self.signature
        loaded, lock = functools.lru_cache(PARALLEL_PIECES)(self._load), threading.Lock()

        def plan(epoch: np.int64) -> npt.NDArray[np.int64]:
            pieces = self._pieces(int(epoch))
            return pieces if epoch > first_epoch else _from(pieces, first_window, first_batch * self.batch_size)

        def render(place: npt.NDArray[np.int64]) -> tuple[np.ndarray, ...]:
            epoch, number, start, stop = place.tolist()
            with lock:  # so that two threads do not decode the same window
                window = loaded(epoch, number)
            return (*window.inputs(start, stop), *labels_and_weights(window.labels, window.order[start:stop]))

        @tf.autograph.experimental.do_not_convert
        def planned(epoch: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(failures.noted(plan), [epoch], tf.int64), (None, 4))

        @tf.autograph.experimental.do_not_convert
        def rendered(place: tf.Tensor) -> Batch:
            types = [spec.dtype for part in specs for spec in part.values()]
            arrays = tf.numpy_function(failures.noted(render), [place], types)
            for array, spec in zip(arrays, (spec for part in specs for spec in part.values()), strict=True):
                array.set_shape(spec.shape)
            left = iter(arrays)
            inputs, labels, weights = ({name: next(left) for name in part} for part in specs)
            return inputs, labels, weights

        @tf.autograph.experimental.do_not_convert
        def batched(*piece: dict[str, tf.Tensor]) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(piece).rebatch(self.batch_size)

        options = tf.data.Options()
        options.deterministic = True
        # the stream is a function of (seed, step), so the Python state in `render` need not be saved with it
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return (
            tf.data.Dataset.range(first_epoch, end)
            .map(planned)
            .flat_map(tf.data.Dataset.from_tensor_slices)
            .map(rendered, num_parallel_calls=PARALLEL_PIECES)
            .flat_map(batched)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(options)
        )

    def _pieces(self, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the pieces passed to TensorFlow, int64 [pieces, 4]: epoch, window, first row, row after the last."""
        rows = max(1, PIECE_ROWS // self.batch_size) * self.batch_size
        return np.array(
            [
                (epoch, number, start, min(start + rows, window.rows))
                for number, window in enumerate(self.windows(epoch))
                for start in range(0, window.rows, rows)
            ],
            np.int64,
        )


def _from(pieces: npt.NDArray[np.int64], number: int, row: int) -> npt.NDArray[np.int64]:
    """Returns the pieces of an epoch from a row of a window on."""
    _, windows, _, stops = pieces.T
    left = pieces[(windows > number) | ((windows == number) & (stops > row))]
    first = left[:, 1] == number
    left[first, 2] = np.maximum(left[first, 2], row)
    return left
