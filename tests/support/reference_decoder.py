"""Reference decoder: records to packets, one rule a function, in plain Python and without `flowloom.transforms`."""

import dataclasses
import struct
from collections.abc import Iterable

from reference_records import Record

from flowloom.schemas.arrow.accounting import DropReason

FRAGMENT_LIFETIME_NS = 30 * 10**9
TUNNEL_DEPTH = 8


class DropError(Exception):
    """A record that is no packet, with the reason for which it is counted."""

    def __init__(self, reason: DropReason):
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass
class Packet:
    """One packet with the columns of `schemas.arrow.rows.PACKETS`, and what decoding needs beside them.

    Attributes:
      clock_ns: the latest time of the group's records up to this one, those without a packet included.
      origin: the first 64 bits of its capture's fingerprint.
      fragment: "whole", "first" (more fragments follow) or "later" (without a transport header).
      transport: the captured bytes from the transport header on.
    """

    ip_version: int
    src_ip: bytes
    dst_ip: bytes
    protocol: int
    ip_bytes: int
    ttl: int
    ip_id: int
    fragment: str
    transport: bytes
    payload_bytes: int
    record: int = 0
    origin: int = 0
    time_ns: int = 0
    clock_ns: int = 0
    wire_bytes: int = 0
    vlan: int = 0
    tunnel_id: int = 0
    src_port: int = 0
    dst_port: int = 0
    tcp_flags: int = 0
    tcp_window: int = 0
    tcp_seq: int = 0


def unpack(fields: str, data: bytes, at: int = 0) -> tuple:
    """Returns big-endian fields at a position of captured bytes.

    Raises:
      DropError: `truncated`, if the captured bytes end inside them.
    """
    if at + struct.calcsize(">" + fields) > len(data):
        raise DropError(DropReason.TRUNCATED)
    return struct.unpack_from(">" + fields, data, at)


# link layer: https://www.tcpdump.org/linktypes.html -----------------------------------------------------------------

RAW_IP = (12, 14, 101, 228, 229)
ETHER_TYPE_AT = {1: (14, 12), 104: (4, 2), 113: (16, 14), 276: (20, 0)}
"""Length of the header and position of its EtherType: Ethernet, Cisco HDLC, Linux cooked capture v1 and v2."""
PPP_PROTOCOLS = {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847}
IP_BY_VERSION = -1
"""In the place of an EtherType: the first four bits say which IP follows."""


def link_layer(frame: bytes, link_type: int) -> tuple[int, int]:
    """Returns the EtherType of a frame's content, and where that begins."""
    if link_type in ETHER_TYPE_AT:
        length, at = ETHER_TYPE_AT[link_type]
        unpack(f"{length}x", frame)
        return unpack("H", frame, at)[0], length
    if link_type in RAW_IP:
        return IP_BY_VERSION, 0
    if link_type in (0, 108):
        return null_header(frame)
    if link_type in (9, 50):
        unpack("4x", frame)
        if frame[0] in (0x0F, 0x8F):  # Cisco HDLC under a wrong link type, as Wireshark reads it too
            return link_layer(frame, 104)
        return ppp(frame, 2 if frame[:2] == b"\xff\x03" else 0)
    if link_type == 51:
        return 0x8864, 0
    raise DropError(DropReason.UNSUPPORTED_LINKTYPE)


def null_header(frame: bytes) -> tuple[int, int]:
    """Reads the address family of BSD null, in the byte order of either kind of host, and of BSD loop."""
    (family,) = unpack("I", frame)
    if family > 0xFFFF:
        family = int.from_bytes(frame[:2], "little")
    if family not in (2, 10, 24, 28, 30):  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD and Darwin
        raise DropError(DropReason.NOT_IP)
    return IP_BY_VERSION, 4


def ppp(frame: bytes, at: int) -> tuple[int, int]:
    """Reads a PPP protocol field, of one byte if it is odd (RFC 1661, section 2)."""
    if at + 2 > len(frame):
        raise DropError(DropReason.NOT_IP)
    length = 1 if frame[at] & 1 else 2
    protocol = int.from_bytes(frame[at : at + length])
    if protocol not in PPP_PROTOCOLS:
        raise DropError(DropReason.NOT_IP)
    return PPP_PROTOCOLS[protocol], at + length


def network_layer(frame: bytes, link_type: int) -> tuple[int, int]:
    """Returns where the IP header of a frame begins, and the innermost VLAN identifier before it."""
    kind, at = link_layer(frame, link_type)
    vlan = 0
    while kind not in (0x0800, 0x86DD, IP_BY_VERSION):
        if kind in (0x8100, 0x88A8, 0x9100):  # IEEE 802.1Q, 802.1ad and QinQ before it
            vlan, kind = unpack("HH", frame, at)
            vlan, at = vlan & 0x0FFF, at + 4
        elif kind in (0x8847, 0x8848):  # MPLS label stack (RFC 3032)
            (label,) = unpack("I", frame, at)
            at += 4
            if label & 0x100:
                kind = IP_BY_VERSION
        elif kind == 0x8903:  # Cisco FabricPath: the rest of its header, then the frame of the edge port
            kind, at = unpack("14xH", frame, at)[0], at + 16
        elif kind == 0x8864:  # PPPoE session (RFC 2516)
            unpack("6x", frame, at)
            kind, at = ppp(frame, at + 6)
        elif kind <= 1500 and frame[at : at + 5] == b"\xaa\xaa\x03\0\0" and len(frame) >= at + 8:  # IEEE 802.3, SNAP
            kind, at = unpack("6xH", frame, at)[0], at + 8
            if kind <= 1500:
                raise DropError(DropReason.NOT_IP)
        else:
            raise DropError(DropReason.NOT_IP)
    return at, vlan


# IP and above -------------------------------------------------------------------------------------------------------

EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58


def decode(frame: bytes, wire_bytes: int, link_type: int) -> Packet:
    """Returns the outermost packet of a frame.

    Raises:
      DropError: if the frame carries no IP, or its headers are cut off or contradict each other.
    """
    at, vlan = network_layer(frame, link_type)
    (first,) = unpack("B", frame, at)
    if first >> 4 not in (4, 6):
        raise DropError(DropReason.NOT_IP)
    packet = (ipv4 if first >> 4 == 4 else ipv6)(frame[at:], wire_bytes - at)
    packet.wire_bytes, packet.vlan = wire_bytes, vlan
    if packet.fragment != "later":
        transport_layer(packet)
    return packet


def ipv4(data: bytes, room: int) -> Packet:
    """Reads an IPv4 header (RFC 791, section 3.1); with segmentation offload the length is 0 and all of the `room`."""
    first, length, ip_id, offset, ttl, protocol, src, dst = unpack("BxHHHBB2x4s4s", data)
    header, length = (first & 15) * 4, length or room
    if header < 20 or length < header:
        raise DropError(DropReason.MALFORMED)
    part = "later" if offset & 0x1FFF else "first" if offset & 0x2000 else "whole"
    src, dst = (bytes(10) + b"\xff\xff" + address for address in (src, dst))
    return Packet(4, src, dst, protocol, length, ttl, ip_id, part, data[header:], length - header)


def ipv6(data: bytes, room: int) -> Packet:
    """Reads an IPv6 header and its extension headers (RFC 8200, sections 3 and 4; RFC 4302 for authentication).

    A length of 0 means a jumbogram or segmentation offload, unless there is no next header.
    """
    length, protocol, ttl, src, dst = unpack("4xHBB16s16s", data)
    length = room if length == 0 and protocol != 59 else 40 + length
    at, ip_id, part = 40, 0, "whole"
    while protocol in EXTENSIONS and part != "later":
        next_header, size, offset, number = unpack("BBHI", data, at)
        if protocol == 44:
            ip_id = number
            part = "later" if offset >> 3 else "first" if offset & 1 else part
        at += 8 if protocol == 44 else (size + 2) * 4 if protocol == 51 else (size + 1) * 8
        protocol = next_header
    if length < at:
        raise DropError(DropReason.MALFORMED)
    return Packet(6, src, dst, protocol, length, ttl, ip_id, part, data[at:], length - at)


def transport_layer(packet: Packet) -> None:
    """Reads ports and TCP fields, and takes the transport header off the payload.

    Sources: RFC 9293 (TCP), RFC 768 (UDP), RFC 9260 (SCTP), RFC 792 and RFC 4443 (ICMP).
    """
    if packet.protocol in (ICMP, ICMPV6):
        packet.payload_bytes = max(packet.payload_bytes - 8, 0)
    if packet.protocol not in (TCP, UDP, SCTP):
        return
    header = {TCP: 20, UDP: 8, SCTP: 12}[packet.protocol]
    if packet.payload_bytes < header:
        raise DropError(DropReason.MALFORMED)
    packet.src_port, packet.dst_port = unpack("HH", packet.transport)
    if packet.protocol == TCP:
        packet.tcp_seq, data_offset, packet.tcp_flags, packet.tcp_window = unpack("4xI4xBBH", packet.transport)
        header = (data_offset >> 4) * 4
        if not 20 <= header <= packet.payload_bytes:
            raise DropError(DropReason.MALFORMED)
    packet.payload_bytes -= header


# tunnels: docs/manifest.md, "Tunnels" --------------------------------------------------------------------------


def innermost(packet: Packet, tunnels: Iterable[str]) -> Packet:
    """Returns the innermost packet that is whole by its own headers and fits into those around it."""
    for _ in range(TUNNEL_DEPTH):
        inner = inner_packet(packet, tunnels)
        if inner is None:
            break
        packet = inner
    return packet


def inner_packet(outer: Packet, tunnels: Iterable[str]) -> Packet | None:
    """Returns the packet directly inside a packet, or None."""
    content = tunnel_content(outer, tunnels) if outer.fragment == "whole" else None
    if content is None:
        return None
    header, link_type, number = content
    room = outer.payload_bytes + (8 if outer.protocol == UDP else 0) - header
    frame = outer.transport[header : header + max(room, 0)]
    if not frame:
        return None
    try:
        at, _ = network_layer(frame, link_type)
        inner = decode(frame, room, link_type)
    except DropError:
        return None
    if inner.ip_bytes > room - at:
        return None
    inner.wire_bytes = outer.wire_bytes
    inner.vlan = inner.vlan or outer.vlan
    inner.tunnel_id = outer.tunnel_id if number is None else number
    return inner


def tunnel_content(outer: Packet, tunnels: Iterable[str]) -> tuple[int, int, int | None] | None:
    """Returns where a tunnel's content begins in the transport bytes, its link type and the tunnel's identifier."""
    data, ports = outer.transport, (outer.src_port, outer.dst_port)
    try:
        if outer.protocol in (4, 41):  # RFC 2003, RFC 4213
            version = unpack("B", data)[0] >> 4
            return (0, 101, None) if "ip-in-ip" in tunnels and version == {4: 4, 41: 6}[outer.protocol] else None
        if outer.protocol == 47:
            return gre(data) if "gre" in tunnels else None
        if outer.protocol == UDP:
            if "vxlan" in tunnels and outer.dst_port == 4789:  # RFC 7348: with the flag I
                flags, number = unpack("B3xI", data, 8)
                return (16, 1, number >> 8) if flags & 0x08 else None
            if "gtp-u" in tunnels and 2152 in ports:
                return gtp_u(data)
            if "teredo" in tunnels and 3544 in ports:
                return teredo(data)
    except DropError:
        pass
    return None


def gre(data: bytes) -> tuple[int, int, int | None] | None:
    """Reads a GRE header (RFC 2784, RFC 2890); not of version 1 (PPTP) or with source routing (RFC 1701)."""
    flags, kind = unpack("HH4x", data)
    link_type = {0x0800: 101, 0x86DD: 101, 0x6558: 1}.get(kind)
    if flags & 0x4007 or link_type is None:
        return None
    at = 8 if flags & 0x8000 else 4
    key = None
    if flags & 0x2000:
        (key,) = unpack("I", data, at)
        at += 4
    return at + (4 if flags & 0x1000 else 0), link_type, key


def gtp_u(data: bytes) -> tuple[int, int, int] | None:
    """Reads a G-PDU header of version 1 and its extension headers (3GPP TS 29.281, section 5)."""
    flags, kind, teid = unpack("BB2xI4x", data, 8)
    if flags & 0xF0 != 0x30 or kind != 255:
        return None
    at = 20 if flags & 0x07 else 16
    more = data[at - 1] if flags & 0x04 else 0
    while more:
        (words,) = unpack("B", data, at)
        if words == 0 or at + words * 4 > len(data):
            return None
        at += words * 4
        more = data[at - 1]
    return at, 101, teid


def teredo(data: bytes) -> tuple[int, int, None] | None:
    """Reads authentication and origin indication before an IPv6 packet (RFC 4380, section 5.1.1)."""
    at = 8
    if data[at : at + 2] == b"\0\x01" and at + 4 <= len(data):
        at += 13 + data[at + 2] + data[at + 3]
    if data[at : at + 2] == b"\0\0" and at + 8 <= len(data):
        at += 8
    return (at, 101, None) if unpack("B", data, at)[0] >> 4 == 6 else None


# packets of a group -------------------------------------------------------------------------------------------------


class Decoder:
    """Decodes the records of a capture group in captured order, and remembers first IP fragments.

    Args:
      fragments: "join" or "drop", for later IP fragments.
      tunnels: the kinds of tunnel to look into.
    """

    def __init__(self, fragments: str, tunnels: Iterable[str]):
        self._fragments = fragments
        self._tunnels = tuple(tunnels)
        self._first: dict[tuple, Packet] = {}
        self._clock_ns = 0

    def packet(self, record: Record) -> Packet:
        """Returns the packet of a record.

        Raises:
          DropError: if there is none.
        """
        if record.time_ns is None:
            raise DropError(DropReason.TIME_OUT_OF_RANGE)
        self._clock_ns = max(self._clock_ns, record.time_ns)
        packet = innermost(decode(record.frame, record.wire_bytes, record.link_type), self._tunnels)
        packet.time_ns, packet.clock_ns = record.time_ns, self._clock_ns
        if packet.fragment != "whole":
            self._join(packet)
        return packet

    @property
    def clock_ns(self) -> int:
        """The latest time of all records so far."""
        return self._clock_ns

    def _join(self, packet: Packet) -> None:
        """Gives a later fragment the ports of its first (RFC 791, section 3.2; RFC 8200, section 4.5)."""
        protocol = packet.protocol if packet.ip_version == 4 else None
        datagram = (packet.src_ip, packet.dst_ip, packet.ip_id, protocol)
        if packet.fragment == "first":
            self._first[datagram] = packet
            return
        if self._fragments == "drop":
            raise DropError(DropReason.FRAGMENT_DROPPED)
        first = self._first.get(datagram)
        if first is None or packet.clock_ns - first.clock_ns > FRAGMENT_LIFETIME_NS:
            raise DropError(DropReason.FRAGMENT_WITHOUT_FIRST)
        packet.protocol, packet.src_port, packet.dst_port = first.protocol, first.src_port, first.dst_port
