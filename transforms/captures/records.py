"""Records of a capture: the position of each in the window, its length and its time.

Times are int64 nanoseconds since the epoch. None is negative, so that no difference of two of them overflows: a record
with a time out of range is located too, and has `NO_TIME`.
"""

import dataclasses
from typing import Protocol, Self

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes

CHUNK_RECORDS = 1 << 15
"""Records located at a time: their columns fit a level-2 cache (docs/performance.md)."""

MAX_RECORD_BYTES = 262_144
"""Longest captured length of a record that libpcap accepts."""

END = np.iinfo(np.int64).max
"""The bound of a scanner that reads to the end."""

NO_TIME = -1
"""Value for a time before 1970 or after the year 2262."""

NO_JUMPS = np.empty(0, np.int64)

# the place where a scan kernel stopped
FULL, SHORT, BAD, DESCRIBES, ZEROS, LONG = 0, 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class Records:
    """Columns of the located records of one window; row i is the i-th record.

    Attributes:
      window: uint8 bytes of the capture.
      start, captured, wire: int64 position of the frame in the window, its captured and its original length in bytes.
      time_ns: int64, `NO_TIME` where it is out of range.
      link_type: int32 LINKTYPE_ number.
      jumps: int64 positions, ascending, of the records whose time does not count for the clock.
    """

    window: np.ndarray
    start: np.ndarray
    captured: np.ndarray
    wire: np.ndarray
    time_ns: np.ndarray
    link_type: np.ndarray
    jumps: np.ndarray = dataclasses.field(default_factory=lambda: NO_JUMPS)

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def empty(cls, window: np.ndarray) -> Self:
        """Returns a chunk of records, uninitialised."""
        start, captured, wire, time_ns = (np.empty(CHUNK_RECORDS, np.int64) for _ in range(4))
        return cls(window, start, captured, wire, time_ns, link_type=np.empty(CHUNK_RECORDS, np.int32))

    def first(self, count: int) -> Self:
        """Returns the first `count` records."""
        return self.part(0, count)

    def part(self, start: int, stop: int) -> Self:
        """Returns the records from `start` to `stop`, without their jumps."""
        columns = (self.start, self.captured, self.wire, self.time_ns, self.link_type)
        return type(self)(self.window, *(values[start:stop] for values in columns))

    def copied(self) -> Self:
        """Returns the records in a window of their own, which stays when the capture's window moves on."""
        frames = [self.window[at : at + size] for at, size in zip(self.start, self.captured, strict=True)]
        start = np.cumsum(self.captured) - self.captured
        return dataclasses.replace(
            self,
            window=np.concatenate([*frames, np.empty(0, np.uint8)]),
            start=start,
            **{name: getattr(self, name).copy() for name in ("captured", "wire", "time_ns", "link_type")},
        )

    def times_ns(self) -> np.ndarray:
        """Returns the times of the records that have one, in their order."""
        return self.time_ns if self.time_ns.min(initial=0) >= 0 else self.time_ns[self.time_ns >= 0]

    def counted_ns(self) -> np.ndarray:
        """Returns the times that count for the clock, in their order."""
        if not len(self.jumps):
            return self.times_ns()
        times_ns = np.delete(self.time_ns, self.jumps)
        return times_ns[times_ns >= 0]


class RecordScanner(Protocol):
    """Scanner that locates the records of a capture chunk by chunk.

    Attributes:
      format: as the captures table names it.
      splittable: whether ranges of the capture can be read.
      latest_ns: time of the last record with a time before this place, else 0.
      big_endian: the byte order of its numbers.
      bound: byte of the capture at or behind which this scanner reads no further record.
    """

    format: str
    splittable: bool
    latest_ns: int
    big_endian: bool
    bound: int

    @property
    def preamble(self) -> bytes:
        """The bytes that another scanner needs to go on from here."""

    def scan(self) -> Records:
        """Returns the next records, none at the end.

        Raises:
          CaptureError: at damage, after all records before it were returned.
        """


@numba.njit(nogil=True, cache=True)
def u32(buffer, at, big_endian):
    """Returns the 32-bit number at a position as int64."""
    if big_endian:
        return (
            (np.int64(buffer[at]) << 24)
            | (np.int64(buffer[at + 1]) << 16)
            | (np.int64(buffer[at + 2]) << 8)
            | np.int64(buffer[at + 3])
        )
    return (
        np.int64(buffer[at])
        | (np.int64(buffer[at + 1]) << 8)
        | (np.int64(buffer[at + 2]) << 16)
        | (np.int64(buffer[at + 3]) << 24)
    )


def grew(capture: CaptureBytes, bound: int) -> bool:
    """Grows the window if its start is in front of the bound, and returns whether there may be more records.

    Raises:
      CaptureError: for damage or a truncated record.
    """
    if capture.offset >= bound:
        return False
    if not capture.complete:
        capture.grow()
        return True
    if capture.damage:
        raise capture.damage
    if len(capture.window):
        raise cut_off(capture)
    return False


def cut_off(capture: CaptureBytes, start: int | None = None) -> CaptureError:
    """Returns the error of a capture that ends inside a record, which begins at `start` or at the window's start."""
    start = capture.offset if start is None else start
    left = capture.offset + len(capture.window) - start
    return CaptureError(
        RejectReason.CUT_OFF,
        start,
        f"the capture ends inside a record ({left} bytes of it are left); all records before that were read",
    )
