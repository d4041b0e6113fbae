"""Work ahead: items in the order of the jobs, bounded by bytes, and threads that end."""

import functools
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.transforms.io.ahead import NAME, Ahead, ahead


class Sized:
    """An item of so many bytes."""

    def __init__(self, value: object, nbytes: int):
        self.value = value
        self.nbytes = nbytes


class Meter:
    """Counts the bytes of items that were made and not read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = self.most = 0

    def add(self, size: int) -> None:
        with self.lock:
            self.waiting += size
            self.most = max(self.most, self.waiting)


def items(job: int, sizes: list[int], meter: Meter | None = None) -> Iterator[Sized]:
    for at, size in enumerate(sizes):
        if meter is not None:
            meter.add(size)
        yield Sized((job, at), size)


def working() -> int:
    """Returns the number of threads that work ahead."""
    return sum(thread.name.startswith(NAME) for thread in threading.enumerate())


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=8), st.integers(1, 5), st.integers(1, 60))
def test_items_come_in_the_order_of_jobs_and_few_wait(sizes, workers, most):
    meter = Meter()
    jobs = [functools.partial(items, job, each, meter) for job, each in enumerate(sizes)]
    read = []
    for item in Ahead(jobs, workers, most):
        read.append(item.value)
        meter.add(-item.nbytes)
    assert read == [(job, at) for job, each in enumerate(sizes) for at in range(len(each))]
    largest = max(itertools.chain.from_iterable(sizes), default=0)
    # the job that is read, and those behind it; each worker holds one item more, and the reader another
    assert meter.most <= 2 * (most + largest) + (workers + 1) * largest


def test_a_later_job_works_while_the_first_one_waits():
    later = threading.Event()

    def first() -> Iterator[int]:
        assert later.wait(60)
        yield 1

    def second() -> Iterator[int]:
        later.set()
        yield 2

    assert list(Ahead([first, second], 2, 1)) == [1, 2]


def test_an_error_of_any_job_is_raised_at_once_and_ends_the_others():
    ended = threading.Event()

    def endless() -> Iterator[Sized]:
        try:
            yield from (Sized(at, 10) for at in itertools.count())
        finally:
            ended.set()

    def failing() -> Iterator[Sized]:
        yield Sized(0, 10)
        raise OSError("the disk is gone")

    work = Ahead([endless, failing], 2, 100)
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in work:
            pass
    assert ended.wait(60)
    assert working() == 0
    assert list(work) == []


@pytest.mark.parametrize("end", ["close", "del", "block"])
def test_threads_end_with_the_reader(end):
    def endless() -> Iterator[Sized]:
        yield from (Sized(at, 1) for at in itertools.count())

    if end == "block":
        with ahead(endless, 5) as made:
            assert next(made).value == 0
    else:
        work = Ahead([endless] * 4, 3, 5)
        assert next(work).value == 0
        if end == "close":
            work.close()
        else:
            del work
            gc.collect()
    assert working() == 0


def test_a_process_ends_though_items_are_left():
    code = (
        "import itertools\n"
        "from flowloom.transforms.io.ahead import Ahead\n"
        "class Item:\n    nbytes = 1\n"
        "work = Ahead([lambda: (Item() for _ in itertools.count())] * 2, 2, 3)\n"
        "next(work)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
