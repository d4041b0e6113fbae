"""Work ahead: threads run jobs side by side, and their items come out in the order of the jobs."""

import collections
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

NAME = "ahead"
"""Beginning of the names of the threads."""
_JOIN_S = 0.5
"""Seconds for which the end waits for threads; one that still reads a file then is left, and gives nothing more."""


class Ahead(Iterator[Item]):
    """Iterator over the items of jobs, which threads make ahead of the reader.

    The items of the first job come first, then those of the second, for any number of workers. The job that is being
    read may be `most_bytes` ahead; the later ones together may be as much ahead, and one item more for each worker. So
    no job waits for one behind it. An error of any job is raised by the next item, and ends all of them.

    The threads end with the last item, by `close`, with the last reference to the iterator, or with the process.

    Args:
      jobs: functions that return the items of one job; each is called by a worker, and its items are made there.
      workers: number of threads.
      most_bytes: bytes of items that wait to be read, by their `nbytes`; an item without any counts as none.
    """

    def __init__(self, jobs: Sequence[Callable[[], Iterator[Item]]], workers: int, most_bytes: int):
        # threads know only this part, so that an iterator nobody refers to can end them
        self._work = _Work(jobs, most_bytes)
        count = min(workers, len(jobs))
        self._threads = [
            threading.Thread(target=self._work.run, name=f"{NAME}-{at}", daemon=True) for at in range(count)
        ]
        self._end = weakref.finalize(self, _stop, self._work, self._threads)
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Item:
        try:
            return self._work.take()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the threads; no item comes after this."""
        self._end()


def _stop(work: "_Work[Any]", threads: Sequence[threading.Thread]) -> None:
    with work.changed:
        work.stopped = True
        work.changed.notify_all()
    deadline = time.monotonic() + _JOIN_S
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(deadline - time.monotonic(), 0))


class _Work(Generic[Item]):
    """Jobs, and what they have made so far.

    Attributes:
      changed: lock of all that follows, notified at every change.
      stopped: whether no item is wanted any more.
    """

    def __init__(self, jobs: Sequence[Callable[[], Iterator[Item]]], most_bytes: int):
        self.changed = threading.Condition()
        self.stopped = False
        self._jobs = jobs
        self._most = most_bytes
        self._begun = self._read = 0  # jobs that a worker took, and the job that is read now
        self._done: set[int] = set()
        self._items: dict[int, collections.deque[tuple[Item, int]]] = {0: collections.deque()}
        self._bytes: collections.Counter[int] = collections.Counter()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Runs jobs in their order until none is left; the work of one thread."""
        while (job := self._begin()) is not None:
            try:
                items = self._jobs[job]()
                try:
                    for item in items:
                        if not self._put(job, item):
                            return
                finally:
                    if isinstance(items, Iterator) and hasattr(items, "close"):
                        items.close()
            except BaseException as error:
                with self.changed:
                    self._error = self._error or error
                    self.changed.notify_all()
                return
            with self.changed:
                self._done.add(job)
                self.changed.notify_all()

    def take(self) -> Item:
        """Returns the next item in the order of the jobs, and waits for it.

        Raises:
          StopIteration: if there is none, or if the work was stopped.
        """
        with self.changed:
            while True:
                if self.stopped or self._read == len(self._jobs):
                    raise StopIteration
                if self._error is not None:
                    raise self._error
                waiting = self._items[self._read]
                if waiting:
                    item, size = waiting.popleft()
                    self._bytes[self._read] -= size
                    self.changed.notify_all()
                    return item
                if self._read in self._done:
                    self._done.remove(self._read)
                    del self._items[self._read], self._bytes[self._read]
                    self._read += 1
                    self._items.setdefault(self._read, collections.deque())
                    self.changed.notify_all()
                else:
                    self.changed.wait()

    def _begin(self) -> int | None:
        """Returns the next job once there is room for its items; None if no work is left."""
        with self.changed:
            if self._begun == len(self._jobs):
                return None
            job = self._begun
            self._begun += 1
            self._items.setdefault(job, collections.deque())
            return job if self._wait_for_room(job) else None

    def _put(self, job: int, item: Item) -> bool:
        """Adds an item once there is room; returns False if the work was stopped."""
        with self.changed:
            if not self._wait_for_room(job):
                return False
            size = getattr(item, "nbytes", 0)
            self._items[job].append((item, size))
            self._bytes[job] += size
            self.changed.notify_all()
            return True

    def _wait_for_room(self, job: int) -> bool:
        """Waits until a job may have one more item; returns False if the work was stopped."""
        while not self.stopped and self._error is None:
            read = self._bytes[self._read] if self._read in self._items else 0
            ahead = read if job == self._read else self._bytes.total() - read
            if ahead < self._most:
                return True
            self.changed.wait()
        return False


@contextlib.contextmanager
def ahead(items: Callable[[], Iterator[Item]], most_bytes: int) -> Iterator[Iterator[Item]]:
    """Runs one job in a thread of its own, at most `most_bytes` ahead, and ends it with the block."""
    made = Ahead([items], 1, most_bytes)
    try:
        yield made
    finally:
        made.close()
