"""Reference reader: bytes of a pcap or pcapng file to records, in plain Python and without `flowloom.transforms`."""

import struct
from typing import NamedTuple

from flowloom.schemas.arrow.accounting import RejectReason

MAX_RECORD_BYTES = 262_144
ZERO_BYTES = 65_536
"""Zeros in the place of records that end the reading."""
LATEST_NS = 2**63 - 2


class Record(NamedTuple):
    """One record of a capture file; `time_ns` is None outside of int64 nanoseconds since 1970."""

    time_ns: int | None
    wire_bytes: int
    link_type: int
    frame: bytes


class Damage(NamedTuple):
    """The place where reading a file has to stop."""

    reason: RejectReason
    offset: int


def read_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the records of a pcap or pcapng file, and where damage ends them."""
    return pcapng_records(data) if data[:4] == b"\x0a\x0d\x0d\x0a" else pcap_records(data)


def pcap_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the records of a pcap file (draft-ietf-opsawg-pcap)."""
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    (magic,) = struct.unpack_from(order + "I", data)
    tick_ns = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}[magic]
    link_type = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF  # above them is the length of the FCS
    records, at = [], 24
    while at < len(data):
        if at + 16 > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        seconds, ticks, captured, wire = struct.unpack_from(order + "IIII", data, at)
        if captured > MAX_RECORD_BYTES or data[at : at + ZERO_BYTES] == bytes(ZERO_BYTES):
            return records, Damage(RejectReason.MALFORMED, at)
        if at + 16 + captured > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        time_ns = seconds * 10**9 + ticks * tick_ns
        records.append(Record(time_ns, wire, link_type, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return records, None


def pcapng_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the packet blocks of a pcapng file whose blocks are well-formed (draft-ietf-opsawg-pcapng)."""
    records, at, order, latest_ns = [], 0, "<", 0
    interfaces: list[tuple[int, int, int, int]] = []
    while at < len(data):
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        if at + 12 > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        kind, length = struct.unpack_from(order + "II", data, at)
        body = data[at + 8 : at + length - 4]
        if at + length > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        if kind == 1:
            interfaces.append(interface(body, order))
        elif kind in (2, 6):  # packet block (obsolete) and enhanced packet block
            number, high, low, captured, wire = struct.unpack_from(order + ("HxxIIII" if kind == 2 else "IIIII"), body)
            link_type, _, ticks_per_s, offset_s = interfaces[number]
            time_ns: int | None = ((high << 32) + low) * 10**9 // ticks_per_s + offset_s * 10**9
            if 0 <= time_ns <= LATEST_NS:
                latest_ns = time_ns
            else:
                time_ns = None
            records.append(Record(time_ns, wire, link_type, body[20 : 20 + captured]))
        elif kind == 3:  # simple packet block: no time of its own
            (wire,) = struct.unpack_from(order + "I", body)
            link_type, snap_length, _, _ = interfaces[0]
            captured = min(wire, len(body) - 4, snap_length or wire)
            records.append(Record(latest_ns, wire, link_type, body[4 : 4 + captured]))
        at += length
    return records, None


def interface(body: bytes, order: str) -> tuple[int, int, int, int]:
    """Returns link type, snap length, ticks a second and offset in seconds of an interface description block."""
    link_type, _, snap_length = struct.unpack_from(order + "HHI", body)
    ticks_per_s, offset_s, at = 10**6, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == 0:
            break
        if code == 9:  # if_tsresol
            ticks_per_s = (2 if body[at + 4] & 0x80 else 10) ** (body[at + 4] & 0x7F)
        elif code == 14:  # if_tsoffset
            (offset_s,) = struct.unpack_from(order + "q", body, at + 4)
        at += 4 + length + -length % 4
    return link_type, snap_length, ticks_per_s, offset_s
