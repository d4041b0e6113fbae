"""Running counts of a job, for its progress only: workers in the same process add, and the caller reads.

Beam's metrics arrive when a pipeline ends. In other processes nobody reads the counts, and nothing depends on them.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from flowloom.schemas.progress import Progress

PERIOD_S = 0.5
READ_METERED_WRITTEN = "{captures:,} captures read, {flows:,} flows metered, {shards:,} shards written"
"""Text of the progress of a job that reads captures and writes shards."""


OF_ALL = "{captures:,} of {all:,} captures, {read:,.1f} of {whole:,.1f} {unit} read, {flows:,} flows, {shards:,} shards"
"""The same of a job whose captures are known, short enough for a terminal."""
_UNITS = {"GB": 1e9, "MB": 1e6}


@dataclasses.dataclass
class Tally:
    """Numbers of captures read, flows metered and shards written so far.

    Attributes:
      read_bytes: bytes of captures read, of those in `sizes`.
      sizes: bytes of all captures of the job by uri; empty if they are not known.
    """

    captures: int = 0
    flows: int = 0
    shards: int = 0
    read_bytes: int = 0
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def add(self, captures: int = 0, flows: int = 0, shards: int = 0) -> None:
        """Adds counts, from any thread."""
        with self._lock:
            self.captures += captures
            self.flows += flows
            self.shards += shards

    def read(self, ranges: Iterable[tuple[str, int, int | None]]) -> None:
        """Adds the bytes of ranges of captures (uri, first byte, end or None), from any thread."""
        sizes = ((self.sizes.get(uri, 0) if stop is None else stop) - start for uri, start, stop in ranges)
        with self._lock:
            self.read_bytes += sum(max(size, 0) for size in sizes) if self.sizes else 0


_TALLIES: dict[str | None, Tally] = {}


def tally(job: str | None) -> Tally:
    """Returns the tally of a job in this process, which begins at zero."""
    return _TALLIES.setdefault(job, Tally())


def tally_progress(counts: Tally, text: str) -> Progress:
    """Returns the progress of a job; `done` is the bytes read if all captures are known, else all counts.

    Args:
      counts: the job's tally.
      text: with the names of counts in braces, such as `{flows:,} flows metered`.
    """
    captures, flows, shards = counts.captures, counts.flows, counts.shards
    if counts.sizes:
        whole = sum(counts.sizes.values())
        read = min(counts.read_bytes, whole)
        unit, size = next(((unit, size) for unit, size in _UNITS.items() if whole >= size), ("kB", 1e3))
        sizes = {"read": read / size, "whole": whole / size, "unit": unit, "all": len(counts.sizes)}
        return Progress(OF_ALL.format(captures=captures, flows=flows, shards=shards, **sizes), read, whole)
    return Progress(text.format(captures=captures, flows=flows, shards=shards), captures + flows + shards)


@contextlib.contextmanager
def watched(job: str | None, progress: Callable[[Progress], None], text: str = READ_METERED_WRITTEN) -> Iterator[None]:
    """Calls `progress` by a job's tally every `PERIOD_S` seconds from another thread, and at the end of the block.

    Args:
      text: of the progress, as in `tally_progress`.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            progress(tally_progress(tally(job), text))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress(tally_progress(tally(job), text))
        del _TALLIES[job]
