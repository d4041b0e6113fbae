"""Reference of tunnels: what a packet carries inside its tunnel header, in plain Python, one tunnel a function."""

from collections.abc import Collection
from typing import Any, NamedTuple

from reference_links import FRAME, IP, NSH_PROTOCOLS, WIFI_OF_CAPWAP, DropError, unpack

UDP = 17


class Opened(NamedTuple):
    """Content of a tunnel: where it begins behind the IP header, its kind, and the identifier of the tunnel."""

    header: int
    kind: int | str
    number: int | None


def tunnel_content(outer: Any, tunnels: Collection[str], vxlan_ports: Collection[int]) -> Opened | None:
    """Returns the content of a packet that is a tunnel of one of these kinds."""
    data = outer.transport
    try:
        if outer.protocol == UDP:
            name = udp_tunnel(outer.src_port, outer.dst_port, tunnels, vxlan_ports)
            opened = OVER_UDP[name](data[8:]) if name else None
            return opened and opened._replace(header=opened.header + 8)
        if outer.protocol == 47:
            return gre(data, tunnels)
        name, opened_by = OVER_IP.get(outer.protocol, ("", None))
        return opened_by(data) if opened_by and name in tunnels else None
    except DropError:
        return None


def udp_tunnel(src: int, dst: int, tunnels: Collection[str], vxlan_ports: Collection[int]) -> str | None:
    """Returns the first kind of tunnel whose port a datagram has."""
    if "vxlan" in tunnels and dst in vxlan_ports:
        return "vxlan"
    for name, port, either in PORTS:
        if name in tunnels and (dst == port or (either and src == port)):
            return name
    return None


PORTS = (
    ("gtp-u", 2152, True), ("teredo", 3544, True), ("vxlan-gpe", 4790, False), ("geneve", 6081, False),
    ("l2tp", 1701, True), ("tzsp", 37_008, False), ("mpls", 6635, False), ("gue", 6080, False),
    ("capwap", 5247, True), ("amt", 2268, True),
)  # fmt: skip
"""Port of each tunnel over UDP, and whether it is a tunnel in both directions; IANA's service names."""


def gre(data: bytes, tunnels: Collection[str]) -> Opened | None:
    """Reads GRE (RFC 2784, RFC 2890), of version 1 for PPTP (RFC 2637), and ERSPAN in it (draft-foschiano-erspan).

    Source routing (RFC 1701) is not read.
    """
    flags, kind = unpack("HH4x", data)
    if flags & 0x4007 == 1 and flags & 0x2000 and kind == 0x880B:
        if "pptp" not in tunnels:
            return None
        (call,) = unpack("6xH", data)
        return Opened(8 + 4 * bool(flags & 0x1000) + 4 * bool(flags & 0x0080), FRAME + 9, call)
    if flags & 0x4007:
        return None
    at = 8 if flags & 0x8000 else 4
    key = None
    if flags & 0x2000:
        (key,) = unpack("I", data, at)
        at += 4
    at += 4 if flags & 0x1000 else 0
    if kind in (0x88BE, 0x22EB):
        return erspan(data, at, flags, kind) if "erspan" in tunnels else None
    return Opened(at, kind, key) if "gre" in tunnels and kind > 1500 else None


def erspan(data: bytes, at: int, flags: int, kind: int) -> Opened:
    """Reads ERSPAN, with no header in type I, 8 bytes in II, 12 or 20 in III."""
    if kind == 0x88BE and not flags & 0x1000:
        return Opened(at, FRAME + 1, None)
    (session,) = unpack("2xH4x", data, at)
    if kind == 0x88BE:
        return Opened(at + 8, FRAME + 1, session & 0x3FF)
    (tail,) = unpack("10xH", data, at)
    of_ip = tail >> 10 & 0x1F == 2
    return Opened(at + (20 if tail & 1 else 12), IP if of_ip else FRAME + 1, session & 0x3FF)


def ip_in_ip(data: bytes) -> Opened | None:
    """Reads IPv4 in IP (RFC 2003)."""
    return Opened(0, IP, None) if unpack("B", data)[0] >> 4 == 4 else None


def ipv6_in_ip(data: bytes) -> Opened | None:
    """Reads IPv6 in IP (RFC 4213)."""
    return Opened(0, IP, None) if unpack("B", data)[0] >> 4 == 6 else None


def ether_ip(data: bytes) -> Opened | None:
    """Reads EtherIP of version 3 (RFC 3378)."""
    return Opened(2, FRAME + 1, None) if unpack("H", data)[0] == 0x3000 else None


def mpls(data: bytes) -> Opened:
    """Reads MPLS in IP (RFC 4023) or in UDP (RFC 7510)."""
    return Opened(0, 0x8847, None)


def l2tp_over_ip(data: bytes) -> Opened | None:
    """Reads a data message of L2TPv3 over IP (RFC 3931, section 4.1.1)."""
    (session,) = unpack("I", data)
    return l2tp_3(data, 4, session)


def l2tp(data: bytes) -> Opened | None:
    """Reads a data message of L2TP over UDP (RFC 2661, section 3.1; RFC 3931, section 4.1.2)."""
    flags, _ = unpack("HH", data)
    if flags & 0x8000:
        return None
    if flags & 15 == 3:
        return l2tp_3(data, 8, unpack("4xI", data)[0])
    if flags & 15 != 2:
        return None
    at = 4 if flags & 0x4000 else 2
    (number,) = unpack("I", data, at)  # tunnel and session
    at += 8 if flags & 0x0800 else 4
    if flags & 0x0200:
        at += 2 + unpack("H", data, at)[0]
    return Opened(at, FRAME + 9, number)


def l2tp_3(data: bytes, at: int, session: int) -> Opened | None:
    """Returns the Ethernet frame of a session, behind up to 12 bytes of cookie and sublayer."""
    for begin in (at, at + 4, at + 8, at + 12):
        if session and data[begin + 12 : begin + 14] in (b"\x08\0", b"\x86\xdd", b"\x81\0", b"\x88\xa8"):
            return Opened(begin, FRAME + 1, session)
    return None


def vxlan(data: bytes) -> Opened | None:
    """Reads VXLAN (RFC 7348): with the flag I."""
    flags, number = unpack("B3xI", data)
    return Opened(8, FRAME + 1, number >> 8) if flags & 0x08 else None


def vxlan_gpe(data: bytes) -> Opened | None:
    """Reads VXLAN with the generic protocol extension (draft-ietf-nvo3-vxlan-gpe)."""
    flags, following, number = unpack("B2xBI", data)
    kind = NSH_PROTOCOLS.get(following) if flags & 0x04 else FRAME + 1
    return Opened(8, kind, number >> 8) if flags & 0x08 and kind is not None else None


def geneve(data: bytes) -> Opened | None:
    """Reads Geneve (RFC 8926)."""
    first, kind, number = unpack("BxHI", data)
    return Opened(8 + 4 * (first & 0x3F), kind, number >> 8) if first < 0x40 and kind > 1500 else None


def gue(data: bytes) -> Opened | None:
    """Reads generic UDP encapsulation: version 0 with an IP protocol, version 1 without a header."""
    first, protocol = unpack("BB2x", data)
    if first >> 4 in (4, 6):
        return Opened(0, IP, None)
    kind = {4: 0x0800, 41: 0x86DD}.get(protocol)
    return Opened(4 + 4 * (first & 0x1F), kind, None) if kind and first < 0x20 else None


def tzsp(data: bytes) -> Opened | None:
    """Reads the TaZmen sniffer protocol: version 1, a received packet, tags up to the end tag."""
    version, _, protocol = unpack("BBH", data)
    if version != 1 or protocol not in TZSP_LINKS:
        return None
    at = 4
    while (tag := unpack("B", data, at)[0]) != 1:
        at += 2 + unpack("xB", data, at)[0] if tag else 1
    return Opened(at + 1, FRAME + TZSP_LINKS[protocol], None)


TZSP_LINKS = {1: 1, 2: 6, 4: 9, 5: 10, 7: 101, 18: 105, 119: 119, 127: 163}
"""Link type of each protocol of TZSP."""


def capwap(data: bytes) -> Opened | None:
    """Reads a CAPWAP data packet that is not encrypted, no fragment and no keepalive (RFC 5415, section 4.3)."""
    preamble, bits = unpack("B3s4x", data)
    bits = int.from_bytes(bits)
    if preamble or bits & 0x88 or bits >> 19 < 2:
        return None
    if not bits & 0x100:
        return Opened(4 * (bits >> 19), FRAME + 1, None)
    return Opened(4 * (bits >> 19), WIFI_OF_CAPWAP, None) if bits >> 9 & 0x1F == 1 else None


def amt(data: bytes) -> Opened | None:
    """Reads automatic multicast tunneling (RFC 7450): queries, updates and data."""
    header = {4: 12, 5: 12, 6: 2}.get(unpack("B", data)[0])
    return Opened(header, IP, None) if header else None


def gtp_u(data: bytes) -> Opened | None:
    """Reads a G-PDU header of version 1 and its extension headers (3GPP TS 29.281, section 5)."""
    flags, kind, teid = unpack("BB2xI4x", data)
    if flags & 0xF0 != 0x30 or kind != 255:
        return None
    at = 12 if flags & 0x07 else 8
    more = data[at - 1] if flags & 0x04 else 0
    while more:
        (words,) = unpack("B", data, at)
        if words == 0 or at + words * 4 > len(data):
            return None
        at += words * 4
        more = data[at - 1]
    return Opened(at, IP, teid)


def teredo(data: bytes) -> Opened | None:
    """Reads authentication and origin indication before an IPv6 packet (RFC 4380, section 5.1.1)."""
    at = 0
    if data[at : at + 2] == b"\0\x01" and at + 4 <= len(data):
        at += 13 + data[at + 2] + data[at + 3]
    if data[at : at + 2] == b"\0\0" and at + 8 <= len(data):
        at += 8
    return Opened(at, IP, None) if unpack("B", data, at)[0] >> 4 == 6 else None


OVER_IP = {
    4: ("ip-in-ip", ip_in_ip),
    41: ("ip-in-ip", ipv6_in_ip),
    97: ("etherip", ether_ip),
    115: ("l2tp", l2tp_over_ip),
    137: ("mpls", mpls),
}
OVER_UDP = {
    "vxlan": vxlan, "vxlan-gpe": vxlan_gpe, "geneve": geneve, "gtp-u": gtp_u, "teredo": teredo, "l2tp": l2tp,
    "tzsp": tzsp, "mpls": mpls, "gue": gue, "capwap": capwap, "amt": amt,
}  # fmt: skip
