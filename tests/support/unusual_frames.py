"""Frames with unusual headers before an IP packet: each is a function of the packet."""

import struct
from collections.abc import Callable

from capture_files import ethernet


def ether_type(packet: bytes) -> bytes:
    """Returns the EtherType of an IP packet."""
    return b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"


def snap(packet: bytes) -> bytes:
    """Returns IEEE 802.2 with SNAP around a packet."""
    return b"\xaa\xaa\x03\x00\x00\x00" + ether_type(packet) + packet


def ppp(packet: bytes) -> bytes:
    """Returns a PPP protocol field before a packet."""
    return (b"\x00\x21" if packet[0] >> 4 == 4 else b"\x00\x57") + packet


def pppoe(packet: bytes) -> bytes:
    """Returns a frame of a PPPoE session."""
    return b"\x11\0\0\x01" + struct.pack(">H", len(packet) + 2) + ppp(packet)


def wifi(packet: bytes, control: bytes = b"\x08\x02", behind: bytes = b"") -> bytes:
    """Returns an 802.11 data frame; `behind` are the header bytes behind its three addresses."""
    return control + bytes(22) + behind + snap(packet)


def tagged(kind: int, header: bytes) -> Callable[[bytes], bytes]:
    """Returns a function that puts an EtherType and a header, which ends with the EtherType of IP, before a packet."""
    return lambda packet: ethernet(header + ether_type(packet) + packet, kind)


def behind(kind: int, header: bytes) -> Callable[[bytes], bytes]:
    """Returns a function that puts an EtherType and a header before an Ethernet frame."""
    return lambda packet: ethernet(header + ethernet(packet), kind)


def attributes(packet: bytes, order: str) -> bytes:
    """Returns the attributes of Netfilter's log: a prefix, then the packet."""
    prefix = struct.pack(order + "HH", 7, 10) + b"in\0\0"
    return b"\x02\0\0\0" + prefix + struct.pack(order + "HH", 4 + len(packet), 9) + packet


def nlpid(packet: bytes) -> bytes:
    """Returns the identifier of a network layer protocol before a packet."""
    return (b"\xcc" if packet[0] >> 4 == 4 else b"\x8e") + packet


def nsh(packet: bytes) -> bytes:
    """Returns a network service header before a packet."""
    return b"\0\x02\x02" + (b"\x01" if packet[0] >> 4 == 4 else b"\x02") + bytes(4) + packet


QOS, QOS_HTC, FOUR_ADDRESSES = b"\x88\x01", b"\x88\x81", b"\x08\x03"
AVS = struct.pack(">II", 0x80211001, 64) + bytes(56)

FRAMES: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "null-little": (0, lambda packet: struct.pack("<I", 2 if packet[0] >> 4 == 4 else 30) + packet),
    "null-big": (0, lambda packet: struct.pack(">I", 2 if packet[0] >> 4 == 4 else 24) + packet),
    "token-ring": (6, lambda packet: b"\x10\x40" + bytes(12) + snap(packet)),
    "token-ring-route": (
        6, lambda packet: b"\x10\x40" + bytes(6) + b"\x80" + bytes(5) + b"\x06\0" + bytes(4) + snap(packet),
    ),
    "ppp": (9, ppp),
    "ppp-compressed": (9, lambda packet: b"\xff\x03" + ppp(packet)[1:]),
    "c-hdlc-as-ppp": (9, lambda packet: b"\x0f\0" + ether_type(packet) + packet),
    "fddi": (10, lambda packet: b"\x50" + bytes(12) + snap(packet)),
    "raw-12": (12, bytes),
    "raw-14": (14, bytes),
    "ppp-hdlc": (50, lambda packet: b"\xff\x03" + ppp(packet)),
    "pppoe-frame": (51, pppoe),
    "atm": (100, snap),
    "atm-nlpid": (100, lambda packet: b"\xfe\xfe\x03" + nlpid(packet)),
    "c-hdlc": (104, lambda packet: b"\x0f\0" + ether_type(packet) + packet),
    "wifi": (105, wifi),
    "wifi-qos": (105, lambda packet: wifi(packet, QOS, bytes(2))),
    "wifi-htc": (105, lambda packet: wifi(packet, QOS_HTC, bytes(6))),
    "wifi-four-addresses": (105, lambda packet: wifi(packet, FOUR_ADDRESSES, bytes(6))),
    "wifi-aggregate": (
        105, lambda packet: wifi(packet, QOS, b"\x80\0" + bytes(12) + struct.pack(">H", len(packet) + 8)),
    ),
    "frame-relay": (107, lambda packet: b"\x18\x41\x03" + nlpid(packet)),
    "frame-relay-snap": (107, lambda packet: b"\x18\x41\x03\0\x80\0\0\0" + ether_type(packet) + packet),
    "frame-relay-cisco": (107, lambda packet: b"\x18\x41" + ether_type(packet) + packet),
    "frame-relay-ppp": (107, lambda packet: b"\x18\x41\x03\xcf" + ppp(packet)),
    "frame-relay-four-bytes": (107, lambda packet: b"\x18\x40\x40\x41\x03" + nlpid(packet)),
    "loop": (108, lambda packet: struct.pack(">I", 2 if packet[0] >> 4 == 4 else 28) + packet),
    "enc": (109, lambda packet: struct.pack("<III", 2 if packet[0] >> 4 == 4 else 24, 1, 0) + packet),
    "pflog": (117, lambda packet: bytes([61, 2, 0, 0]) + b"em0".ljust(60, b"\0") + packet),
    "prism": (119, lambda packet: struct.pack("<II", 0x44, 144) + bytes(136) + wifi(packet)),
    "prism-big": (119, lambda packet: struct.pack(">II", 0x44, 144) + bytes(136) + wifi(packet)),
    "prism-avs": (119, lambda packet: AVS + wifi(packet)),
    "ip-over-fc": (122, lambda packet: bytes(16) + snap(packet)),
    "sunatm": (123, lambda packet: b"\x02\0\0\x20" + snap(packet)),
    "radiotap": (127, lambda packet: b"\0\0\x08\0" + bytes(4) + wifi(packet)),
    "radiotap-padded": (
        127, lambda packet: b"\0\0\x09\0" + struct.pack("<I", 2) + b"\x20" + wifi(packet, QOS, bytes(4)),
    ),
    "radiotap-time": (
        127,
        lambda packet: b"\0\0\x11\0" + struct.pack("<I", 3) + bytes(8) + b"\x20" + wifi(packet, QOS, bytes(4)),
    ),
    "radiotap-words": (
        127,
        lambda packet: (
            b"\0\0\x19\0" + struct.pack("<II", 0x80000003, 0) + bytes(12) + b"\x20" + wifi(packet, QOS, bytes(4))
        ),
    ),
    "firewire": (138, lambda packet: bytes(16) + ether_type(packet) + packet),
    "avs": (163, lambda packet: AVS + wifi(packet)),
    "pppd": (166, lambda packet: b"\0\x03" + ppp(packet)),
    "ppi": (192, lambda packet: b"\0\0\x08\0" + struct.pack("<I", 105) + wifi(packet)),
    "ppi-radiotap": (
        192, lambda packet: b"\0\0\x08\0" + struct.pack("<I", 127) + b"\0\0\x08\0" + bytes(4) + wifi(packet),
    ),
    "ppp-direction": (204, lambda packet: b"\x01\xff\x03" + ppp(packet)),
    "c-hdlc-direction": (205, lambda packet: b"\0\x0f\0" + ether_type(packet) + packet),
    "frame-relay-direction": (206, lambda packet: b"\0\x18\x41\x03" + nlpid(packet)),
    "mpls-link": (219, lambda packet: b"\0\x01\x21\x40" + packet),
    "ipv4": (228, bytes),
    "ipv6": (229, bytes),
    "nflog": (239, lambda packet: attributes(packet, "<")),
    "nflog-big": (239, lambda packet: attributes(packet, ">")),
    "infiniband": (242, lambda packet: bytes(40) + ether_type(packet) + bytes(2) + packet),
    "pktap": (258, lambda packet: struct.pack("<III", 108, 1, 1) + bytes(96) + ethernet(packet)),
    "pktap-raw": (258, lambda packet: struct.pack("<III", 108, 1, 12) + bytes(96) + packet),
    "mpls": (1, lambda packet: ethernet(b"\0\x01\0\x40" + b"\0\x02\x01\x40" + packet, 0x8847)),
    "pseudowire": (1, lambda packet: ethernet(b"\0\x01\x21\x40" + b"\x02" + ethernet(packet)[1:], 0x8847)),
    "pseudowire-zeros": (1, lambda packet: ethernet(b"\0\x01\x21\x40" + ethernet(packet), 0x8847)),
    "pseudowire-control": (1, lambda packet: ethernet(b"\0\x01\x21\x40" + bytes(4) + ethernet(packet), 0x8847)),
    "pppoe": (1, lambda packet: ethernet(pppoe(packet), 0x8864)),
    "snap": (1, lambda packet: ethernet(snap(packet), len(packet) + 8)),
    "snap-802.1h": (1, lambda packet: ethernet(b"\xaa\xaa\x03\0\0\xf8" + snap(packet)[6:], len(packet) + 8)),
    "sap-of-ip": (1, lambda packet: ethernet(b"\x06\x06\x03" + packet, len(packet) + 3)),
    "trill": (1, behind(0x22F3, b"\0\0\0\x01\0\x02")),
    "trill-option": (1, behind(0x22F3, b"\0\x40\0\x01\0\x02" + bytes(4))),
    "bridged": (1, behind(0x6558, b"")),
    "802.1ah": (1, behind(0x88E7, bytes(4))),
    "fabric-path": (1, behind(0x8903, b"\x40\x20")),
    "macsec": (1, tagged(0x88E5, bytes(6))),
    "macsec-channel": (1, tagged(0x88E5, b"\x20" + bytes(13))),
    "cisco-metadata": (1, tagged(0x8909, b"\x01\x01\0\x01\0\x05")),
    "vn-tag": (1, tagged(0x8926, bytes(4))),
    "hsr": (1, tagged(0x892F, bytes(4))),
    "e-tag": (1, tagged(0x893F, bytes(6))),
    "nsh": (1, lambda packet: ethernet(nsh(packet), 0x894F)),
    "nsh-ethernet": (1, behind(0x894F, b"\0\x06\x01\x03" + bytes(20))),
    "nsh-mpls": (1, lambda packet: ethernet(b"\0\x02\x02\x05" + bytes(4) + b"\0\x01\x21\x40" + packet, 0x894F)),
}  # fmt: skip
"""Link type and frame of each kind of unusual header, by name."""

UNKNOWN_TO_TSHARK = (
    "pppd",
    "c-hdlc-direction",
    "frame-relay-direction",
    "mpls-link",
    "nflog-big",
    "pseudowire",
    "pseudowire-zeros",
    "pseudowire-control",
    "fabric-path",
)
"""Frames in which TShark 4.0 finds no IP packet: it does not read the link type, or guesses a pseudowire otherwise."""
