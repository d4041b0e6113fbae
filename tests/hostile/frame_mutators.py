"""Mutations of one frame: fields of Ethernet, IP, TCP, UDP and IPv6 extension headers, and tunnels around packets."""

import random
import struct
from collections.abc import Callable

from capture_files import ethernet, ipv4, ipv6, udp
from capture_parts import PROTOCOLS, behind_ip, ip_headers
from tunnel_packets import FORMS
from unusual_frames import FRAMES as UNUSUAL

PORTS = (0, 53, 80, 443, 1701, 2152, 2268, 3544, 4789, 4790, 5247, 5353, 6080, 6081, 6635, 8472, 37_008, 65_535)
FLAGS = (0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x18, 0x19, 0xC2, 0xFF)
ETHER_TYPES = (
    0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864, 0x8903, 0x0806, 1500, 1501, 40,
    0x22F3, 0x6558, 0x880B, 0x88E5, 0x88E7, 0x8909, 0x8926, 0x892F, 0x893F, 0x894F,
)  # fmt: skip

FrameMutation = Callable[[random.Random, bytearray], None]


def _position(draws: random.Random, frame: bytearray) -> int | None:
    """Returns the position of an IP header, the outermost twice as often."""
    found = ip_headers(frame)
    return draws.choice((found[0], *found)) if found else None


def _put(frame: bytearray, at: int, value: int, size: int) -> None:
    """Writes a number in network order, if it fits."""
    if 0 <= at <= len(frame) - size:
        frame[at : at + size] = (value & (256**size - 1)).to_bytes(size, "big")


def _get(frame: bytearray, at: int, size: int) -> int:
    return int.from_bytes(frame[at : at + size], "big")


def ip_field(draws: random.Random, frame: bytearray) -> None:
    """Changes version, header length, length, identification, fragment field, time to live or protocol."""
    at = _position(draws, frame)
    if at is None:
        return
    if frame[at] >> 4 == 4:
        kind = draws.randrange(6)
        length = _get(frame, at + 2, 2)
        if kind == 0:
            frame[at] = draws.choice((0x40, 0x44, 0x45, 0x46, 0x4F, 0x55, 0x60, 0x65))
        elif kind == 1:
            near = (length + 1, length - 1, length + 8, length - 8, 20, 19, 21, 28, 40, 0, 65_535)
            _put(frame, at + 2, draws.choice(near), 2)
        elif kind == 2:
            _put(frame, at + 4, draws.choice((0, 1, 7, 65_535)), 2)
        elif kind == 3:
            _put(frame, at + 6, draws.choice((0, 0x2000, 0x2001, 1, 3, 0x4000, 0x8000, 0x1FFF, 0x3FFF)), 2)
        elif kind == 4:
            frame[at + 8] = draws.choice((0, 1, 255))
        else:
            frame[at + 9] = draws.choice(PROTOCOLS)
    else:
        length = _get(frame, at + 4, 2)
        kind = draws.randrange(4)
        if kind == 0:
            _put(frame, at + 4, draws.choice((0, 1, 7, 8, length + 8, length - 8, 65_535)), 2)
        elif kind == 1:
            frame[at + 6] = draws.choice(PROTOCOLS)
        elif kind == 2:
            frame[at + 7] = draws.choice((0, 1, 255))
        else:
            frame[at] = draws.choice((0x45, 0x50, 0x6F))


def addresses(draws: random.Random, frame: bytearray) -> None:
    """Swaps both addresses, makes them equal, or changes the last byte of one."""
    at = _position(draws, frame)
    if at is None:
        return
    size, begin = (4, at + 12) if frame[at] >> 4 == 4 else (16, at + 8)
    src, dst = frame[begin : begin + size], frame[begin + size : begin + 2 * size]
    if len(dst) < size:
        return
    kind = draws.randrange(3)
    if kind == 0:
        frame[begin : begin + 2 * size] = dst + src
    elif kind == 1:
        frame[begin : begin + 2 * size] = src + src
    else:
        frame[begin + draws.choice((size, 2 * size)) - 1] = draws.choice((0, 1, 2, 255))


def transport_field(draws: random.Random, frame: bytearray) -> None:
    """Changes ports, sequence number, data offset, flags or window, or the length of UDP."""
    at = _position(draws, frame)
    if at is None:
        return
    at = behind_ip(frame, at)
    kind = draws.randrange(7)
    if kind == 0:
        _put(frame, at + draws.choice((0, 2)), draws.choice(PORTS), 2)
    elif kind == 1:
        source, target = _get(frame, at, 2), _get(frame, at + 2, 2)
        _put(frame, at, target, 2)
        _put(frame, at + 2, source, 2)
    elif kind == 2:
        _put(frame, at + 4, draws.choice((0, 1, 2, 2**32 - 1)), 4)
    elif kind == 3:
        _put(frame, at + 12, draws.choice((0x00, 0x40, 0x50, 0x60, 0xF0)), 1)
    elif kind in (4, 5):
        _put(frame, at + 13, draws.choice(FLAGS), 1)
    else:
        _put(frame, at + draws.choice((4, 14)), draws.choice((0, 7, 8, 65_535)), 2)


def link_field(draws: random.Random, frame: bytearray) -> None:
    """Changes the EtherType, or puts a VLAN tag, MPLS labels, PPPoE or SNAP before the packet."""
    if len(frame) < 14:
        return
    kind = draws.randrange(6)
    if kind == 5:
        packet = bytes(frame[14:])
        if packet and packet[0] >> 4 in (4, 6):
            frame[:] = draws.choice(BEHIND_TAGS)(packet)
    elif kind == 0:
        _put(frame, 12, draws.choice(ETHER_TYPES), 2)
    elif kind == 1:
        tag = struct.pack(">HH", draws.choice((0x8100, 0x88A8, 0x9100)), draws.choice((0, 1, 7, 0x1007, 0xFFF)))
        frame[12:12] = tag * draws.choice((1, 1, 2, 5))
    elif kind == 2:
        label = b"\x00\x01" + draws.choice((b"\x00", b"\x01")) + b"\x40"
        frame[12:14] = b"\x88\x47" + label * draws.choice((0, 1, 3)) + b"\x00\x02\x01\x40"
    elif kind == 3:
        protocol = draws.choice((b"\x00\x21", b"\x21", b"\x00\x57", b"\x02\x81", b"\xc0\x21"))
        frame[12:14] = b"\x88\x64\x11\x00\x00\x01\x00\x00" + protocol
    else:
        frame[12:12] = draws.choice((b"\x00\x40\xaa\xaa\x03\x00\x00\x00", b"\x89\x03\x40\x20" + bytes(12)))


def extension(draws: random.Random, frame: bytearray) -> None:
    """Puts an extension header behind an IPv6 header, or options behind an IPv4 header."""
    at = _position(draws, frame)
    if at is None:
        return
    if frame[at] >> 4 == 4:
        words = draws.choice((1, 2, 10))
        if (frame[at] & 15) + words <= 15 and len(frame) >= at + 20:
            frame[at] += words
            frame[at + 20 : at + 20] = bytes(4 * words)
            _put(frame, at + 2, _get(frame, at + 2, 2) + 4 * words, 2)
        return
    kind = draws.choice((0, 43, 44, 51, 60, 135, 139, 140))
    length = draws.choice((0, 0, 0, 1, 4, 255))
    if kind == 44:
        head = struct.pack(">BBHI", frame[at + 6], length, draws.choice((0, 1, 8, 9, 0xFFF8)), draws.choice((7, 8)))
    else:
        body = (length + 2) * 4 if kind == 51 else (length + 1) * 8
        head = bytes([frame[at + 6], length]) + bytes(min(body, 64) - 2)
    frame[at + 6] = kind
    frame[at + 40 : at + 40] = head
    _put(frame, at + 4, _get(frame, at + 4, 2) + len(head), 2)


def tunnel(draws: random.Random, frame: bytearray) -> None:
    """Puts a tunnel around an IP packet, with header fields that are sometimes wrong."""
    at = _position(draws, frame)
    if at is None:
        return
    for _ in range(draws.choice((1, 1, 1, 2, 9))):
        inner = bytes(frame[at:])
        packet = TUNNELS[draws.randrange(len(TUNNELS))](draws, inner)
        if len(packet) > 1400:
            return
        frame[at:] = packet
        if at == 14:
            frame[12:14] = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"


def _outer(draws: random.Random, content: bytes, protocol: int) -> bytes:
    if draws.random() < 0.7:
        return ipv4(content, "172.16.0.1", "172.16.0.2", protocol, fragment=draws.choice((0, 0, 0, 0, 0, 0x2000)))
    return ipv6(content, "fd00::a", "fd00::b", protocol)


def _ip_in_ip(draws: random.Random, inner: bytes) -> bytes:
    protocol = 4 if inner[0] >> 4 == 4 else 41
    return _outer(draws, inner, draws.choice((protocol, protocol, protocol, 45 - protocol)))


def _gre(draws: random.Random, inner: bytes) -> bytes:
    flags = sum(draws.choice((0, 0, flag)) for flag in (0x8000, 0x2000, 0x1000)) | draws.choice((0, 0, 0, 0, 1, 0x4000))
    words = b"".join(draws.randbytes(4) for flag in (0x8000, 0x2000, 0x1000) if flags & flag)
    bridged = draws.random() < 0.3
    kind = 0x6558 if bridged else draws.choice((0x0800, 0x86DD)) if inner[0] >> 4 == 4 else 0x86DD
    return _outer(draws, struct.pack(">HH", flags, kind) + words + (ethernet(inner) if bridged else inner), 47)


def _gtp_u(draws: random.Random, inner: bytes) -> bytes:
    flags = draws.choice((0x30, 0x30, 0x31, 0x32, 0x34, 0x34, 0x36, 0x10))
    optional = b"\0\0\0" + draws.choice((b"\0", b"\x85")) if flags & 7 else b""
    if optional[3:] == b"\x85" and flags & 4:
        optional += draws.choice((b"\x01\0\0\0", b"\x02\0\0\0\0\0\0\x85\x01\0\0\0", b"\0\0\0\0", b"\xff\0\0\0"))
    head = struct.pack(
        ">BBHI", flags, draws.choice((255, 255, 255, 1)), len(optional + inner) & 0xFFFF, draws.randrange(4)
    )
    ports = draws.choice(((2152, 2152), (2152, 5), (5, 2152)))
    return _outer(draws, udp(head + optional + inner, *ports), 17)


def _vxlan(draws: random.Random, inner: bytes) -> bytes:
    head = struct.pack(">II", draws.choice((8, 8, 8, 0)) << 24, draws.randrange(3) << 8)
    return _outer(draws, udp(head + ethernet(inner, vlans=draws.choice(((), (), (7,)))), 5000, 4789), 17)


def _teredo(draws: random.Random, inner: bytes) -> bytes:
    head = draws.choice((b"", b"", bytes(8), b"\0\x01\0\0" + bytes(9), b"\0\x01\x04\x04" + bytes(17) + bytes(8)))
    return _outer(draws, udp(head + inner, *draws.choice(((3544, 5000), (5000, 3544)))), 17)


def _other(draws: random.Random, inner: bytes) -> bytes:
    return draws.choice(OTHER_TUNNELS)(inner)


BEHIND_TAGS = tuple(frame for link_type, frame in UNUSUAL.values() if link_type == 1)
OTHER_TUNNELS = tuple(form.around for form in FORMS.values())
TUNNELS = (_ip_in_ip, _gre, _gtp_u, _vxlan, _teredo, _other, _other, _other)

FRAMES: tuple[FrameMutation, ...] = (
    ip_field, ip_field, addresses, transport_field, transport_field, transport_field, link_field, extension, tunnel,
)  # fmt: skip
