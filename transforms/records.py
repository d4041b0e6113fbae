"""Records of a capture: where each lies in the window, how long it is and when it was seen; pcap and pcapng.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Times are int64 nanoseconds since the epoch.
"""

import dataclasses
import struct
from typing import Protocol, Self

import numba
import numpy as np

from flowloom.schemas.accounting import RejectReason
from flowloom.transforms.captures import CaptureBytes, CaptureError

CHUNK_RECORDS = 1 << 15
"""Records located at a time: their columns fit a level-2 cache (docs/performance.md)."""

MAX_RECORD_BYTES = 262_144
"""Longest captured length that libpcap accepts."""

MAX_BLOCK_BYTES = 1 << 24
"""Longest pcapng block that Wireshark accepts."""

# what a scan kernel says of the place where it stopped
_FULL, _SHORT, _BAD, _PYTHON = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Records:
    """Located records of one window; row i is the i-th record.

    Attributes:
      window: uint8 bytes of the capture.
      start, captured, wire: int64 position of the frame in the window, its captured and its original length in bytes.
      time_ns: int64.
      link_type: int32 LINKTYPE_ number.
    """

    window: np.ndarray
    start: np.ndarray
    captured: np.ndarray
    wire: np.ndarray
    time_ns: np.ndarray
    link_type: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def empty(cls, window: np.ndarray) -> Self:
        """Return room for a chunk of records, uninitialised."""
        start, captured, wire, time_ns = (np.empty(CHUNK_RECORDS, np.int64) for _ in range(4))
        return cls(window, start, captured, wire, time_ns, link_type=np.empty(CHUNK_RECORDS, np.int32))

    def first(self, count: int) -> Self:
        """Return the first `count` records."""
        columns = (self.start, self.captured, self.wire, self.time_ns, self.link_type)
        return type(self)(self.window, *(values[:count] for values in columns))


class RecordScanner(Protocol):
    """Locates the records of a capture chunk by chunk."""

    format: str

    def scan(self) -> Records:
        """Return the next records, none at the end.

        Raises:
          CaptureError: where the capture is damaged; all records before that have been returned.
        """


def open_records(capture: CaptureBytes) -> RecordScanner:
    """Return the scanner for a capture's content.

    Raises:
      CaptureError: `not-a-capture`, if the content starts like no known format.
    """
    while len(capture.window) < _PCAP_HEADER and not capture.complete:
        capture.grow()
    magic = capture.window[:4].tobytes()
    if magic in _PCAP_MAGIC:
        return PcapScanner(capture)
    if magic == _SECTION_HEADER.to_bytes(4, "little"):
        return PcapngScanner(capture)
    if capture.damage and not len(capture.window):
        raise capture.damage
    raise CaptureError(
        RejectReason.NOT_A_CAPTURE,
        0,
        "expected pcap or pcapng (plain or inside gz, zst, xz, bz2), the content starts with "
        f"{capture.window[:8].tobytes()!r}; is this a capture file?",
    )


# pcap --------------------------------------------------------------------------------------------

_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAP_HEADER = 24


class PcapScanner:
    """Records of a pcap file: microsecond and nanosecond times, either byte order."""

    def __init__(self, capture: CaptureBytes):
        self._capture = capture
        header = capture.window[:_PCAP_HEADER].tobytes()
        order, self._tick_ns = _PCAP_MAGIC[header[:4]]
        self.format = "pcap-us" if self._tick_ns == 1_000 else "pcap-ns"
        if len(header) < _PCAP_HEADER:
            raise CaptureError(
                RejectReason.CUT_OFF, 0, f"the file ends inside its pcap header: {len(header)} of {_PCAP_HEADER} bytes"
            )
        self._big_endian = order == ">"
        self._link_type = struct.unpack(order + "I", header[20:24])[0] & 0xFFFF  # the high bits tell of a checksum
        capture.advance(_PCAP_HEADER)

    def scan(self) -> Records:
        """Return the next records, none at the end; see `RecordScanner`."""
        capture = self._capture
        records = Records.empty(capture.window)
        records.link_type[:] = self._link_type
        count, consumed, stop = _scan_pcap(
            records.window, self._big_endian, self._tick_ns,
            records.start, records.captured, records.wire, records.time_ns,
        )  # fmt: skip
        if count:
            capture.advance(consumed)
            return records.first(count)
        if stop == _BAD:
            raise CaptureError(
                RejectReason.MALFORMED,
                capture.offset,
                f"a record header claims more than {MAX_RECORD_BYTES} captured bytes; the file is damaged from here on",
            )
        return _more(capture, self)


@numba.njit(nogil=True, cache=True)
def _u32(buffer, at, big_endian):
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


@numba.njit(nogil=True, cache=True)
def _scan_pcap(window, big_endian, tick_ns, start, captured, wire, time_ns):
    """Locate records until the columns are full; return (records, bytes consumed, where it stopped)."""
    at = 0
    count = 0
    limit = len(window)
    while count < len(start):
        if at + 16 > limit:
            return count, at, _SHORT
        length = _u32(window, at + 8, big_endian)
        if length > MAX_RECORD_BYTES:
            return count, at, _BAD
        if at + 16 + length > limit:
            return count, at, _SHORT
        start[count] = at + 16
        captured[count] = length
        wire[count] = _u32(window, at + 12, big_endian)
        time_ns[count] = _u32(window, at, big_endian) * 1_000_000_000 + _u32(window, at + 4, big_endian) * tick_ns
        at += 16 + length
        count += 1
    return count, at, _FULL


# pcapng ------------------------------------------------------------------------------------------

_SECTION_HEADER, _INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_OPTION_TSRESOL, _OPTION_TSOFFSET = 9, 14


class PcapngScanner:
    """Records of a pcapng file: any number of sections and interfaces, each with its own clock resolution and offset.

    Simple packet blocks carry no time; they get that of the record before them.
    """

    format = "pcapng"

    def __init__(self, capture: CaptureBytes):
        self._capture = capture
        self._big_endian = False
        self._interfaces = np.empty((0, 4), np.int64)  # link type, snap length, if_tsresol, if_tsoffset in ns
        self._latest_ns = 0

    def scan(self) -> Records:
        """Return the next records, none at the end; see `RecordScanner`."""
        capture = self._capture
        while True:
            records = Records.empty(capture.window)
            count, consumed, stop = _scan_pcapng(
                records.window, self._big_endian, self._interfaces, self._latest_ns,
                records.start, records.captured, records.wire, records.time_ns, records.link_type,
            )  # fmt: skip
            if consumed:
                capture.advance(consumed)
            if count:
                self._latest_ns = int(records.time_ns[count - 1])
                return records.first(count)
            if stop == _BAD:
                raise CaptureError(
                    RejectReason.MALFORMED, capture.offset, "a block's lengths or interface contradict each other"
                )
            if stop == _PYTHON:
                self._describe()
            elif not consumed:
                return _more(capture, self)

    def _describe(self) -> None:
        """Take in the section header or interface description at the window's start."""
        capture = self._capture
        head = capture.window[:12].tobytes()
        if int.from_bytes(head[:4], "little") == _SECTION_HEADER:
            magic = head[8:12]
            if magic not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                raise CaptureError(RejectReason.MALFORMED, capture.offset, "a section header has no byte-order magic")
            self._big_endian = magic == b"\x1a\x2b\x3c\x4d"
            self._interfaces = np.empty((0, 4), np.int64)
        order = ">" if self._big_endian else "<"
        (length,) = struct.unpack_from(order + "I", head, 4)
        if length < 12 or length % 4 or length > MAX_BLOCK_BYTES:
            raise CaptureError(RejectReason.MALFORMED, capture.offset, f"a block claims {length} bytes")
        while len(capture.window) < length and not capture.complete:
            capture.grow()
        if len(capture.window) < length:
            raise _cut_off(capture)
        block = capture.window[:length].tobytes()
        if struct.unpack_from(order + "I", block, length - 4)[0] != length:
            raise CaptureError(RejectReason.MALFORMED, capture.offset, "a block's two lengths differ")
        if struct.unpack_from(order + "I", block)[0] == _INTERFACE:
            if length < 20:
                raise CaptureError(RejectReason.MALFORMED, capture.offset, "an interface description is too short")
            self._interfaces = np.vstack([self._interfaces, _interface(block, order)])
        capture.advance(length)


def _interface(block: bytes, order: str) -> np.ndarray:
    """Return link type, snap length, if_tsresol and if_tsoffset (ns) of an interface description block."""
    link_type, _, snap_length = struct.unpack_from(order + "HHI", block, 8)
    resolution, offset_s = 6, 0
    at = 16
    while at + 4 <= len(block) - 4:
        code, length = struct.unpack_from(order + "HH", block, at)
        value = block[at + 4 : at + 4 + length]
        if code == 0:
            break
        if code == _OPTION_TSRESOL and len(value) == 1:
            resolution = value[0]
        elif code == _OPTION_TSOFFSET and len(value) == 8:
            (offset_s,) = struct.unpack(order + "q", value)
        at += 4 + (length + 3) // 4 * 4
    return np.array([[link_type, snap_length, resolution, offset_s * 1_000_000_000]], np.int64)


@numba.njit(nogil=True, cache=True)
def _nanoseconds(high, low, resolution):
    """Return a pcapng timestamp in ns: units of 10^-n s, or of 2^-n s where the resolution's top bit is set."""
    ticks = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    power = np.uint64(resolution & 0x7F)
    if resolution & 0x80:
        if power > 63:
            return np.int64(0)
        seconds = ticks >> power
        rest = ticks & ((np.uint64(1) << power) - np.uint64(1))
        billion = np.uint64(1_000_000_000)
        if power <= 32:
            fraction = (rest * billion) >> power
        else:  # 128-bit product: the low word only matters through its carry
            upper = (rest >> np.uint64(32)) * billion
            lower = (rest & np.uint64(0xFFFFFFFF)) * billion
            fraction = (upper + (lower >> np.uint64(32))) >> (power - np.uint64(32))
        return np.int64(seconds * billion + fraction)
    scale = np.uint64(1)
    if power <= 9:
        for _ in range(9 - np.int64(power)):
            scale *= np.uint64(10)
        return np.int64(ticks * scale)
    if power > 28:  # 10^19 ticks a nanosecond: less than one
        return np.int64(0)
    for _ in range(np.int64(power) - 9):
        scale *= np.uint64(10)
    return np.int64(ticks // scale)


@numba.njit(nogil=True, cache=True)
def _scan_pcapng(window, big_endian, interfaces, latest_ns, start, captured, wire, time_ns, link_type):
    """Locate packet blocks until the columns are full or a block needs Python; see `_scan_pcap`."""
    at = 0
    count = 0
    limit = len(window)
    while count < len(start):
        if at + 12 > limit:
            return count, at, _SHORT
        kind = _u32(window, at, big_endian)
        if kind in (_SECTION_HEADER, _INTERFACE):
            return count, at, _PYTHON
        length = _u32(window, at + 4, big_endian)
        if length < 12 or length % 4 or length > MAX_BLOCK_BYTES:
            return count, at, _BAD
        if at + length > limit:
            return count, at, _SHORT
        if _u32(window, at + length - 4, big_endian) != length:
            return count, at, _BAD
        if kind in (_ENHANCED_PACKET, _OBSOLETE_PACKET):
            if length < 32:
                return count, at, _BAD
            interface = _u32(window, at + 8, big_endian)
            if kind == _OBSOLETE_PACKET:  # a 16-bit interface, then a 16-bit drop count
                interface = interface >> 16 if big_endian else interface & 0xFFFF
            size = _u32(window, at + 20, big_endian)
            if interface >= len(interfaces) or size > length - 32:
                return count, at, _BAD
            start[count] = at + 28
            captured[count] = size
            wire[count] = _u32(window, at + 24, big_endian)
            latest_ns = interfaces[interface, 3] + _nanoseconds(
                _u32(window, at + 12, big_endian), _u32(window, at + 16, big_endian), interfaces[interface, 2]
            )
            time_ns[count] = latest_ns
            link_type[count] = interfaces[interface, 0]
            count += 1
        elif kind == _SIMPLE_PACKET:
            if length < 16 or len(interfaces) == 0:
                return count, at, _BAD
            original = _u32(window, at + 8, big_endian)
            size = min(original, length - 16)
            if interfaces[0, 1] > 0:
                size = min(size, interfaces[0, 1])
            start[count] = at + 12
            captured[count] = size
            wire[count] = original
            time_ns[count] = latest_ns
            link_type[count] = interfaces[0, 0]
            count += 1
        at += length
    return count, at, _FULL


# both --------------------------------------------------------------------------------------------


def _more(capture: CaptureBytes, scanner: RecordScanner) -> Records:
    """Go on with a larger window, or end: cleanly, at damage of the compression, or inside a record."""
    if not capture.complete:
        capture.grow()
        return scanner.scan()
    if capture.damage:
        raise capture.damage
    if len(capture.window):
        raise _cut_off(capture)
    return Records.empty(capture.window).first(0)


def _cut_off(capture: CaptureBytes) -> CaptureError:
    left = len(capture.window)
    return CaptureError(
        RejectReason.CUT_OFF,
        capture.offset,
        f"the capture ends inside a record ({left} bytes of it are left); all records before that were read",
    )


def first_time_ns(uri: str) -> int | None:
    """Return the time of a capture's first record in ns since the epoch, or None where it has none to read.

    Raises:
      CaptureError: if the file cannot be opened or is no capture.
    """
    capture = CaptureBytes(uri)
    try:
        records = open_records(capture).scan()
        return int(records.time_ns[0]) if len(records) else None
    finally:
        capture.close()
