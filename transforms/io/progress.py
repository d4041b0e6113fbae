"""Running counts of a job, for progress bars only: workers in the same process add, the caller looks.

Beam's metrics arrive when a pipeline ends. In other processes nobody looks, and nothing depends on these counts.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

PERIOD_S = 0.5


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


_TALLIES: dict[str, Tally] = {}


def tally(job: str) -> Tally:
    """Returns the tally of a job in this process, which begins at zero."""
    return _TALLIES.setdefault(job, Tally())


@contextlib.contextmanager
def watched(job: str, progress: Callable[[Tally], None] | None) -> Iterator[None]:
    """Calls `progress` with a job's tally every `PERIOD_S` seconds from another thread, and at the end of the block."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            progress(tally(job))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress(tally(job))
        del _TALLIES[job]
