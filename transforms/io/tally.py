"""Running counts of a job, for its progress only: workers in the same process add, and the caller reads.

Beam's metrics arrive when a pipeline ends. In other processes nobody reads the counts, and nothing depends on them.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

from flowloom.schemas.progress import Progress

PERIOD_S = 0.5
READ_METERED_WRITTEN = "{captures:,} captures read, {flows:,} flows metered, {shards:,} shards written"
"""Text of the progress of a job that reads captures and writes shards."""


@dataclasses.dataclass
class Tally:
    """Numbers of captures read, flows metered and shards written so far."""

    captures: int = 0
    flows: int = 0
    shards: int = 0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def add(self, captures: int = 0, flows: int = 0, shards: int = 0) -> None:
        """Adds counts, from any thread."""
        with self._lock:
            self.captures += captures
            self.flows += flows
            self.shards += shards


_TALLIES: dict[str | None, Tally] = {}


def tally(job: str | None) -> Tally:
    """Returns the tally of a job in this process, which begins at zero."""
    return _TALLIES.setdefault(job, Tally())


def tally_progress(counts: Tally, text: str) -> Progress:
    """Returns the progress of a job of unknown length; `done` is the sum of all counts.

    Args:
      counts: the job's tally.
      text: with the names of counts in braces, such as `{flows:,} flows metered`.
    """
    captures, flows, shards = counts.captures, counts.flows, counts.shards
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
