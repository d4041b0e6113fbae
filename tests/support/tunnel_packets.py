"""Packets inside packets: each kind of tunnel as a function of the inner packet, with the identifier it has."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from capture_files import ethernet, ipv4, ipv6, udp
from unusual_frames import ether_type, ppp, wifi


class TunnelForm(NamedTuple):
    """One form of a tunnel: its kind, the IP packet around another one, and the identifier that its header has."""

    kind: str
    around: Callable[[bytes], bytes]
    number: int = 0


def over_udp(header: bytes, dst_port: int, inside: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], bytes]:
    """Returns a function that puts a header and a UDP datagram around a packet."""
    return lambda packet: ipv4(udp(header + inside(packet), 50_000, dst_port), "172.16.0.1", "172.16.0.2", 17)


def over_ip(header: bytes, protocol: int, inside: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], bytes]:
    """Returns a function that puts a header and an IP packet around a packet."""
    return lambda packet: ipv4(header + inside(packet), "172.16.0.1", "172.16.0.2", protocol)


def over_ipv6(header: bytes, protocol: int, inside: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], bytes]:
    """Returns a function that puts a header and an IPv6 packet around a packet."""
    return lambda packet: ipv6(header + inside(packet), "fd00::a", "fd00::b", protocol)


def typed(head: bytes, tail: bytes = b"") -> Callable[[bytes], bytes]:
    """Returns a function that puts the EtherType of a packet between two parts of a header."""
    return lambda packet: head + ether_type(packet) + tail + packet


def exchanged(packet: bytes) -> bytes:
    """Returns an 802.11 frame with the bytes of frame control and of sequence control, here 16, exchanged."""
    frame = wifi(packet)
    return frame[1::-1] + frame[2:22] + b"\x01\0" + frame[24:]


def framed(packet: bytes) -> bytes:
    """Returns PPP in HDLC-like framing."""
    return b"\xff\x03" + ppp(packet)


def gue(packet: bytes) -> bytes:
    """Returns generic UDP encapsulation of version 0."""
    return b"\0" + (b"\x04" if packet[0] >> 4 == 4 else b"\x29") + bytes(2) + packet


def l2tp_with_all(packet: bytes) -> bytes:
    """Returns a data message of L2TP with length, sequence numbers and an offset."""
    behind = b"\0\x01\0\x02" + bytes(4) + b"\0\x02" + bytes(2) + ppp(packet)
    return b"\x4a\x02" + struct.pack(">H", 4 + len(behind)) + behind


ERSPAN_2 = b"\x10\0\x88\xbe" + bytes(4) + b"\x10\x01\x08\x05" + bytes(4)
ERSPAN_3 = b"\x10\0\x22\xeb" + bytes(4) + b"\x20\x01\0\x07"
VNI = struct.pack(">I", 0x1389 << 8)

FORMS: dict[str, TunnelForm] = {
    "gre-key": TunnelForm("gre", over_ip(b"", 47, typed(b"\x20\0", b"\xde\xad\xbe\xef")), 0xDEADBEEF),
    "gtp-u": TunnelForm(
        "gtp-u",
        over_udp(b"", 2152, lambda packet: struct.pack(">BBHI", 0x30, 255, len(packet), 0xFFFF_FFFF) + packet),
        0xFFFF_FFFF,
    ),
    "vxlan": TunnelForm("vxlan", over_udp(b"\x08\0\0\0" + VNI, 4789, ethernet), 0x1389),
    "gre-mpls": TunnelForm("gre", over_ip(b"\0\0\x88\x47" + b"\0\x01\x21\x40", 47)),
    "gre-nsh": TunnelForm("gre", over_ip(b"\0\0\x89\x4f" + b"\0\x02\x02\x03" + bytes(4), 47, ethernet)),
    "gre-ppp": TunnelForm("gre", over_ip(b"\0\0\x88\x0b", 47, framed)),
    "erspan-1": TunnelForm("erspan", over_ip(b"\0\0\x88\xbe", 47, ethernet)),
    "erspan-2": TunnelForm("erspan", over_ip(ERSPAN_2, 47, ethernet), 5),
    "erspan-3": TunnelForm("erspan", over_ipv6(ERSPAN_3 + bytes(8), 47, ethernet), 7),
    "erspan-3-subheader": TunnelForm(
        "erspan", over_ip(ERSPAN_3 + bytes(7) + b"\x01" + bytes(8), 47, ethernet), 7,
    ),
    "erspan-3-ip": TunnelForm(
        "erspan", over_ip(ERSPAN_3 + bytes(6) + b"\x08\0", 47), 7,
    ),
    "pptp": TunnelForm("pptp", over_ip(b"\x30\x01\x88\x0b\0\x34\0\x05" + bytes(4), 47, framed), 5),
    "pptp-acknowledged": TunnelForm("pptp", over_ip(b"\x30\x81\x88\x0b\0\x34\0\x06" + bytes(8), 47, ppp), 6),
    "etherip": TunnelForm("etherip", over_ip(b"\x30\0", 97, ethernet)),
    "etherip-6": TunnelForm("etherip", over_ipv6(b"\x30\0", 97, ethernet)),
    "l2tp": TunnelForm("l2tp", over_udp(b"\0\x02\0\x01\0\x02", 1701, framed), 0x10002),
    "l2tp-all": TunnelForm("l2tp", over_udp(b"", 1701, l2tp_with_all), 0x10002),
    "l2tp-3": TunnelForm("l2tp", over_udp(b"\0\x03\0\0\0\0\0\x09", 1701, ethernet), 9),
    "l2tp-3-ip": TunnelForm("l2tp", over_ip(b"\0\0\0\x09" + b"\xaa" * 8, 115, ethernet), 9),
    "mpls-udp": TunnelForm("mpls", over_udp(b"\0\x01\x21\x40", 6635)),
    "mpls-ip": TunnelForm("mpls", over_ip(b"\0\x01\0\x40" + b"\0\x02\x01\x40", 137)),
    "vxlan-8472": TunnelForm("vxlan", over_udp(b"\x08\0\0\0" + VNI, 8472, ethernet), 0x1389),
    "vxlan-gpe": TunnelForm("vxlan-gpe", over_udp(b"\x0c\0\0\x03" + VNI, 4790, ethernet), 0x1389),
    "vxlan-gpe-nsh": TunnelForm(
        "vxlan-gpe", over_udp(b"\x0c\0\0\x04" + VNI + b"\0\x02\x02\x03" + bytes(4), 4790, ethernet), 0x1389,
    ),
    "geneve": TunnelForm("geneve", over_udp(b"\0\0\x65\x58" + VNI, 6081, ethernet), 0x1389),
    "geneve-options": TunnelForm("geneve", over_udp(b"\x02\0\x65\x58" + VNI + bytes(8), 6081, ethernet), 0x1389),
    "geneve-ip": TunnelForm("geneve", over_udp(b"", 6081, typed(b"\0\0", VNI)), 0x1389),
    "gue": TunnelForm("gue", over_udp(b"", 6080, gue)),
    "gue-flags": TunnelForm(
        "gue", over_udp(b"", 6080, lambda packet: b"\x01" + gue(packet)[1:4] + bytes(4) + packet),
    ),
    "gue-1": TunnelForm("gue", over_udp(b"", 6080)),
    "tzsp": TunnelForm("tzsp", over_udp(b"\x01\0\0\x01\x01", 37_008, ethernet)),
    "tzsp-tags": TunnelForm("tzsp", over_udp(b"\x01\0\0\x01" + b"\0" + b"\x0a\x01\x05" + b"\x01", 37_008, ethernet)),
    "tzsp-wifi": TunnelForm("tzsp", over_udp(b"\x01\0\0\x12\x01", 37_008, wifi)),
    "capwap": TunnelForm("capwap", over_udp(b"\0\x10\x43\x20" + bytes(4), 5247, wifi)),
    "capwap-exchanged": TunnelForm("capwap", over_udp(b"\0\x10\x43\x20" + bytes(4), 5247, exchanged)),
    "capwap-ethernet": TunnelForm("capwap", over_udp(b"\0\x10\x42\0" + bytes(4), 5247, ethernet)),
    "amt": TunnelForm("amt", over_udp(b"\x06\0", 2268)),
    "amt-update": TunnelForm("amt", over_udp(b"\x05\0" + bytes(10), 2268)),
    "amt-query": TunnelForm("amt", over_udp(b"\x04\0" + bytes(10), 2268)),
}  # fmt: skip
"""Forms of the tunnels by name."""

UNKNOWN_TO_TSHARK = ("erspan-3-ip", "l2tp-3", "l2tp-3-ip", "gue", "gue-flags", "gue-1")
"""Forms that TShark 4.0 does not unwrap."""
