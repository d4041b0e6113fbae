"""Scanner of snoop files, which Solaris writes: big-endian, microsecond times, padded records (RFC 1761)."""

import dataclasses
import struct

import numba

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.records import BAD, END, FULL, MAX_RECORD_BYTES, SHORT, Records, grew, u32

SNOOP_MAGIC = b"snoop\0\0\0"
SNOOP_HEADER = 16
_RECORD_HEADER = 24
_LONGEST_RECORD = 1 << 24

_LINK_TYPES = {0: 1, 2: 6, 4: 1, 8: 10}
"""LINKTYPE_ numbers of snoop's: IEEE 802.3, token ring, Ethernet, FDDI."""
_NO_LINK_TYPE = 0xFFFF


class SnoopScanner:
    """Scanner of the records of a snoop file."""

    format = "snoop"
    splittable = False
    big_endian = True

    def __init__(self, capture: CaptureBytes):
        self._capture = capture
        self.latest_ns = 0
        self.bound = END
        self.preamble = header = capture.window[:SNOOP_HEADER].tobytes()
        if len(header) < SNOOP_HEADER:
            raise CaptureError(
                RejectReason.CUT_OFF, 0, f"the file ends inside its snoop header: {len(header)} of {SNOOP_HEADER} bytes"
            )
        version, link = struct.unpack(">II", header[8:])
        if version != 2:
            raise CaptureError(RejectReason.NOT_A_CAPTURE, 0, f"the version of snoop must be 2, got {version}")
        self._link_type = _LINK_TYPES.get(link, _NO_LINK_TYPE)
        capture.advance(SNOOP_HEADER)

    def scan(self) -> Records:
        """Returns the next records, none at the end; see `RecordScanner`."""
        capture = self._capture
        records = Records.empty(capture.window)
        records.link_type[:] = self._link_type
        while True:
            window = capture.window
            count, consumed, stop = _scan_snoop(window, records.start, records.captured, records.wire, records.time_ns)
            if count:
                capture.advance(consumed)
                self.latest_ns = int(records.time_ns[count - 1])
                return dataclasses.replace(records, window=window).first(count)
            if stop == BAD:
                raise CaptureError(
                    RejectReason.MALFORMED, capture.offset, "the lengths of a record contradict each other"
                )  # fmt: skip
            if not grew(capture, self.bound):
                return records.first(0)


@numba.njit(nogil=True, cache=True)
def _scan_snoop(window, start, captured, wire, time_ns):
    """Locates records until the columns are full or the window ends; returns (records, bytes, reason to stop)."""
    at = 0
    count = 0
    limit = len(window)
    while count < len(start):
        if at + _RECORD_HEADER > limit:
            return count, at, SHORT
        length, whole = u32(window, at + 4, True), u32(window, at + 8, True)
        if length > MAX_RECORD_BYTES or whole > _LONGEST_RECORD or length + _RECORD_HEADER > whole:
            return count, at, BAD
        if at + whole > limit:
            return count, at, SHORT
        start[count] = at + _RECORD_HEADER
        captured[count] = length
        wire[count] = u32(window, at, True)
        time_ns[count] = u32(window, at + 16, True) * 1_000_000_000 + u32(window, at + 20, True) * 1_000
        at += whole
        count += 1
    return count, at, FULL
