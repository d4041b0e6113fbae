"""Streams of batches that end: a failure of the feed is raised as it is, and none outlives the interpreter.

TensorFlow calls the feed from threads of its own. If an iterator lives when the interpreter ends, TensorFlow waits for
these threads, and they wait for the interpreter: the process never ends. So every stream is closed before.
"""

import atexit
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self

import tensorflow as tf


class Failures:
    """The first exception in the functions of a feed that TensorFlow calls, which would pass on its text alone."""

    def __init__(self) -> None:
        self.first: Exception | None = None

    def noted(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns a function that notes its exceptions, and does no more work after one."""

        def call(argument: Any) -> Any:
            if self.first is not None:
                raise RuntimeError("the feed has failed")
            try:
                return function(argument)
            except Exception as error:
                self.first = self.first or error
                raise

        return call


class BatchStream(Iterator[Any]):
    """Iterator over a dataset of TensorFlow whose functions note their failures.

    Args:
      dataset: the stream of batches.
      failures: the failures of its functions.

    Raises:
      Exception: the first failure, instead of TensorFlow's error with its text.
    """

    def __init__(self, dataset: tf.data.Dataset, failures: Failures):
        self._failures = failures
        self._iterator: Iterator[Any] | None = iter(dataset)
        _open.add(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            raise StopIteration
        try:
            return next(self._iterator)
        except tf.errors.OpError:
            failure = self._failures.first
            if failure is None:
                raise
        self.close()
        raise failure  # outside of the handler, as the frames of TensorFlow's error hold the iterator

    def close(self) -> None:
        """Ends the stream; TensorFlow's threads stop."""
        self._iterator = None


_open: "weakref.WeakSet[BatchStream]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for stream in list(_open):
        stream.close()
