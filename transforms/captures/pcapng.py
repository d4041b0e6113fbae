"""Scanner of pcapng files: any sections, interfaces, clocks and packet blocks (draft-ietf-opsawg-pcapng)."""

import dataclasses
import functools
import struct

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.records import (
    BAD,
    DESCRIBES,
    END,
    FULL,
    LONG,
    NO_TIME,
    SHORT,
    Records,
    cut_off,
    grew,
    u32,
)

MAX_BLOCK_BYTES = 1 << 24
"""Longest block that is read as a whole; blocks without a packet or description may be longer, and are passed over."""

SECTION_HEADER, _INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_OPTION_TSRESOL, _OPTION_TSOFFSET = 9, 14

_INTERFACE_ROW = np.dtype(
    [
        ("link_type", np.int32),
        ("resolution", np.uint8),  # if_tsresol
        ("snap_length", np.int64),
        ("offset_ns", np.uint64),  # if_tsoffset, modulo 2^64
        ("first_tick", np.uint64),  # of timestamps that `Records` can tell; none if it is behind the last
        ("last_tick", np.uint64),
    ],
    align=True,
)


class PcapngScanner:
    """Scanner of the records of a pcapng file, with the clock resolution and offset of each interface.

    Simple packet blocks carry no time; they get that of the record before them.
    """

    format = "pcapng"
    splittable = True

    def __init__(self, capture: CaptureBytes, preamble: bytes = b"", latest_ns: int = 0):
        self._capture = capture
        self.latest_ns = latest_ns
        self.bound = END
        self.big_endian = False
        self._described: list[bytes] = []
        self._rows = np.empty(8, _INTERFACE_ROW)
        self._count = 0
        at = 0
        while at < len(preamble):
            length = self._block_length(preamble[at : at + 12])
            self._read_description(preamble[at : at + length])
            at += length

    @property
    def preamble(self) -> bytes:
        """The section header and the interface descriptions so far."""
        return b"".join(self._described)

    def scan(self) -> Records:
        """Returns the next records, none at the end; see `RecordScanner`."""
        capture = self._capture
        records = Records.empty(capture.window)
        while True:
            window = capture.window
            count, consumed, stop, self.latest_ns = _scan_pcapng(
                window, self.bound - capture.offset, self.big_endian, self._rows[: self._count], self.latest_ns,
                records.start, records.captured, records.wire, records.time_ns, records.link_type,
            )  # fmt: skip
            if consumed:
                capture.advance(consumed)
            if count:
                return dataclasses.replace(records, window=window).first(count)
            if stop == BAD:
                raise CaptureError(
                    RejectReason.MALFORMED, capture.offset, "a block's lengths or interface contradict each other"
                )
            if stop == DESCRIBES:
                self._describe()
            elif stop == LONG:
                self._pass_over()
            elif not consumed and not grew(capture, self.bound):
                return records.first(0)

    def _describe(self) -> None:
        """Reads the section header or interface description at the window's start."""
        capture = self._capture
        length = self._block_length(capture.window[:12].tobytes())
        while len(capture.window) < length and not capture.complete:
            capture.grow()
        if len(capture.window) < length:
            raise cut_off(capture)
        self._read_description(capture.window[:length].tobytes())
        capture.advance(length)

    def _pass_over(self) -> None:
        """Moves on behind the long block at the window's start, which need not fit the window."""
        capture, start = self._capture, self._capture.offset
        (length,) = struct.unpack_from(self._order + "I", capture.window[:12].tobytes(), 4)
        whole = capture.skip(length - 4)
        while whole and len(capture.window) < 4 and not capture.complete:
            capture.grow()
        if not whole or len(capture.window) < 4:
            raise capture.damage or cut_off(capture, start)
        if struct.unpack(self._order + "I", capture.window[:4].tobytes())[0] != length:
            raise CaptureError(RejectReason.MALFORMED, start, "a block's two lengths differ")
        capture.advance(4)

    def _block_length(self, head: bytes) -> int:
        """Returns the length of a block from its first bytes; a section header also sets the byte order."""
        if int.from_bytes(head[:4], "little") == SECTION_HEADER:
            if head[8:12] not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                raise self._malformed("a section header has no byte-order magic")
            self.big_endian = head[8:12] == b"\x1a\x2b\x3c\x4d"
        (length,) = struct.unpack_from(self._order + "I", head, 4)
        if length < 12 or length % 4 or length > MAX_BLOCK_BYTES:
            raise self._malformed(f"a block claims {length} bytes")
        return length

    def _read_description(self, block: bytes) -> None:
        """Reads a whole section header or interface description."""
        kind, length = struct.unpack_from(self._order + "II", block)
        if struct.unpack_from(self._order + "I", block, length - 4)[0] != length:
            raise self._malformed("a block's two lengths differ")
        if kind == _INTERFACE:
            if length < 20:
                raise self._malformed("an interface description is too short")
            if self._count == len(self._rows):
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._rows[self._count] = _interface(block, self._order)
            self._count += 1
            self._described.append(block)
        else:
            self._count = 0
            self._described = [block]

    @property
    def _order(self) -> str:
        return ">" if self.big_endian else "<"

    def _malformed(self, detail: str) -> CaptureError:
        return CaptureError(RejectReason.MALFORMED, self._capture.offset, detail)


def _interface(block: bytes, order: str) -> tuple[int, ...]:
    """Returns the fields of an `_INTERFACE_ROW` from an interface description block."""
    link_type, _, snap_length = struct.unpack_from(order + "HHI", block, 8)
    resolution, offset_s = 6, 0
    at, end = 16, len(block) - 4
    while at + 4 <= end:
        code, length = struct.unpack_from(order + "HH", block, at)
        value = block[at + 4 : min(at + 4 + length, end)]
        if code == 0:
            break
        if code == _OPTION_TSRESOL and len(value) == length == 1:
            resolution = value[0]
        elif code == _OPTION_TSOFFSET and len(value) == length == 8:
            (offset_s,) = struct.unpack(order + "q", value)
        at += 4 + (length + 3) // 4 * 4
    offset_ns = offset_s * 1_000_000_000
    first, last = _tick_range(resolution, offset_ns)
    return link_type, resolution, snap_length, offset_ns % (1 << 64), first, last


@functools.lru_cache(maxsize=1024)
def _tick_range(resolution: int, offset_ns: int) -> tuple[int, int]:
    """Returns the first and the last timestamp of an interface that is a time in int64 nanoseconds, from 1970 on.

    If there is none the first is behind the last. Exact, as Python's integers are: ticks count up to 2^64, of up to
    a second each, from offsets of up to 2^63 seconds.
    """
    ticks_per_s = (2 if resolution & 0x80 else 10) ** (resolution & 0x7F)
    first = -(offset_ns * ticks_per_s // 1_000_000_000)  # the least t with t * 10^9 / ticks_per_s >= -offset_ns
    last = -((offset_ns - END) * ticks_per_s // 1_000_000_000) - 1  # the greatest that is below END
    first, last = max(first, 0), min(last, (1 << 64) - 1)
    return (first, last) if first <= last else (1, 0)


@numba.njit(nogil=True, cache=True)
def _nanoseconds(ticks, resolution):
    """Returns a timestamp in ns modulo 2^64.

    Its unit is 10^-n s, or 2^-n s if the resolution's top bit is set.
    """
    power = np.uint64(resolution & 0x7F)
    if resolution & 0x80:
        if power > 63:  # the highest word of a 128-bit product
            billion = np.uint64(1_000_000_000)
            upper = (ticks >> np.uint64(32)) * billion
            lower = (ticks & np.uint64(0xFFFFFFFF)) * billion
            return ((upper + (lower >> np.uint64(32))) >> np.uint64(32)) >> (power - np.uint64(64))
        seconds = ticks >> power
        rest = ticks & ((np.uint64(1) << power) - np.uint64(1))
        billion = np.uint64(1_000_000_000)
        if power <= 32:
            fraction = (rest * billion) >> power
        else:  # 128-bit product: the low word only matters through its carry
            upper = (rest >> np.uint64(32)) * billion
            lower = (rest & np.uint64(0xFFFFFFFF)) * billion
            fraction = (upper + (lower >> np.uint64(32))) >> (power - np.uint64(32))
        return seconds * billion + fraction
    scale = np.uint64(1)
    if power <= 9:
        for _ in range(9 - np.int64(power)):
            scale *= np.uint64(10)
        return ticks * scale
    if power > 28:  # 10^19 ticks a nanosecond: less than one
        return np.uint64(0)
    for _ in range(np.int64(power) - 9):
        scale *= np.uint64(10)
    return ticks // scale


@numba.njit(nogil=True, cache=True)
def _scan_pcapng(window, bound, big_endian, interfaces, latest_ns, start, captured, wire, time_ns, link_type):
    """Locates packet blocks until the columns are full or a block needs Python; like `_scan_pcap`.

    The fourth value returned is the last time that a record had.
    """
    at = 0
    count = 0
    limit = len(window)
    while count < len(start) and at < bound:
        if at + 12 > limit:
            return count, at, SHORT, latest_ns
        kind = u32(window, at, big_endian)
        if kind in (SECTION_HEADER, _INTERFACE):
            return count, at, DESCRIBES, latest_ns
        length = u32(window, at + 4, big_endian)
        if length < 12 or length % 4:
            return count, at, BAD, latest_ns
        if length > MAX_BLOCK_BYTES:
            packet = kind in (_ENHANCED_PACKET, _OBSOLETE_PACKET, _SIMPLE_PACKET)
            return count, at, BAD if packet else LONG, latest_ns
        if at + length > limit:
            return count, at, SHORT, latest_ns
        if u32(window, at + length - 4, big_endian) != length:
            return count, at, BAD, latest_ns
        if kind in (_ENHANCED_PACKET, _OBSOLETE_PACKET):
            if length < 32:
                return count, at, BAD, latest_ns
            interface = u32(window, at + 8, big_endian)
            if kind == _OBSOLETE_PACKET:  # a 16-bit interface, then a 16-bit drop count
                interface = interface >> 16 if big_endian else interface & 0xFFFF
            size = u32(window, at + 20, big_endian)
            if interface >= len(interfaces) or size > length - 32:
                return count, at, BAD, latest_ns
            start[count] = at + 28
            captured[count] = size
            wire[count] = u32(window, at + 24, big_endian)
            known = interfaces[interface]
            high, low = u32(window, at + 12, big_endian), u32(window, at + 16, big_endian)
            ticks = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
            if known.first_tick <= ticks <= known.last_tick:  # so that the sum, modulo 2^64, is the time
                latest_ns = np.int64(known.offset_ns + _nanoseconds(ticks, known.resolution))
                time_ns[count] = latest_ns
            else:
                time_ns[count] = NO_TIME
            link_type[count] = known.link_type
            count += 1
        elif kind == _SIMPLE_PACKET:
            if length < 16 or len(interfaces) == 0:
                return count, at, BAD, latest_ns
            original = u32(window, at + 8, big_endian)
            size = min(original, length - 16)
            if interfaces[0].snap_length > 0:
                size = min(size, interfaces[0].snap_length)
            start[count] = at + 12
            captured[count] = size
            wire[count] = original
            time_ns[count] = latest_ns
            link_type[count] = interfaces[0].link_type
            count += 1
        at += length
    return count, at, FULL, latest_ns
