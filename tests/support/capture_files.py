"""Capture files made byte by byte for tests: frames, pcap and pcapng."""

import ipaddress
import struct
from collections.abc import Iterable

SYN, ACK, FIN, RST, PSH = 0x02, 0x10, 0x01, 0x04, 0x08


def ipv4(
    payload: bytes,
    src: str = "10.0.0.1",
    dst: str = "10.0.0.2",
    protocol: int = 6,
    *,
    ip_id: int = 0,
    fragment: int = 0,
    ttl: int = 64,
    options: bytes = b"",
    length: int | None = None,
) -> bytes:
    """Returns an IPv4 packet; `fragment` is the whole flags-and-offset field."""
    header = 20 + len(options)
    return (
        struct.pack(
            ">BBHHHBBH",
            0x40 | header // 4,
            0,
            header + len(payload) if length is None else length,
            ip_id,
            fragment,
            ttl,
            protocol,
            0,
        )
        + ipaddress.ip_address(src).packed
        + ipaddress.ip_address(dst).packed
        + options
        + payload
    )


def ipv6(
    payload: bytes, src: str = "fd00::1", dst: str = "fd00::2", next_header: int = 6, hop_limit: int = 64
) -> bytes:
    """Returns an IPv6 packet; extension headers are part of the payload."""
    addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return struct.pack(">IHBB", 6 << 28, len(payload), next_header, hop_limit) + addresses + payload


def tcp(
    payload: bytes = b"",
    src_port: int = 1234,
    dst_port: int = 80,
    flags: int = ACK,
    seq: int = 0,
    window: int = 1000,
    ack: int = 0,
) -> bytes:
    """Returns a TCP segment without options."""
    return struct.pack(">HHIIBBHHH", src_port, dst_port, seq, ack, 0x50, flags, window, 0, 0) + payload


def udp(payload: bytes = b"", src_port: int = 1234, dst_port: int = 53) -> bytes:
    """Returns a UDP datagram."""
    return struct.pack(">HHHH", src_port, dst_port, 8 + len(payload), 0) + payload


def ethernet(packet: bytes, kind: int | None = None, *, vlans: Iterable[int] = ()) -> bytes:
    """Returns an Ethernet frame; the EtherType follows the IP version unless given."""
    if kind is None:
        kind = 0x86DD if packet[:1] and packet[0] >> 4 == 6 else 0x0800
    tags = b"".join(struct.pack(">HH", 0x8100, vlan) for vlan in vlans)
    return bytes(12) + tags + struct.pack(">H", kind) + packet


def pcap(
    frames: Iterable[tuple[int, bytes]],
    *,
    link_type: int = 1,
    nanoseconds: bool = True,
    order: str = "<",
    snap: int = 262_144,
) -> bytes:
    """Returns a pcap file of (time_ns, frame) pairs."""
    magic, tick = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    for time_ns, frame in frames:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        head = struct.pack(order + "IIII", seconds, rest // tick, min(len(frame), snap), len(frame))
        parts.append(head + frame[:snap])
    return b"".join(parts)


def modified_pcap(
    frames: Iterable[tuple[int, bytes]], *, link_type: int = 1, order: str = "<", usual_magic: bool = False
) -> bytes:
    """Returns a modified pcap file, whose record headers also have interface, protocol and kind of the packet."""
    magic = 0xA1B2C3D4 if usual_magic else 0xA1B2CD34
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, link_type)]
    for time_ns, frame in frames:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        parts.append(struct.pack(order + "IIIIIHBx", seconds, rest // 1000, len(frame), len(frame), 2, 8, 0) + frame)
    return b"".join(parts)


def snoop(frames: Iterable[tuple[int, bytes]], *, link: int = 4) -> bytes:
    """Returns a snoop file (RFC 1761)."""
    parts = [b"snoop\0\0\0" + struct.pack(">II", 2, link)]
    for time_ns, frame in frames:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        padded = frame + bytes(-len(frame) % 4)
        head = struct.pack(">IIIIII", len(frame), len(frame), 24 + len(padded), 0, seconds, rest // 1000)
        parts.append(head + padded)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Returns a pcapng block, padded to 32 bits."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    """Returns a pcapng section header block of unknown length."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link_type: int = 1, *, resolution: int | None = None, offset_s: int | None = None, snap: int = 0, order: str = "<"
) -> bytes:
    """Returns a pcapng interface description block."""
    options = b""
    if resolution is not None:
        options += struct.pack(order + "HHB3x", 9, 1, resolution)
    if offset_s is not None:
        options += struct.pack(order + "HHq", 14, 8, offset_s)
    if options:
        options += bytes(4)
    return block(1, struct.pack(order + "HHI", link_type, 0, snap) + options, order)


def enhanced(frame: bytes, ticks: int, *, interface_id: int = 0, order: str = "<") -> bytes:
    """Returns a pcapng enhanced packet block."""
    head = struct.pack(order + "IIIII", interface_id, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame + bytes(-len(frame) % 4), order)


def simple(frame: bytes, original: int | None = None, order: str = "<") -> bytes:
    """Returns a pcapng simple packet block."""
    return block(3, struct.pack(order + "I", len(frame) if original is None else original) + frame, order)


def obsolete(frame: bytes, ticks: int, *, interface_id: int = 0, order: str = "<") -> bytes:
    """Returns a pcapng (obsolete) packet block."""
    head = struct.pack(order + "HHIIII", interface_id, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(2, head + frame + bytes(-len(frame) % 4), order)
