"""Capture ranges: stretches of one large capture that begin and end at records, so that many workers can read it.

There are three steps. A stretch of bytes is *synchronised*: its first record is searched by a chain of plausible
headers, which may be wrong, because payloads can hold anything. It is *indexed*: its headers are read up to the first
record at or behind its end. Stretches are *chained*: the first begins at the capture's first record; each other one is
right, by induction, if it begins exactly where the one before it ends, and is indexed again from there if not. A
hostile payload can therefore cost a second reading, but never a wrong record.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import IO, Any, cast

import numba
import numpy as np
import numpy.typing as npt

from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.transforms.captures.capture_digest import LeafHasher
from flowloom.transforms.captures.capture_files import CaptureError, FileStamp
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.captures.pcap import PcapScanner
from flowloom.transforms.captures.pcapng import MAX_BLOCK_BYTES
from flowloom.transforms.captures.record_clock import timed_records, times_behind
from flowloom.transforms.captures.records import MAX_RECORD_BYTES, RecordScanner, u32
from flowloom.transforms.io.streams import Stream

CHAIN = 24
"""Plausible headers in a row that count as records; fewer suffice at the end of the capture."""


@dataclasses.dataclass(frozen=True)
class CaptureRange:
    """Part of one capture for one worker.

    Attributes:
      uri: the capture.
      start: byte of its first record; 0 for a capture from its beginning.
      stop: byte at or behind which no further record belongs to it; None = the capture's end.
      preamble: the bytes that a scanner needs to begin at `start`; empty for a capture from its beginning.
      latest_ns: time of the record before `start`.
      first_record: position of its first record in the capture.
      clock_ns: the latest time in it that counts; None if unknown, or if none does.
      origin: number of the capture, from its fingerprint; part of the ids of flows that begin in it.
      stamp: the stamp of the file when it was planned; None for a URL, or if any will do.
      limits: how many bytes a compressed capture may become.
      stream: the open stream that is read instead of a file.
    """

    uri: str
    start: int = 0
    stop: int | None = None
    preamble: bytes = b""
    latest_ns: int = 0
    first_record: int = 0
    clock_ns: int | None = None
    origin: int = 0
    stamp: FileStamp | None = None
    limits: CaptureLimits = NO_LIMITS
    stream: Stream | None = None

    def open(self, *, digest: bool = False) -> tuple[CaptureBytes, RecordScanner]:
        """Opens the range for reading.

        Args:
          digest: whether `CaptureBytes.leaves` are wanted.

        Raises:
          CaptureError: if the file cannot be opened or is no capture.
        """
        hasher = LeafHasher(self.start, self.stop) if digest else None
        file = cast("IO[bytes] | None", self.stream)
        capture = CaptureBytes(self.uri, self.start, file, stamp=self.stamp, hasher=hasher, limits=self.limits)
        try:
            scanner = open_records(capture, self.preamble, self.latest_ns)
        except BaseException:
            capture.close()
            raise
        if self.stop is not None:
            scanner.bound = self.stop
        return capture, scanner


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Bytes `begin` to `end` of a capture, and the findings of reading the headers in them.

    Attributes:
      start, stop: bytes of its first record, and of the first record at or behind `end`; None if there is none.
      before, after: preambles at `start` and `stop`; the same if the stretch has no description.
      records, clock_ns, latest_ns: their number, the latest of their times that counts, and the last.
    """

    uri: str
    begin: int
    end: int
    start: int | None
    stop: int | None
    before: bytes
    after: bytes
    records: int
    clock_ns: int | None
    latest_ns: int


def stretches(uri: str, stretch_bytes: int) -> list[Stretch]:
    """Returns the stretches of a capture before indexing; none if it is compressed, unreadable or no capture."""
    try:
        capture = CaptureBytes(uri)
    except CaptureError:
        return []
    try:
        scanner = open_records(capture)
        scanner.scan()
    except CaptureError:
        return []
    finally:
        capture.close()
    if capture.compression != "none" or not scanner.splittable:
        return []
    edges = [*range(0, capture.size, stretch_bytes), capture.size]
    return [
        Stretch(uri, begin, end, None if begin else 0, None, scanner.preamble if begin else b"", b"", 0, None, 0)
        for begin, end in itertools.pairwise(edges)
    ]


def index_stretch(stretch: Stretch, idle_ns: int) -> Stretch:
    """Finds a stretch's first record unless it is known, and reads its headers to its end or to damage.

    Args:
      idle_ns: the idle timeout, by which the clock judges times.
    """
    start = stretch.start
    if start is None:
        start = _synchronise(stretch)
        if start is None or start >= stretch.end:
            return stretch
    found = dataclasses.replace(stretch, start=start)
    known = CaptureRange(stretch.uri, start, stretch.end, stretch.before, stretch.latest_ns)
    records, clock = 0, None
    try:
        capture, scanner = known.open()
    except CaptureError:
        return found
    ends: dict[str, Any] = {}

    def note_end() -> None:
        stop = capture.offset if capture.offset < capture.size else None
        ends.update(stop=stop, after=scanner.preamble, latest_ns=scanner.latest_ns)

    def times_after() -> npt.NDArray[np.int64]:
        note_end()
        return times_behind(scanner)

    try:
        for chunk in timed_records(scanner, idle_ns, times_after):
            records += len(chunk)
            if len(times_ns := chunk.counted_ns()):
                latest = int(times_ns.max())
                clock = latest if clock is None else max(clock, latest)
        if not ends:
            note_end()
    except CaptureError:
        ends = {"stop": None, "after": scanner.preamble, "latest_ns": scanner.latest_ns}
    finally:
        capture.close()
    return dataclasses.replace(found, records=records, clock_ns=clock, **ends)


def chain_stretches(uri: str, indexed: Iterable[Stretch], idle_ns: int) -> list[CaptureRange]:
    """Returns the ranges of one capture from its indexed stretches, in any order; indexes wrong ones again.

    The last range ends with the capture, or at the damage that ends its reading. A capture without stretches is one
    range. `idle_ns` is that of `index_stretch`.
    """
    ranges: list[CaptureRange] = []
    start: int | None = 0
    preamble, latest_ns, first_record = b"", 0, 0
    for stretch in sorted(indexed, key=lambda stretch: stretch.begin):
        if start is None:
            break
        if start >= stretch.end and stretch.begin > 0:
            continue
        if stretch.start != start or stretch.before != preamble:
            stretch = index_stretch(
                dataclasses.replace(stretch, start=start, before=preamble, stop=None, latest_ns=latest_ns), idle_ns
            )
        ranges.append(
            CaptureRange(stretch.uri, start, stretch.stop, preamble, latest_ns, first_record, stretch.clock_ns)
        )
        start, preamble = stretch.stop, stretch.after
        latest_ns = stretch.latest_ns or latest_ns  # simple packet blocks have no time
        first_record += stretch.records
    return ranges or [CaptureRange(uri)]


def _synchronise(stretch: Stretch) -> int | None:
    """Returns the byte of the first chain of plausible headers in a stretch, or None."""
    capture = CaptureBytes(stretch.uri, stretch.begin)
    try:
        scanner = open_records(capture, stretch.before)
        while len(capture.window) < 2 * MAX_RECORD_BYTES and not capture.complete:
            capture.grow()
        big_endian = scanner.big_endian
        if isinstance(scanner, PcapScanner):
            at = _find_pcap(capture.window, big_endian, 1_000_000_000 // scanner.tick_ns, capture.complete)
        else:
            at = _find_pcapng(capture.window, -stretch.begin % 4, big_endian, capture.complete)
    except CaptureError:
        return None
    finally:
        capture.close()
    return None if at < 0 else stretch.begin + int(at)


@numba.njit(nogil=True, cache=True)
def _find_pcap(window, big_endian, ticks_per_s, complete):
    """Returns the position of the first chain of plausible record headers, or -1."""
    limit = len(window)
    for candidate in range(min(limit - 16, 2 * MAX_RECORD_BYTES)):
        at = candidate
        seconds = u32(window, at, big_endian)
        count = 0
        while count < CHAIN and at + 16 <= limit:
            length = u32(window, at + 8, big_endian)
            if (
                length == 0
                or length > MAX_RECORD_BYTES
                or u32(window, at + 12, big_endian) < length
                or u32(window, at + 12, big_endian) > MAX_RECORD_BYTES
                or u32(window, at + 4, big_endian) >= ticks_per_s
                or abs(u32(window, at, big_endian) - seconds) > 86_400
            ):
                break
            at += 16 + length
            count += 1
        if count == CHAIN or (count > 0 and (at == limit if complete else at + 16 > limit)):
            return candidate
    return -1


@numba.njit(nogil=True, cache=True)
def _find_pcapng(window, first, big_endian, complete):
    """Returns the position of the first chain of whole blocks, from `first` in steps of four, or -1."""
    limit = len(window)
    for candidate in range(first, min(limit - 12, 2 * MAX_RECORD_BYTES), 4):
        at = candidate
        count = 0
        while count < CHAIN and at + 12 <= limit:
            length = u32(window, at + 4, big_endian)
            if (
                u32(window, at, big_endian) > 0x0000FFFF
                or length < 12
                or length % 4
                or length > MAX_BLOCK_BYTES
                or at + length > limit
                or u32(window, at + length - 4, big_endian) != length
            ):
                break
            at += length
            count += 1
        if count == CHAIN or (count > 0 and (at == limit if complete else at + 12 > limit)):
            return candidate
    return -1
