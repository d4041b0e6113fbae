"""Unusual headers before IP: link types, tags and encapsulations, as a table and as functions.

A *kind* says what begins at a place of a frame: an EtherType, `FRAME` plus a LINKTYPE_ number, or a number of our own.
A header of a fixed length is one entry of `HEADERS`; one whose length depends on its content is a function, and a line
of `_behind`. Sources: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes, RFC 1661 (PPP), and the documents
that functions name.
"""

from typing import NamedTuple

import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import part, u16, u32
from flowloom.transforms.captures.records import u32 as u32_of_order
from flowloom.transforms.packets.link_kinds import FRAME, IP, LLC, MPLS, PPP, PPP_FRAME, SHORTEST_TYPE, WIFI_OF_CAPWAP
from flowloom.transforms.packets.wifi_headers import behind_avs, behind_ppi, behind_prism, behind_radiotap, behind_wifi

_NOT_IP = int(DropReason.NOT_IP)
_UNSUPPORTED_LINKTYPE = int(DropReason.UNSUPPORTED_LINKTYPE)
_TRUNCATED = int(DropReason.TRUNCATED)

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLANS = (0x8100, 0x88A8, 0x9100)


class Header(NamedTuple):
    """Header of a fixed length: it has an EtherType at `type_at`, or what `following` says is always behind it."""

    length: int
    type_at: int = -1
    following: int = 0


HEADERS: dict[int, Header] = {
    FRAME + 1: Header(14, type_at=12),  # Ethernet
    FRAME + 9: Header(0, following=PPP_FRAME),
    FRAME + 10: Header(13, following=LLC),  # FDDI
    FRAME + 12: Header(0, following=IP),
    FRAME + 14: Header(0, following=IP),
    FRAME + 50: Header(0, following=PPP_FRAME),
    FRAME + 51: Header(0, following=0x8864),  # PPPoE
    FRAME + 100: Header(0, following=LLC),  # ATM, RFC 2684
    FRAME + 101: Header(0, following=IP),
    FRAME + 104: Header(4, type_at=2),  # Cisco HDLC
    FRAME + 109: Header(12, following=IP),  # OpenBSD's encapsulating interface
    FRAME + 113: Header(16, type_at=14),  # Linux cooked capture
    FRAME + 122: Header(16, following=LLC),  # IP over Fibre Channel, RFC 2625
    FRAME + 123: Header(4, following=LLC),  # ATM of SunATM
    FRAME + 138: Header(18, type_at=16),  # IP over IEEE 1394
    FRAME + 166: Header(2, following=PPP),  # PPP whose address byte is a direction
    FRAME + 204: Header(1, following=PPP_FRAME),  # a direction, then the frame: here and in the next two
    FRAME + 205: Header(1, following=FRAME + 104),
    FRAME + 206: Header(1, following=FRAME + 107),
    FRAME + 219: Header(0, following=MPLS),
    FRAME + 228: Header(0, following=IP),
    FRAME + 229: Header(0, following=IP),
    FRAME + 242: Header(44, type_at=40),  # IP over InfiniBand
    FRAME + 276: Header(20, type_at=0),  # Linux cooked capture, version 2
    0x6558: Header(0, following=FRAME + 1),  # transparent Ethernet bridging
    0x8100: Header(4, type_at=2),  # IEEE 802.1Q
    0x880B: Header(0, following=PPP_FRAME),
    0x88A8: Header(4, type_at=2),  # IEEE 802.1ad
    0x88E7: Header(18, type_at=16),  # IEEE 802.1ah: I-TAG, both addresses
    0x8903: Header(16, type_at=14),  # Cisco FabricPath: the rest of its header, then the frame of the edge port
    0x8909: Header(8, type_at=6),  # Cisco metadata: a security group tag
    0x8926: Header(6, type_at=4),  # VN-Tag
    0x892F: Header(6, type_at=4),  # HSR, IEC 62439-3
    0x893F: Header(8, type_at=6),  # E-Tag, IEEE 802.1BR
    0x9100: Header(4, type_at=2),  # the ancestor of IEEE 802.1ad
}
_KINDS = np.array(list(HEADERS), np.int64)
_LENGTH, _TYPE_AT, _FOLLOWING = (np.array(values, np.int64) for values in zip(*HEADERS.values(), strict=True))


@part
def unusual_network_header(buffer, at, end, link_type):
    """Returns (position of the IP header, VLAN identifier), or (-`DropReason`, 0) for a frame without one.

    Args:
      buffer: uint8 bytes of the capture.
      at, end: positions of the frame's first byte and behind its last captured one.
      link_type: LINKTYPE_ number, or `FRAME` plus another kind.
    """
    kind = np.int64(link_type) ^ FRAME
    vlan = np.int64(0)
    while kind not in (_IPV4, _IPV6, IP):
        if kind in _VLANS and at + 2 <= end:
            vlan = u16(buffer, at) & 0x0FFF
        at, kind = _behind(buffer, at, end, kind)
        if at < 0:
            return at, np.int64(0)
    return at, vlan


@part
def _behind(buffer, at, end, kind):
    """Returns the position behind the header that begins at a place, and the kind of what follows.

    The position is -`DropReason` for a header behind which there is no IP.
    """
    for entry in range(len(_KINDS)):
        if _KINDS[entry] == kind:
            behind = at + _LENGTH[entry]
            if behind > end:
                return -_TRUNCATED, kind
            return behind, u16(buffer, at + _TYPE_AT[entry]) if _TYPE_AT[entry] >= 0 else _FOLLOWING[entry]
    if kind == MPLS or kind == 0x8848:
        return _behind_label(buffer, at, end)
    if kind == 0x8864:
        return _counted(at + 6, end, PPP)  # PPPoE session, RFC 2516
    if kind == PPP_FRAME:
        return _behind_ppp_framing(buffer, at, end)
    if kind == PPP:
        return _behind_ppp(buffer, at, end)
    if kind == LLC or kind < SHORTEST_TYPE:
        return _behind_llc(buffer, at, end)
    if kind in (FRAME + 0, FRAME + 108):
        return _behind_bsd(buffer, at, end)
    if kind == FRAME + 6:
        return _behind_token_ring(buffer, at, end)
    if kind == FRAME + 105:
        return behind_wifi(buffer, at, end, False, False)
    if kind == WIFI_OF_CAPWAP:
        return behind_wifi(buffer, at, end, False, True)
    if kind == FRAME + 107:
        return _behind_frame_relay(buffer, at, end)
    if kind == FRAME + 117:
        return _behind_pflog(buffer, at, end)
    if kind == FRAME + 119:
        return behind_prism(buffer, at, end)
    if kind == FRAME + 127:
        return behind_radiotap(buffer, at, end)
    if kind == FRAME + 163:
        return behind_avs(buffer, at, end)
    if kind == FRAME + 192:
        return behind_ppi(buffer, at, end)
    if kind == FRAME + 239:
        return _behind_nflog(buffer, at, end)
    if kind == FRAME + 258:
        return _behind_pktap(buffer, at, end)
    if kind == 0x22F3:
        return _behind_trill(buffer, at, end)
    if kind == 0x88E5:
        return _behind_macsec(buffer, at, end)
    if kind == 0x894F:
        return _behind_nsh(buffer, at, end)
    return -_UNSUPPORTED_LINKTYPE if kind >= FRAME else -_NOT_IP, kind


@part
def _counted(behind, end, kind):
    """Returns a position and a kind if the captured bytes reach that far."""
    return (behind, np.int64(kind)) if behind <= end else (-_TRUNCATED, np.int64(kind))


@part
def _of_type(buffer, at, end):
    """Returns the position behind an EtherType, and the EtherType; a length is none."""
    if at + 2 > end or u16(buffer, at) < SHORTEST_TYPE:
        return -_NOT_IP, np.int64(0)
    return at + 2, u16(buffer, at)


@part
def _behind_llc(buffer, at, end):
    """Skips IEEE 802.2 with SNAP (RFC 1042, IEEE 802.1H), with the SAP of IP, or with an NLPID (RFC 2684)."""
    if at + 3 > end or buffer[at + 2] != 3:
        return -_NOT_IP, np.int64(0)
    if buffer[at] == 0x06 and buffer[at + 1] == 0x06:
        return at + 3, np.int64(IP)
    if buffer[at] == 0xFE and buffer[at + 1] == 0xFE:
        return _behind_nlpid(buffer, at + 3, end)
    if buffer[at] == 0xAA and buffer[at + 1] == 0xAA and _organisation_of_types(buffer, at + 3, end):
        return _of_type(buffer, at + 6, end)
    return -_NOT_IP, np.int64(0)


@part
def _organisation_of_types(buffer, at, end):
    """Returns whether the three bytes of SNAP at a position say that an EtherType follows."""
    return at + 3 <= end and u16(buffer, at) == 0 and buffer[at + 2] in (0x00, 0xF8)


@part
def _behind_nlpid(buffer, at, end):
    """Skips the identifier of a network layer protocol (ISO/IEC TR 9577), and SNAP behind that of SNAP (RFC 2427)."""
    if at < end:
        if buffer[at] in (0xCC, 0x8E):
            return at + 1, np.int64(IP)
        if buffer[at] == 0xCF:
            return at + 1, np.int64(PPP)
        if buffer[at] == 0x80 and _organisation_of_types(buffer, at + 1, end):
            return _of_type(buffer, at + 4, end)
    return -_NOT_IP, np.int64(0)


@part
def _behind_frame_relay(buffer, at, end):
    """Skips a Q.922 address of up to four bytes, then RFC 2427, or the EtherType that Cisco writes instead."""
    last = False
    for _ in range(4):
        if at + 1 > end:
            return -_TRUNCATED, np.int64(0)
        last = buffer[at] & 1 == 1
        at += 1
        if last:
            break
    if not last:
        return -_NOT_IP, np.int64(0)
    if at + 2 > end:
        return -_TRUNCATED, np.int64(0)
    if buffer[at] != 3:
        return at + 2, u16(buffer, at)
    return _behind_nlpid(buffer, at + 2 if buffer[at + 1] == 0 else at + 1, end)


@part
def _behind_bsd(buffer, at, end):
    """Skips an address family, in the byte order of the capturing machine (BSD null) or big-endian (loop)."""
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    family = u32(buffer, at)
    if family > 0xFFFF:
        family = np.int64(buffer[at]) | (np.int64(buffer[at + 1]) << 8)
    if family not in (2, 10, 24, 28, 30):  # AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
        return -_NOT_IP, np.int64(0)
    return at + 4, np.int64(IP)


@part
def _behind_pflog(buffer, at, end):
    """Skips the header of OpenBSD's packet filter, whose first byte is its length before it is padded to words."""
    if at + 1 > end:
        return -_TRUNCATED, np.int64(0)
    length = np.int64(buffer[at])
    return (at + (length + 3) // 4 * 4 if length >= 4 else -_NOT_IP), np.int64(IP)


@part
def _behind_token_ring(buffer, at, end):
    """Skips an IEEE 802.5 header, with its route if the source address says that there is one."""
    if at + 15 > end:
        return -_TRUNCATED, np.int64(0)
    route = np.int64(buffer[at + 14] & 0x1F) if buffer[at + 8] & 0x80 else 0
    return at + 14 + route, np.int64(LLC)


@part
def _behind_ppp_framing(buffer, at, end):
    """Skips HDLC-like framing, if any (RFC 1662); Cisco HDLC can have the link type of PPP, as Wireshark reads it."""
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    if buffer[at] in (0x0F, 0x8F):
        return at, np.int64(FRAME + 104)
    return at + 2 if buffer[at] == 0xFF and buffer[at + 1] == 0x03 else at, np.int64(PPP)


@part
def _behind_ppp(buffer, at, end):
    """Skips a PPP protocol field, which has one byte where it is compressed."""
    if at + 2 > end:
        return -_NOT_IP, np.int64(0)
    protocol = np.int64(buffer[at])
    if protocol & 1:
        at += 1
    else:
        protocol = u16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return at, np.int64(_IPV4)
    if protocol == 0x0057:
        return at, np.int64(_IPV6)
    if protocol == 0x0281:
        return at, np.int64(MPLS)
    return -_NOT_IP, np.int64(0)


@part
def _behind_label(buffer, at, end):
    """Skips an MPLS label (RFC 3032); behind the last one, IP, or Ethernet with or without control word (RFC 4448).

    IP begins with its version. A control word begins with 16 zero bits, and a frame without one may too: it then has
    the EtherType of IP or a VLAN in its place.
    """
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    at += 4
    if not buffer[at - 2] & 1:
        return at, np.int64(MPLS)
    if at + 1 > end:
        return -_TRUNCATED, np.int64(0)
    version = buffer[at] >> 4
    if version in (4, 6):
        return at, np.int64(IP)
    if version == 1:  # an associated channel
        return -_NOT_IP, np.int64(0)
    if at + 2 <= end and u16(buffer, at) == 0:
        typed = u16(buffer, at + 12) if at + 14 <= end else 0
        if typed not in (_IPV4, _IPV6, 0x8100, 0x88A8, 0x9100):
            at += 4
    return at, np.int64(FRAME + 1)


@part
def _behind_nflog(buffer, at, end):
    """Skips Netfilter's log up to the packet, its attribute 9; attributes are in the byte order of the host."""
    at += 4
    while at + 4 <= end:
        big_endian = buffer[at + 3] != 0  # no attribute has a number above 255
        length, number = u16(buffer, at), u16(buffer, at + 2)
        if not big_endian:
            length = np.int64(buffer[at]) | (np.int64(buffer[at + 1]) << 8)
            number = np.int64(buffer[at + 2])
        if length < 4:
            return -_NOT_IP, np.int64(0)
        if number == 9:
            return at + 4, np.int64(IP)
        at += (length + 3) // 4 * 4
    return -_TRUNCATED, np.int64(0)


@part
def _behind_pktap(buffer, at, end):
    """Skips the header of Darwin's packet tap, which names the link type of the rest."""
    if at + 12 > end:
        return -_TRUNCATED, np.int64(0)
    length = u32_of_order(buffer, at, False)
    if length < 12:
        return -_NOT_IP, np.int64(0)
    return at + length, FRAME + min(u32_of_order(buffer, at + 8, False), 0xFFFF)


@part
def _behind_trill(buffer, at, end):
    """Skips a TRILL header and its options (RFC 6325); an Ethernet frame follows."""
    if at + 6 > end:
        return -_TRUNCATED, np.int64(0)
    return at + 6 + 4 * (u16(buffer, at) >> 6 & 0x1F), np.int64(FRAME + 1)


@part
def _behind_macsec(buffer, at, end):
    """Skips the tag of IEEE 802.1AE before a frame that is signed, not encrypted."""
    if at + 1 > end:
        return -_TRUNCATED, np.int64(0)
    flags = buffer[at]
    if flags & 0x0C:
        return -_NOT_IP, np.int64(0)
    at += 14 if flags & 0x20 else 6
    return (at + 2, u16(buffer, at)) if at + 2 <= end else (-_TRUNCATED, np.int64(0))


@part
def _behind_nsh(buffer, at, end):
    """Skips a network service header (RFC 8300)."""
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    length = 4 * np.int64(buffer[at + 1] & 0x3F)
    kind = kind_of_nsh(buffer[at + 3])
    return (at + length if length >= 8 and kind >= 0 else -_NOT_IP), kind


@part
def kind_of_nsh(protocol):
    """Returns the kind that a next protocol of NSH, or of VXLAN-GPE, stands for; -1 for others."""
    if protocol == 1:
        return np.int64(_IPV4)
    if protocol == 2:
        return np.int64(_IPV6)
    if protocol == 3:
        return np.int64(FRAME + 1)
    if protocol == 4:
        return np.int64(0x894F)
    return np.int64(MPLS) if protocol == 5 else np.int64(-1)
