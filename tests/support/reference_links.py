"""Reference of the link layer: where the IP header of a frame begins, in plain Python, one header a function.

A *kind* says what begins at a place of a frame: an EtherType, `FRAME` + a LINKTYPE_ number, or one of the names below.
Sources: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes, and the documents that each function names.
"""

import struct

from flowloom.schemas.arrow.accounting import DropReason

FRAME = 1 << 16
"""Added to the number of a link type."""
IP, LLC, PPP = "ip", "llc", "ppp"
"""IP of either version, as its first four bits say; IEEE 802.2; a PPP protocol number."""
WIFI_OF_CAPWAP = "wifi of capwap"
"""802.11, whose first two bytes some access points exchange."""
VLANS = (0x8100, 0x88A8, 0x9100)


class DropError(Exception):
    """A record that is no packet, with the reason for which it is counted."""

    def __init__(self, reason: DropReason):
        super().__init__(reason)
        self.reason = reason


def unpack(fields: str, data: bytes, at: int = 0, order: str = ">") -> tuple:
    """Returns fields at a position of captured bytes, by default big-endian.

    Raises:
      DropError: `truncated`, if the captured bytes end inside them.
    """
    if at + struct.calcsize(order + fields) > len(data):
        raise DropError(DropReason.TRUNCATED)
    return struct.unpack_from(order + fields, data, at)


Place = tuple[int | str, int]
"""Kind of a header, and where it begins."""

FIXED: dict[int, tuple[int, int | str]] = {
    FRAME + 9: (0, "ppp frame"),
    FRAME + 10: (13, LLC),  # FDDI
    FRAME + 12: (0, IP),
    FRAME + 14: (0, IP),
    FRAME + 50: (0, "ppp frame"),
    FRAME + 51: (0, 0x8864),
    FRAME + 100: (0, LLC),  # ATM, RFC 2684
    FRAME + 101: (0, IP),
    FRAME + 109: (12, IP),  # OpenBSD's encapsulating interface
    FRAME + 122: (16, LLC),  # IP over Fibre Channel, RFC 2625
    FRAME + 123: (4, LLC),  # ATM of SunATM
    FRAME + 166: (2, PPP),  # PPP whose address byte is a direction
    FRAME + 204: (1, "ppp frame"),
    FRAME + 205: (1, FRAME + 104),
    FRAME + 206: (1, FRAME + 107),
    FRAME + 219: (0, 0x8847),
    FRAME + 228: (0, IP),
    FRAME + 229: (0, IP),
    0x6558: (0, FRAME + 1),
    0x880B: (0, "ppp frame"),
}
"""Length of headers that always have the same content behind them, and that content."""
TYPED: dict[int, tuple[int, int]] = {
    FRAME + 1: (14, 12),  # Ethernet
    FRAME + 104: (4, 2),  # Cisco HDLC
    FRAME + 113: (16, 14),  # Linux cooked capture
    FRAME + 138: (18, 16),  # IP over IEEE 1394
    FRAME + 242: (44, 40),  # IP over InfiniBand
    FRAME + 276: (20, 0),  # Linux cooked capture, version 2
    0x8100: (4, 2),  # IEEE 802.1Q
    0x88A8: (4, 2),
    0x9100: (4, 2),
    0x88E7: (18, 16),  # IEEE 802.1ah: I-TAG, both addresses
    0x8903: (16, 14),  # Cisco FabricPath: the rest of its header, then the frame of the edge port
    0x8909: (8, 6),  # Cisco metadata: a security group tag
    0x8926: (6, 4),  # VN-Tag
    0x892F: (6, 4),  # HSR, IEC 62439-3
    0x893F: (8, 6),  # E-Tag, IEEE 802.1BR
}
"""Length of headers with an EtherType, and where that lies in them."""


def network_layer(frame: bytes, kind: int | str) -> tuple[int, int]:
    """Returns where the IP header of a frame begins, and the innermost VLAN identifier before it."""
    at, vlan = 0, 0
    while kind not in (0x0800, 0x86DD, IP):
        if kind in VLANS:
            vlan = unpack("H", frame, at)[0] & 0x0FFF
        kind, at = behind(frame, at, kind)
    return at, vlan


def behind(frame: bytes, at: int, kind: int | str) -> Place:
    """Returns what follows the header that begins at a place."""
    if kind in FIXED:
        length, following = FIXED[kind]
        unpack(f"{length}x", frame, at)
        return following, at + length
    if kind in TYPED:
        length, type_at = TYPED[kind]
        unpack(f"{length}x", frame, at)
        return unpack("H", frame, at + type_at)[0], at + length
    if kind in VARIABLE:
        return VARIABLE[kind](frame, at)
    if kind == LLC or (isinstance(kind, int) and kind <= 1500):  # IEEE 802.3: a length
        return llc(frame, at)
    if isinstance(kind, int) and kind >= FRAME:
        raise DropError(DropReason.UNSUPPORTED_LINKTYPE)
    raise DropError(DropReason.NOT_IP)


def no_ip_unless(condition: bool) -> None:
    """Raises `not-ip` for a header with which no IP can be found."""
    if not condition:
        raise DropError(DropReason.NOT_IP)


def llc(frame: bytes, at: int) -> Place:
    """Reads IEEE 802.2: SNAP of EtherTypes (RFC 1042, 802.1H), the SAP of IP, and NLPID (RFC 2684)."""
    head = frame[at : at + 8]
    if head[:3] == b"\x06\x06\x03":
        return IP, at + 3
    if head[:3] == b"\xfe\xfe\x03":
        return nlpid(frame, at + 3)
    no_ip_unless(len(head) == 8 and head[:3] == b"\xaa\xaa\x03" and head[3:6] in (b"\0\0\0", b"\0\0\xf8"))
    (kind,) = unpack("H", head, 6)
    no_ip_unless(kind > 1500)
    return kind, at + 8


def nlpid(frame: bytes, at: int) -> Place:
    """Reads the identifier of a network layer protocol (ISO/IEC TR 9577; RFC 2427 for SNAP)."""
    head = frame[at : at + 6]
    if head[:1] in (b"\xcc", b"\x8e"):
        return IP, at + 1
    if head[:1] == b"\xcf":
        return PPP, at + 1
    no_ip_unless(len(head) == 6 and head[:4] in (b"\x80\0\0\0", b"\x80\0\0\xf8"))
    (kind,) = unpack("H", head, 4)
    no_ip_unless(kind > 1500)
    return kind, at + 6


def frame_relay(frame: bytes, at: int) -> Place:
    """Reads a Q.922 address of two to four bytes, then RFC 2427, or the EtherType that Cisco writes instead."""
    for _ in range(4):
        (last,) = unpack("B", frame, at)
        at += 1
        if last & 1:
            break
    no_ip_unless(bool(last & 1))
    control, following = unpack("BB", frame, at)
    if control != 3:
        return (control << 8) + following, at + 2
    return nlpid(frame, at + (2 if following == 0 else 1))


def bsd(frame: bytes, at: int) -> Place:
    """Reads the address family of BSD null, in the byte order of either kind of host, and of BSD loop."""
    (family,) = unpack("I", frame, at)
    if family > 0xFFFF:
        family = int.from_bytes(frame[at : at + 2], "little")
    no_ip_unless(family in (2, 10, 24, 28, 30))  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD and Darwin
    return IP, at + 4


def pflog(frame: bytes, at: int) -> Place:
    """Reads the header of OpenBSD's packet filter, whose first byte is its length before it is padded to words."""
    (length,) = unpack("B", frame, at)
    no_ip_unless(length >= 4)
    return IP, at + length + -length % 4


def ppp_frame(frame: bytes, at: int) -> Place:
    """Reads PPP in HDLC-like framing or without (RFC 1662), or Cisco HDLC instead, as Wireshark does."""
    head = unpack("4s", frame, at)[0]
    if head[0] in (0x0F, 0x8F):
        return FRAME + 104, at
    return PPP, at + (2 if head[:2] == b"\xff\x03" else 0)


def ppp(frame: bytes, at: int) -> Place:
    """Reads a PPP protocol field, of one byte if it is odd (RFC 1661, section 2)."""
    no_ip_unless(at + 2 <= len(frame))
    length = 1 if frame[at] & 1 else 2
    protocol = int.from_bytes(frame[at : at + length])
    no_ip_unless(protocol in (0x21, 0x57, 0x281))
    return {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847}[protocol], at + length


def token_ring(frame: bytes, at: int) -> Place:
    """Reads an IEEE 802.5 header, with its route where the source address says that there is one."""
    source, route = unpack("8xB5xB", frame, at)
    return LLC, at + 14 + (route & 0x1F if source & 0x80 else 0)


def radiotap(frame: bytes, at: int) -> Place:
    """Reads a radiotap header; its flags, the second field, say whether the 802.11 header is padded."""
    length, present = unpack("2xHI", frame, at, "<")
    no_ip_unless(length >= 8)
    field, more = at + 8, present
    while more & 0x80000000 and field + 4 <= at + length:
        (more,) = unpack("I", frame, field, "<")
        field += 4
    if present & 1:
        field += (at - field) % 8 + 8
    padded = bool(present & 2) and field < min(at + length, len(frame)) and bool(frame[field] & 0x20)
    return wifi(frame, at + length, padded=padded)


def wifi(frame: bytes, at: int, *, padded: bool = False, exchanged: bool = False) -> Place:
    """Reads the header of an IEEE 802.11 data frame; of an A-MSDU also that of its first frame."""
    first, flags = unpack("BB", frame, at)
    exchanged = exchanged and first & 0x0F != 8 and flags & 0x0F == 8
    if exchanged:
        first, flags = flags, first
    no_ip_unless(first & 0x0F == 8 and not first & 0x40)  # version 0, a data frame, with data
    no_ip_unless(not flags & 0x40)  # not encrypted
    (sequence,) = unpack("23xB" if exchanged else "22xB", frame, at)
    no_ip_unless(sequence & 0x0F == 0)  # not a later fragment
    length = 24 + (6 if flags & 3 == 3 else 0)  # a fourth address between two access points
    aggregate = False
    if first & 0x80:  # quality of service
        aggregate = bool(unpack("B", frame, at + length)[0] & 0x80)
        length += 2 + (4 if flags & 0x80 else 0)
    if padded:
        length += -length % 4
    return LLC, at + length + (14 if aggregate else 0)


def wifi_of_capwap(frame: bytes, at: int) -> Place:
    """Reads the header of an IEEE 802.11 data frame with frame and sequence control in either byte order."""
    return wifi(frame, at, exchanged=True)


def avs(frame: bytes, at: int) -> Place:
    """Reads an AVS header before 802.11."""
    (length,) = unpack("4xI", frame, at)
    no_ip_unless(length >= 8)
    return FRAME + 105, at + length


def prism(frame: bytes, at: int) -> Place:
    """Reads a Prism header before 802.11, in either byte order, or an AVS header in its place."""
    code, length = unpack("II", frame, at)
    if code & 0xFFFFF000 == 0x80211000:
        return avs(frame, at)
    if length > 0xFFFF:
        (length,) = unpack("4xI", frame, at, "<")
    no_ip_unless(length >= 8)
    return FRAME + 105, at + length


def ppi(frame: bytes, at: int) -> Place:
    """Reads a per-packet information header, which names the link type of the rest."""
    length, link_type = unpack("2xHI", frame, at, "<")
    no_ip_unless(length >= 8)
    return FRAME + min(link_type, 0xFFFF), at + length


def pktap(frame: bytes, at: int) -> Place:
    """Reads the header of Darwin's packet tap, which names the link type of the rest."""
    length, link_type = unpack("I4xI", frame, at, "<")
    no_ip_unless(length >= 12)
    return FRAME + min(link_type, 0xFFFF), at + length


def nflog(frame: bytes, at: int) -> Place:
    """Reads Netfilter's log: attributes in the byte order of the host; number 9 is the packet."""
    unpack("4x", frame, at)
    at += 4
    while True:
        length, number = unpack("HH", frame, at, "<")
        if number > 0xFF:
            length, number = unpack("HH", frame, at)
        no_ip_unless(length >= 4)
        if number == 9:
            return IP, at + 4
        at += length + -length % 4


def mpls(frame: bytes, at: int) -> Place:
    """Reads an MPLS label stack (RFC 3032), and the control word of an Ethernet pseudowire (RFC 4448).

    IP of either version begins with its version. Everything else is Ethernet: behind a control word if there are 16
    zero bits, and no EtherType of IP or a VLAN is where it is without a control word.
    """
    (label,) = unpack("I", frame, at)
    at += 4
    if not label & 0x100:
        return 0x8847, at
    (first,) = unpack("B", frame, at)
    if first >> 4 in (4, 6):
        return IP, at
    no_ip_unless(first >> 4 != 1)  # an associated channel
    head = frame[at : at + 14]
    if head[:2] == b"\0\0" and not (len(head) == 14 and unpack("H", head, 12)[0] in (0x0800, 0x86DD, *VLANS)):
        at += 4
    return FRAME + 1, at


def pppoe(frame: bytes, at: int) -> Place:
    """Reads the header of a PPPoE session (RFC 2516)."""
    unpack("6x", frame, at)
    return PPP, at + 6


def nsh(frame: bytes, at: int) -> Place:
    """Reads a network service header (RFC 8300)."""
    words, following = unpack("xBxB", frame, at)
    words &= 0x3F
    no_ip_unless(words >= 2 and following in NSH_PROTOCOLS)
    return NSH_PROTOCOLS[following], at + 4 * words


def trill(frame: bytes, at: int) -> Place:
    """Reads a TRILL header and its options (RFC 6325), which an Ethernet frame follows."""
    flags, _ = unpack("HI", frame, at)
    return FRAME + 1, at + 6 + 4 * (flags >> 6 & 0x1F)


def macsec(frame: bytes, at: int) -> Place:
    """Reads the tag of IEEE 802.1AE before a frame that is signed, not encrypted."""
    (flags,) = unpack("B", frame, at)
    no_ip_unless(not flags & 0x0C)
    at += 14 if flags & 0x20 else 6
    return unpack("H", frame, at)[0], at + 2


NSH_PROTOCOLS = {1: 0x0800, 2: 0x86DD, 3: FRAME + 1, 4: 0x894F, 5: 0x8847}

VARIABLE = {
    FRAME + 0: bsd,
    FRAME + 6: token_ring,
    FRAME + 105: wifi,
    FRAME + 107: frame_relay,
    FRAME + 108: bsd,
    FRAME + 117: pflog,
    FRAME + 119: prism,
    FRAME + 127: radiotap,
    FRAME + 163: avs,
    FRAME + 192: ppi,
    FRAME + 239: nflog,
    FRAME + 258: pktap,
    0x22F3: trill,
    0x8847: mpls,
    0x8848: mpls,
    0x8864: pppoe,
    0x88E5: macsec,
    0x894F: nsh,
    PPP: ppp,
    "ppp frame": ppp_frame,
    WIFI_OF_CAPWAP: wifi_of_capwap,
}
"""Headers whose length depends on their content."""
