"""Scanner of pcap files: microsecond and nanosecond times, either byte order (draft-ietf-opsawg-pcap).

A modified pcap, as Alexey Kuznetzov's libpcap wrote it, has eight more bytes in each record header. It has a magic of
its own, or the usual one: then the header behind the first record tells.
"""

import dataclasses
import struct
from collections.abc import Callable

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.records import BAD, END, FULL, MAX_RECORD_BYTES, SHORT, ZEROS, Records, grew, u32

PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x34\xcd\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xcd\x34": (">", 1_000),
}
PCAP_HEADER = 24
_MODIFIED_MAGIC = (b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34")
_RECORD_HEADER, _MODIFIED_HEADER = 16, 24
_MOST_SECONDS = 86_400
"""Most seconds between the first two records of a modified pcap under the usual magic."""

ZERO_BYTES = 1 << 16
"""Zero bytes in the place of record headers that end the reading: a file that was reserved and not written to."""


def _scanner(header: int) -> Callable[..., tuple[int, int, int]]:
    """Returns the kernel for record headers of a length, which is a constant in it."""

    @numba.njit(nogil=True, cache=True)
    def scan(window, bound, complete, big_endian, tick_ns, start, captured, wire, time_ns):
        """Locates records until the columns are full or the bound is reached; returns (records, bytes, stop)."""
        at = zeros_end = np.int64(0)  # one type from the start, so that `u32` is compiled once
        count = 0
        limit = len(window)
        while count < len(start) and at < bound:
            if at + header > limit:
                return count, at, SHORT
            if at >= zeros_end and window[at] == 0:
                zeros_end = at
                while zeros_end < limit and zeros_end - at < ZERO_BYTES and window[zeros_end] == 0:
                    zeros_end += 1
                if zeros_end - at == ZERO_BYTES:
                    return count, at, ZEROS
                if zeros_end == limit and not complete:
                    return count, at, SHORT
            length = u32(window, at + 8, big_endian)
            if length > MAX_RECORD_BYTES:
                return count, at, BAD
            if at + header + length > limit:
                return count, at, SHORT
            start[count] = at + header
            captured[count] = length
            wire[count] = u32(window, at + 12, big_endian)
            time_ns[count] = u32(window, at, big_endian) * 1_000_000_000 + u32(window, at + 4, big_endian) * tick_ns
            at += header + length
            count += 1
        return count, at, FULL

    return scan


_SCANNERS = {length: _scanner(length) for length in (_RECORD_HEADER, _MODIFIED_HEADER)}


class PcapScanner:
    """Scanner of the records of a pcap file with microsecond or nanosecond times, in either byte order."""

    def __init__(self, capture: CaptureBytes, preamble: bytes = b"", latest_ns: int = 0):
        self._capture = capture
        self.latest_ns = latest_ns
        self.bound = END
        self.preamble = header = preamble or capture.window[:PCAP_HEADER].tobytes()
        order, self.tick_ns = PCAP_MAGIC[header[:4]]
        self.format = "pcap-us" if self.tick_ns == 1_000 else "pcap-ns"
        if len(header) < PCAP_HEADER:
            raise CaptureError(
                RejectReason.CUT_OFF, 0, f"the file ends inside its pcap header: {len(header)} of {PCAP_HEADER} bytes"
            )
        self.big_endian = order == ">"
        self._link_type = struct.unpack(order + "I", header[20:24])[0] & 0xFFFF  # the high bits tell of a checksum
        self._record_header = _RECORD_HEADER
        if not preamble:
            capture.advance(PCAP_HEADER)
            self._record_header = self._found_record_header()
        self.splittable = self._record_header == _RECORD_HEADER
        if not self.splittable:
            self.format = "pcap-modified"

    def scan(self) -> Records:
        """Returns the next records, none at the end; see `RecordScanner`."""
        capture = self._capture
        records = Records.empty(capture.window)
        records.link_type[:] = self._link_type
        while True:
            window = capture.window
            count, consumed, stop = _SCANNERS[self._record_header](
                window, self.bound - capture.offset, capture.complete, self.big_endian, self.tick_ns,
                records.start, records.captured, records.wire, records.time_ns,
            )  # fmt: skip
            if count:
                capture.advance(consumed)
                self.latest_ns = int(records.time_ns[count - 1])
                return dataclasses.replace(records, window=window).first(count)
            if stop == ZEROS:
                raise self._malformed(
                    f"more than {ZERO_BYTES} bytes are zero where records must be; the rest of the file was not written"
                )
            if stop == BAD:
                raise self._malformed(
                    f"a record header claims more than {MAX_RECORD_BYTES} captured bytes; "
                    "the file is damaged from here on"
                )
            if not grew(capture, self.bound):
                return records.first(0)

    def _malformed(self, detail: str) -> CaptureError:
        return CaptureError(RejectReason.MALFORMED, self._capture.offset, detail)

    def _found_record_header(self) -> int:
        """Returns the length of record headers: 24 only if the second header makes sense there, and not behind 16."""
        if self.preamble[:4] in _MODIFIED_MAGIC:
            return _MODIFIED_HEADER
        first = self._record_at(0)
        if first is None or self._record_at(_RECORD_HEADER + first[1]):
            return _RECORD_HEADER
        second = self._record_at(_MODIFIED_HEADER + first[1])
        continues = second is not None and second[1] > 0 and abs(second[0] - first[0]) <= _MOST_SECONDS
        return _MODIFIED_HEADER if continues else _RECORD_HEADER

    def _record_at(self, at: int) -> tuple[int, int] | None:
        """Returns seconds and captured length of a record header in the window, None where there cannot be one."""
        capture = self._capture
        while len(capture.window) < at + _RECORD_HEADER and not capture.complete:
            capture.grow()
        header = capture.window[at : at + _RECORD_HEADER].tobytes()
        if len(header) < _RECORD_HEADER:
            return None
        seconds, ticks, captured, wire = struct.unpack((">" if self.big_endian else "<") + "IIII", header)
        possible = captured <= min(wire, MAX_RECORD_BYTES) and ticks * self.tick_ns < 1_000_000_000
        return (seconds, captured) if possible else None
