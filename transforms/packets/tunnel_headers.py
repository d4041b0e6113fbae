"""Headers of tunnels: each function skips one, and returns (position, kind of the content, identifier).

The kind is one of `link_kinds.py`, `NONE` if the header carries no packet; the identifier is -1 if the header has none.
Sources: GRE RFC 2784 and RFC 2890, PPTP RFC 2637, ERSPAN draft-foschiano-erspan, GTP-U 3GPP TS 29.281, VXLAN RFC 7348
and draft-ietf-nvo3-vxlan-gpe, Teredo RFC 4380, Geneve RFC 8926, L2TP RFC 2661 and RFC 3931, CAPWAP RFC 5415, AMT
RFC 7450, GUE draft-ietf-intarea-gue, TZSP as Wireshark reads it.
"""

import numpy as np

from flowloom.transforms.arrays.kernels import part, u16, u32
from flowloom.transforms.packets.link_headers import kind_of_nsh
from flowloom.transforms.packets.link_kinds import FRAME, IP, PPP_FRAME, SHORTEST_TYPE, WIFI_OF_CAPWAP

NONE = -1
_ETHERNET = FRAME + 1


@part
def _nothing(at):
    return at, np.int64(NONE), np.int64(-1)


@part
def open_gre(buffer, at, limit, gre, pptp, erspan):
    """Skips GRE, GRE of version 1 (PPTP), and ERSPAN in GRE, as far as they are asked for."""
    if at + 8 > limit:
        return _nothing(at)
    flags, kind = u16(buffer, at), u16(buffer, at + 2)
    if flags & 0x6007 == 0x2001 and kind == 0x880B:
        length = 8 + (4 if flags & 0x1000 else 0) + (4 if flags & 0x0080 else 0)
        return at + length, np.int64(PPP_FRAME if pptp else NONE), u16(buffer, at + 6)
    if flags & 0x4007:  # source routing (RFC 1701), and other versions
        return _nothing(at)
    at += 8 if flags & 0x8000 else 4  # checksum
    key = np.int64(-1)
    if flags & 0x2000:
        if at + 4 > limit:
            return _nothing(at)
        key = u32(buffer, at)
        at += 4
    if flags & 0x1000:  # sequence number
        at += 4
    if kind in (0x88BE, 0x22EB):
        return _open_erspan(buffer, at, limit, flags, kind) if erspan else _nothing(at)
    return at, np.int64(kind if gre and kind >= SHORTEST_TYPE else NONE), key


@part
def _open_erspan(buffer, at, limit, flags, kind):
    """Skips no header of type I, 8 bytes of type II, 12 or 20 bytes of type III."""
    if kind == 0x88BE and not flags & 0x1000:
        return at, np.int64(_ETHERNET), np.int64(-1)
    if at + (8 if kind == 0x88BE else 12) > limit:
        return _nothing(at)
    session = u16(buffer, at + 2) & 0x3FF
    if kind == 0x88BE:
        return at + 8, np.int64(_ETHERNET), session
    tail = u16(buffer, at + 10)
    content = np.int64(IP if tail >> 10 & 0x1F == 2 else _ETHERNET)
    return at + (20 if tail & 1 else 12), content, session


@part
def open_etherip(buffer, at, limit):
    """Skips EtherIP of version 3 (RFC 3378)."""
    if at + 2 > limit or u16(buffer, at) != 0x3000:
        return _nothing(at)
    return at + 2, np.int64(_ETHERNET), np.int64(-1)


@part
def open_l2tp(buffer, at, limit):
    """Skips the header of a data message of L2TP over UDP."""
    if at + 4 > limit:
        return _nothing(at)
    flags = u16(buffer, at)
    if flags & 0x800F == 3:
        return open_l2tp_3(buffer, at + 4, limit)
    if flags & 0x800F != 2:
        return _nothing(at)
    at += 4 if flags & 0x4000 else 2
    if at + 4 > limit:
        return _nothing(at)
    number = u32(buffer, at)  # tunnel and session
    at += 8 if flags & 0x0800 else 4
    if flags & 0x0200:
        if at + 2 > limit:
            return _nothing(at)
        at += 2 + u16(buffer, at)
    return at, np.int64(PPP_FRAME), number


@part
def open_l2tp_3(buffer, at, limit):
    """Skips a session of L2TPv3 up to an Ethernet frame, which its EtherType tells behind cookie and sublayer."""
    if at + 4 > limit:
        return _nothing(at)
    session = u32(buffer, at)
    for begin in range(at + 4, at + 20, 4):
        if session and begin + 14 <= limit and u16(buffer, begin + 12) in (0x0800, 0x86DD, 0x8100, 0x88A8):
            return begin, np.int64(_ETHERNET), session
    return _nothing(at)


@part
def open_vxlan(buffer, at, limit):
    """Skips VXLAN; without the flag I there is no valid identifier."""
    if at + 8 > limit or not buffer[at] & 0x08:
        return _nothing(at)
    return at + 8, np.int64(_ETHERNET), u32(buffer, at + 4) >> 8


@part
def open_vxlan_gpe(buffer, at, limit):
    """Skips VXLAN with the generic protocol extension, whose flag P says that the header names the content."""
    if at + 8 > limit or not buffer[at] & 0x08:
        return _nothing(at)
    kind = kind_of_nsh(buffer[at + 3]) if buffer[at] & 0x04 else np.int64(_ETHERNET)
    return at + 8, kind, u32(buffer, at + 4) >> 8


@part
def open_geneve(buffer, at, limit):
    """Skips Geneve with its options."""
    if at + 8 > limit or buffer[at] >= 0x40 or u16(buffer, at + 2) < SHORTEST_TYPE:
        return _nothing(at)
    return at + 8 + 4 * np.int64(buffer[at] & 0x3F), u16(buffer, at + 2), u32(buffer, at + 4) >> 8


@part
def open_gue(buffer, at, limit):
    """Skips generic UDP encapsulation of version 0 around IP; version 1 has no header."""
    if at + 4 > limit:
        return _nothing(at)
    first, protocol = np.int64(buffer[at]), buffer[at + 1]
    if first >> 4 in (4, 6):
        return at, np.int64(IP), np.int64(-1)
    if first >= 0x20 or protocol not in (4, 41):  # a control message, or another version
        return _nothing(at)
    return at + 4 + 4 * (first & 0x1F), np.int64(0x0800 if protocol == 4 else 0x86DD), np.int64(-1)


@part
def open_tzsp(buffer, at, limit):
    """Skips TZSP of version 1 with its tags, up to the end tag."""
    if at + 4 > limit or buffer[at] != 1:
        return _nothing(at)
    kind = _kind_of_tzsp(u16(buffer, at + 2))
    at += 4
    while at < limit and buffer[at] != 1:
        if buffer[at] == 0:  # padding has no length
            at += 1
        elif at + 2 > limit:
            return _nothing(at)
        else:
            at += 2 + np.int64(buffer[at + 1])
    return (at + 1, kind, np.int64(-1)) if at < limit else _nothing(at)


@part
def _kind_of_tzsp(protocol):
    for number, link_type in ((1, 1), (2, 6), (4, 9), (5, 10), (7, 101), (18, 105), (119, 119), (127, 163)):
        if protocol == number:
            return np.int64(FRAME + link_type)
    return np.int64(NONE)


@part
def open_capwap(buffer, at, limit):
    """Skips the header of a CAPWAP data packet that is not encrypted, no fragment and no keepalive."""
    if at + 8 > limit or buffer[at] != 0:
        return _nothing(at)
    bits = u32(buffer, at)
    length = 4 * (bits >> 19)
    if bits & 0x88 or length < 8:
        return _nothing(at)
    if bits & 0x100 == 0:
        return at + length, np.int64(_ETHERNET), np.int64(-1)
    return at + length, np.int64(WIFI_OF_CAPWAP if bits >> 9 & 0x1F == 1 else NONE), np.int64(-1)


@part
def open_amt(buffer, at, limit):
    """Skips automatic multicast tunneling around queries, updates and data."""
    if at + 1 > limit or buffer[at] not in (4, 5, 6):
        return _nothing(at)
    return at + (2 if buffer[at] == 6 else 12), np.int64(IP), np.int64(-1)


@part
def open_gtp_u(buffer, at, limit):
    """Skips the header of a G-PDU of version 1.

    Flags E, S and PN add four bytes, and E also extension headers.
    """
    if at + 12 > limit or buffer[at] & 0xF0 != 0x30 or buffer[at + 1] != 255:
        return _nothing(at)
    flags, teid = buffer[at], u32(buffer, at + 4)
    at += 8
    if flags & 0x07:
        at += 4
    extended = flags & 0x04 != 0 and buffer[at - 1] != 0
    while extended:
        length = np.int64(buffer[at]) * 4 if at < limit else 0
        at += length
        if length == 0 or at > limit:
            return _nothing(at)
        extended = buffer[at - 1] != 0
    return at, np.int64(IP), teid


@part
def open_teredo(buffer, at, limit):
    """Skips authentication and origin indication up to an IPv6 packet, the only kind that Teredo carries."""
    if at + 4 <= limit and u16(buffer, at) == 1:
        at += 13 + np.int64(buffer[at + 2]) + np.int64(buffer[at + 3])
    if at + 8 <= limit and u16(buffer, at) == 0:
        at += 8
    if at < limit and buffer[at] >> 4 == 6:
        return at, np.int64(IP), np.int64(-1)
    return _nothing(at)
