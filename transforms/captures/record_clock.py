"""Times of records that count for the clock: one that the records behind it contradict does not.

The clock of a capture group is the latest time so far, and flows end by it. A single wild time, as a device without a
clock or a damaged record writes it, would stop it for good. So a record's time does not count if there are times among
the next `LOOK_AHEAD` records of its capture, and all of them lie more than the idle timeout before it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numba
import numpy as np
import numpy.typing as npt

from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.records import END, Records, RecordScanner

LOOK_AHEAD = 16
"""Records by which a time is confirmed."""


def timed_records(
    scanner: RecordScanner, idle_ns: int, following: Callable[[], npt.NDArray[np.int64]] | None = None
) -> Iterator[Records]:
    """Yields the records of a scanner up to its bound, each chunk with the `jumps` of its times.

    Args:
      idle_ns: the idle timeout.
      following: returns the times behind the bound; None takes `times_behind`.

    Raises:
      CaptureError: at damage, after all records before it.
    """
    held: list[Records] = []  # at most 16 records, copied, whose next records are not known yet
    damage: CaptureError | None = None
    while True:
        try:
            records = scanner.scan()
        except CaptureError as error:
            damage = error
            break
        if not len(records):
            break
        ready = [*held, records]
        held = []
        left = max(len(records) - LOOK_AHEAD, 0)
        while len(ready) > 1 and sum(map(len, ready[1:])) >= LOOK_AHEAD:
            yield _with_jumps(ready, idle_ns)
            ready = ready[1:]
        if len(ready) == 1 and left:
            yield _with_jumps([records.part(0, left), records.part(left, len(records))], idle_ns)
            held = [records.part(left, len(records)).copied()]
        else:
            held = [*ready[:-1], records.copied()]
    behind = np.empty(0, np.int64)
    if held and damage is None and scanner.bound != END:
        behind = (following or (lambda: times_behind(scanner)))()
    for at in range(len(held)):
        yield _with_jumps(held[at:], idle_ns, behind)
    if damage is not None:
        raise damage


def times_behind(scanner: RecordScanner) -> npt.NDArray[np.int64]:
    """Returns the times of the first `LOOK_AHEAD` records behind a scanner's bound, or of those before damage.

    The scanner is at its end afterwards.
    """
    scanner.bound = END
    times: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    try:
        while sum(map(len, times)) < LOOK_AHEAD and len(records := scanner.scan()):
            times.append(records.time_ns[:LOOK_AHEAD].copy())
    except CaptureError:  # of the range that reads there
        pass
    return np.concatenate(times)[:LOOK_AHEAD]


def steps_back(times_ns: npt.NDArray[np.int64], before_ns: int, idle_ns: int) -> int:
    """Returns how many times lie more than the idle timeout before the time in front of them.

    Args:
      times_ns: int64 times in the order of the capture.
      before_ns: the time in front of the first; 0 if there is none.
    """
    if not len(times_ns):
        return 0
    return int(before_ns - idle_ns > times_ns[0]) + int(np.count_nonzero(times_ns[:-1] - idle_ns > times_ns[1:]))


def _with_jumps(chunks: Sequence[Records], idle_ns: int, behind: npt.NDArray[np.int64] | None = None) -> Records:
    """Returns the first chunk with its jumps, by the times of the chunks and of the records behind them."""
    first, *others = chunks
    times = [chunk.time_ns[:LOOK_AHEAD] for chunk in others[:LOOK_AHEAD]]
    following = np.concatenate([*times, np.empty(0, np.int64) if behind is None else behind])
    return dataclasses.replace(first, jumps=_jumps(first.time_ns, following[:LOOK_AHEAD], idle_ns))


@numba.njit(nogil=True, cache=True)
def _jumps(times, following, idle_ns):
    """Returns the positions of the times that do not count."""
    found = np.empty(0, np.int64)
    count = 0
    known = len(times) + len(following)
    for at in range(len(times)):
        earliest = times[at] - idle_ns
        doubtful = False
        for later in range(at + 1, min(at + 1 + LOOK_AHEAD, known)):
            time = times[later] if later < len(times) else following[later - len(times)]
            if time >= 0:
                doubtful = time < earliest
                if not doubtful:
                    break
        if doubtful and times[at] >= 0:
            if count == len(found):
                found = np.concatenate((found, np.empty(count + 8, np.int64)))
            found[count] = at
            count += 1
    return found[:count]
