"""Reference reader: bytes of a pcap, pcapng or snoop file to records, in plain Python."""

import struct
from typing import NamedTuple

from flowloom.schemas.arrow.accounting import RejectReason

MAX_RECORD_BYTES = 262_144
ZERO_BYTES = 65_536
"""Zeros in the place of records that end the reading."""
MAX_BLOCK_BYTES = 1 << 24
LATEST_NS = 2**63 - 2
READ_BLOCKS = (1, 2, 3, 6)
"""Blocks of interfaces and packets; those of other kinds may have any length."""
SNOOP = b"snoop\0\0\0"
SECTION = b"\x0a\x0d\x0d\x0a"
BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
PACKET_BLOCKS = {2: "HxxIIII", 6: "IIIII"}
"""Fields of the packet block (obsolete) and of the enhanced packet block."""


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
    """Returns the records of a capture file, and where damage ends them."""
    if data[:8] == SNOOP:
        return snoop_records(data)
    return pcapng_records(data) if data[:4] == SECTION else pcap_records(data)


def pcap_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the records of a pcap file (draft-ietf-opsawg-pcap)."""
    order = "<" if data[3:4] == b"\xa1" else ">"
    (magic,) = struct.unpack_from(order + "I", data)
    tick_ns = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1, 0xA1B2CD34: 1000}[magic]
    header = 24 if magic == 0xA1B2CD34 else record_header(data, order, tick_ns)
    link_type = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF  # above them is the length of the FCS
    records, at = [], 24
    while at < len(data):
        if at + header > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        seconds, ticks, captured, wire = struct.unpack_from(order + "IIII", data, at)
        if captured > MAX_RECORD_BYTES or data[at : at + ZERO_BYTES] == bytes(ZERO_BYTES):
            return records, Damage(RejectReason.MALFORMED, at)
        if at + header + captured > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        time_ns = seconds * 10**9 + ticks * tick_ns
        records.append(Record(time_ns, wire, link_type, data[at + header : at + header + captured]))
        at += header + captured
    return records, None


def record_header(data: bytes, order: str, tick_ns: int) -> int:
    """Returns the length of record headers under the usual magic: 24 in a modified pcap, whose second header tells."""

    def record_at(at: int) -> tuple[int, int] | None:
        if at + 16 > len(data):
            return None
        seconds, ticks, captured, wire = struct.unpack_from(order + "IIII", data, at)
        return (seconds, captured) if captured <= min(wire, MAX_RECORD_BYTES) and ticks * tick_ns < 10**9 else None

    first = record_at(24)
    if first is None or record_at(24 + 16 + first[1]):
        return 16
    second = record_at(24 + 24 + first[1])
    return 24 if second and second[1] and abs(second[0] - first[0]) <= 86_400 else 16


def snoop_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the records of a snoop file (RFC 1761)."""
    version, link = struct.unpack_from(">II", data, 8)
    if version != 2:
        return [], Damage(RejectReason.NOT_A_CAPTURE, 0)
    link_type = {0: 1, 2: 6, 4: 1, 8: 10}.get(link, 0xFFFF)
    records, at = [], 16
    while at < len(data):
        if at + 24 > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        wire, captured, whole, _, seconds, micros = struct.unpack_from(">IIIIII", data, at)
        if captured > MAX_RECORD_BYTES or whole > 1 << 24 or captured + 24 > whole:
            return records, Damage(RejectReason.MALFORMED, at)
        if at + whole > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        time_ns = seconds * 10**9 + micros * 1000
        records.append(Record(time_ns, wire, link_type, data[at + 24 : at + 24 + captured]))
        at += whole
    return records, None


def pcapng_records(data: bytes) -> tuple[list[Record], Damage | None]:
    """Returns the packet blocks of a pcapng file, up to the first block that contradicts itself."""
    records, at, order, latest_ns = [], 0, "<", 0
    interfaces: list[tuple[int, int, int, int]] = []
    while at < len(data):
        if at + 12 > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        if data[at : at + 4] == SECTION:
            order = BYTE_ORDERS.get(data[at + 8 : at + 12], "")
            interfaces = []
        if not order:
            return records, Damage(RejectReason.MALFORMED, at)
        kind, length = struct.unpack_from(order + "II", data, at)
        if (
            length < 12
            or length % 4
            or (length > MAX_BLOCK_BYTES and (kind in READ_BLOCKS or data[at : at + 4] == SECTION))
        ):
            return records, Damage(RejectReason.MALFORMED, at)
        if at + length > len(data):
            return records, Damage(RejectReason.CUT_OFF, at)
        body = data[at + 8 : at + length - 4]
        if struct.unpack_from(order + "I", data, at + length - 4) != (length,) or not fits(
            kind, body, order, interfaces
        ):
            return records, Damage(RejectReason.MALFORMED, at)
        if kind == 1:
            interfaces.append(interface(body, order))
        elif kind in PACKET_BLOCKS:
            number, high, low, captured, wire = struct.unpack_from(order + PACKET_BLOCKS[kind], body)
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


def fits(kind: int, body: bytes, order: str, interfaces: list[tuple[int, int, int, int]]) -> bool:
    """Returns whether the fields of a block lie inside it, and name an interface that was described."""
    if kind == 1:
        return len(body) >= 8
    if kind == 3:
        return len(body) >= 4 and len(interfaces) > 0
    if kind in PACKET_BLOCKS:
        if len(body) < 20:
            return False
        number, _, _, captured, _ = struct.unpack_from(order + PACKET_BLOCKS[kind], body)
        return number < len(interfaces) and captured <= len(body) - 20
    return True


def interface(body: bytes, order: str) -> tuple[int, int, int, int]:
    """Returns link type, snap length, ticks a second and offset in seconds of an interface description block."""
    link_type, _, snap_length = struct.unpack_from(order + "HHI", body)
    ticks_per_s, offset_s, at = 10**6, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == 0:
            break
        if code == 9 and len(value) == length == 1:  # if_tsresol
            ticks_per_s = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
        elif code == 14 and len(value) == length == 8:  # if_tsoffset
            (offset_s,) = struct.unpack(order + "q", value)
        at += 4 + length + -length % 4
    return link_type, snap_length, ticks_per_s, offset_s
