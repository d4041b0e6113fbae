"""Parts of capture files for mutation: headers, records and blocks, and positions of headers inside frames."""

import struct
from collections.abc import Iterable

from reference_records import BYTE_ORDERS, SECTION, read_records

PCAP_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",
    b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\x3c\x4d": ">",
}
OTHERS = {b"\x34\xcd\xb2\xa1": (24, "<"), b"\xa1\xb2\xcd\x34": (24, ">"), b"snoo": (16, ">")}
"""Length of the header and byte order of modified pcap and snoop, whose frames are not mutated as such."""
PROTOCOLS = (0, 1, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 97, 115, 132, 135, 137)


def is_pcapng(data: bytes) -> bool:
    """Returns whether a file begins like pcapng."""
    return data[:4] == SECTION


def order_of(data: bytes) -> str:
    """Returns the byte order of a file, "<" for one that is no capture."""
    if is_pcapng(data):
        return BYTE_ORDERS.get(data[8:12], "<")
    return PCAP_ORDERS.get(data[:4]) or OTHERS.get(data[:4], (0, "<"))[1]


def split_parts(data: bytes) -> list[bytes]:
    """Returns a header and its records or blocks, as far as lengths allow; the last part is the rest."""
    order, parts, at = order_of(data), [], 0
    if not is_pcapng(data):
        at = OTHERS.get(data[:4], (24, ""))[0]
        parts = [data[:at]]
    while at < len(data):
        if is_pcapng(data):
            if data[at : at + 4] == SECTION:
                order = BYTE_ORDERS.get(data[at + 8 : at + 12], order)
            length = int.from_bytes(data[at + 4 : at + 8], "little" if order == "<" else "big")
            valid = length >= 12
        elif data[:4] == b"snoo":
            length = int.from_bytes(data[at + 8 : at + 12], "big")
            valid = length >= 24
        else:
            length = (24 if data[:4] in OTHERS else 16) + int.from_bytes(
                data[at + 8 : at + 12], "little" if order == "<" else "big"
            )
            valid = at + 16 <= len(data)
        if not valid or at + length > len(data):
            length = len(data) - at
        parts.append(data[at : at + length])
        at += length
    return parts


def joined(captures: Iterable[bytes]) -> list[bytes]:
    """Returns files that have the records of all captures: those of one pcap header, or of pcapng, share a file.

    A capture whose reading ends early is the last one of its file, so that a reader sees all others.
    """
    files: list[bytearray] = []
    growing: dict[bytes, bytearray] = {}
    for data in captures:
        header = 0 if is_pcapng(data) else 24
        key = data[:header]
        if header and (len(data) < header or data[:4] not in PCAP_ORDERS):
            files.append(bytearray(data))
            continue
        if key in growing:
            growing[key] += data[header:]
        else:
            files.append(bytearray(data))
            growing[key] = files[-1]
        _, damage = read_records(data)
        if damage:
            del growing[key]
    return [bytes(file) for file in files]


def frame_of(part: bytes, order: str, *, pcapng: bool) -> tuple[int, int]:
    """Returns where the frame of a record begins and ends, (0, 0) for a part without one."""
    if not pcapng:
        return (16, len(part)) if len(part) > 16 else (0, 0)
    if len(part) < 16:
        return 0, 0
    (kind,) = struct.unpack_from(order + "I", part)
    if kind in (2, 6) and len(part) >= 32:
        (captured,) = struct.unpack_from(order + "I", part, 20)
        return 28, min(28 + captured, len(part) - 4)
    return (12, len(part) - 4) if kind == 3 else (0, 0)


def ip_headers(frame: bytes | bytearray) -> list[int]:
    """Returns where IP headers may begin in a frame, those inside tunnels too."""
    found = []
    for at in range(min(len(frame) - 20, 300)):
        first = frame[at]
        if (0x45 <= first <= 0x4F and frame[at + 9] in PROTOCOLS) or (
            first == 0x60 and at + 40 <= len(frame) and frame[at + 6] in PROTOCOLS
        ):
            found.append(at)
    return found


def behind_ip(frame: bytes | bytearray, at: int) -> int:
    """Returns the position behind an IP header without extension headers."""
    return at + (frame[at] & 15) * 4 if frame[at] >> 4 == 4 else at + 40


def record(part: bytes, frame: bytes, order: str, *, pcapng: bool) -> bytes:
    """Returns a record with another frame, and lengths that fit it."""
    begin, _ = frame_of(part, order, pcapng=pcapng)
    lengths = struct.pack(order + "II", len(frame), len(frame))
    if not pcapng:
        return part[:8] + lengths + frame
    padded = frame + bytes(-len(frame) % 4)
    length = struct.pack(order + "I", begin + len(padded) + 4)
    head = part[:4] + length
    head += part[8:20] + lengths if begin == 28 else lengths[:4]
    return head + padded + length
