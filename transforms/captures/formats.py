"""Capture formats: the scanner of a capture, chosen by its content."""

from typing import IO

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.pcap import PCAP_HEADER, PCAP_MAGIC, PcapScanner
from flowloom.transforms.captures.pcapng import SECTION_HEADER, PcapngScanner
from flowloom.transforms.captures.records import RecordScanner
from flowloom.transforms.captures.snoop import SNOOP_MAGIC, SnoopScanner
from flowloom.transforms.io.archives import is_tar


def open_records(capture: CaptureBytes, preamble: bytes = b"", latest_ns: int = 0) -> RecordScanner:
    """Returns the scanner for a capture's content.

    Args:
      capture: the bytes from the capture's start, or with a preamble from the start of a record.
      preamble, latest_ns: the attributes of a scanner that stopped at this place.

    Raises:
      CaptureError: `not-a-capture`, if the content begins like no known format.
    """
    while len(capture.window) < PCAP_HEADER and not capture.complete:
        capture.grow()
    magic = preamble[:4] or capture.window[:4].tobytes()
    if magic in PCAP_MAGIC:
        return PcapScanner(capture, preamble, latest_ns)
    if magic == SECTION_HEADER.to_bytes(4, "little"):
        return PcapngScanner(capture, preamble, latest_ns)
    if capture.window[:8].tobytes() == SNOOP_MAGIC:
        return SnoopScanner(capture)
    if capture.damage and not len(capture.window):
        raise capture.damage
    if is_tar(capture.window[:512].tobytes()):
        raise CaptureError(
            RejectReason.NOT_A_CAPTURE,
            0,
            f"the {capture.compression} stream is a tar; decompress it, and its captures are read where they lie",
        )
    raise CaptureError(
        RejectReason.NOT_A_CAPTURE,
        0,
        "expected pcap, pcapng or snoop (plain or inside gz, zst, xz, bz2, lz4), the content starts with "
        f"{capture.window[:8].tobytes()!r}; is this a capture file?",
    )


def first_time_ns(uri: str, file: IO[bytes] | None = None) -> int | None:
    """Returns the time of a capture's first record with a time, in ns since the epoch, or None.

    Args:
      file: the file from `open_stored`, if it is open already.

    Raises:
      CaptureError: if the file cannot be opened or is no capture.
    """
    capture = CaptureBytes(uri, file=file)
    try:
        scanner = open_records(capture)
        while len(records := scanner.scan()):
            if len(times_ns := records.times_ns()):
                return int(times_ns[0])
        return None
    finally:
        capture.close()
