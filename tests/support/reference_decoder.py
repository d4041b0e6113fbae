"""Reference decoder: records to packets, one rule a function, in plain Python and without `flowloom.transforms`."""

import dataclasses
from collections.abc import Collection

from reference_links import FRAME, DropError, network_layer, unpack
from reference_records import Record
from reference_tunnels import Opened, tunnel_content

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import NO_ICMP

FRAGMENT_LIFETIME_NS = 30 * 10**9
TUNNEL_DEPTH = 8


@dataclasses.dataclass
class Packet:
    """One packet with the columns of `schemas.arrow.rows.PACKETS`, and what decoding needs beside them.

    Attributes:
      clock_ns: the latest time of the group's records up to this one, those without a packet included.
      origin: the first 64 bits of its capture's fingerprint.
      fragment: "whole", "first" (more fragments follow) or "later" (without a transport header).
      transport: the captured bytes from the transport header on.
      checksum: that of its transport header, 0 if that was not read; in a later fragment the offset.
      icmp: type, code and identifier of an ICMP message, as in `schemas.arrow.rows.PACKETS`.
      icmp_error: 1 for an ICMP error that stands for the packet that it quotes.
      header_cut: whether its TCP header is cut off behind the ports, before the end of the window.
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
    tcp_ack: int = 0
    checksum: int = 0
    icmp: int = NO_ICMP
    icmp_error: int = 0
    header_cut: bool = False


# IP and above -------------------------------------------------------------------------------------------------------

EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58


def decode(frame: bytes, wire_bytes: int, kind: int | str, decoding: str = "full") -> Packet:
    """Returns the outermost packet of a frame, which begins as a kind of `reference_links` says.

    Args:
      decoding: "full" or "nfstream" (docs/flow-definitions.md, "Decoding").

    Raises:
      DropError: if the frame carries no IP, or its headers are cut off or contradict each other.
    """
    at, vlan = network_layer(frame, kind)
    (first,) = unpack("B", frame, at)
    if first >> 4 not in (4, 6):
        raise DropError(DropReason.NOT_IP)
    packet = (ipv4 if first >> 4 == 4 else ipv6)(frame[at:], wire_bytes - at, decoding)
    packet.wire_bytes, packet.vlan = wire_bytes, vlan
    if packet.fragment != "later":
        transport_layer(packet, decoding)
    return packet


def ipv4(data: bytes, room: int, decoding: str) -> Packet:
    """Reads an IPv4 header (RFC 791, section 3.1); with segmentation offload the length is 0 and all of the `room`.

    NFStream does not know segmentation offload.
    """
    first, length, ip_id, offset, ttl, protocol, src, dst = unpack("BxHHHBB2x4s4s", data)
    if length == 0 and decoding == "full":
        length = room
    header = (first & 15) * 4
    if header < 20 or length < header:
        raise DropError(DropReason.MALFORMED)
    part = "later" if offset & 0x1FFF else "first" if offset & 0x2000 else "whole"
    src, dst = (bytes(10) + b"\xff\xff" + address for address in (src, dst))
    place = (offset & 0x1FFF) * 8
    return Packet(4, src, dst, protocol, length, ttl, ip_id, part, data[header:], length - header, checksum=place)


def ipv6(data: bytes, room: int, decoding: str) -> Packet:
    """Reads an IPv6 header and its extension headers (RFC 8200, sections 3 and 4; RFC 4302 for authentication).

    A length of 0 means a jumbogram or segmentation offload, unless there is no next header. NFStream knows neither,
    and does not look behind authentication, HIP and Shim6.
    """
    length, protocol, ttl, src, dst = unpack("4xHBB16s16s", data)
    length = room if length == 0 and protocol != 59 and decoding == "full" else 40 + length
    at, ip_id, part, place = 40, 0, "whole", 0
    while protocol in EXTENSIONS and part != "later" and not (decoding == "nfstream" and protocol in (51, 139, 140)):
        next_header, size, offset, number = unpack("BBHI", data, at)
        if protocol == 44:
            ip_id = number
            part = "later" if offset >> 3 else "first" if offset & 1 else part
            place = offset & 0xFFF8
        at += 8 if protocol == 44 else (size + 2) * 4 if protocol == 51 else (size + 1) * 8
        protocol = next_header
    if length < at:
        raise DropError(DropReason.MALFORMED)
    return Packet(6, src, dst, protocol, length, ttl, ip_id, part, data[at:], length - at, checksum=place)


def transport_layer(packet: Packet, decoding: str) -> None:
    """Reads ports and TCP fields, and takes the transport header off the payload.

    Sources: RFC 9293 (TCP), RFC 768 (UDP), RFC 9260 (SCTP), RFC 792 and RFC 4443 (ICMP).

    NFStream reads no ports of SCTP, nor of packets that are too short for their header, and takes any length of a TCP
    header.
    """
    if packet.protocol in (ICMP, ICMPV6):
        packet.icmp = icmp(packet)
        packet.checksum = checksum(packet, 2, 2)
        packet.payload_bytes = max(packet.payload_bytes - 8, 0)
    if packet.protocol not in (TCP, UDP, SCTP):
        return
    header = {TCP: 20, UDP: 8, SCTP: 12}[packet.protocol]
    if decoding == "nfstream" and (packet.protocol == SCTP or packet.payload_bytes < header):
        return
    if packet.payload_bytes < header:
        raise DropError(DropReason.MALFORMED)
    packet.src_port, packet.dst_port = unpack("HH", packet.transport)
    packet.checksum = checksum(packet, *{TCP: (16, 2), UDP: (6, 2), SCTP: (8, 4)}[packet.protocol])
    if packet.protocol == TCP:
        header = tcp(packet)
        if decoding == "nfstream":
            header = min(header, packet.payload_bytes)
        elif not 20 <= header <= packet.payload_bytes:
            raise DropError(DropReason.MALFORMED)
    packet.payload_bytes -= header


def checksum(packet: Packet, at: int, size: int) -> int:
    """Returns the checksum in a transport header, 0 if it was not captured."""
    found = packet.transport[at : at + size]
    return int.from_bytes(found) if len(found) == size else 0


def tcp(packet: Packet) -> int:
    """Reads TCP fields, 0 where they are cut off; returns the length of the header, by default 20."""
    captured = len(packet.transport)
    packet.header_cut = captured < 16
    if captured >= 8:
        (packet.tcp_seq,) = unpack("4xI", packet.transport)
    if captured >= 12:
        (packet.tcp_ack,) = unpack("8xI", packet.transport)
    if captured >= 14:
        (packet.tcp_flags,) = unpack("13xB", packet.transport)
    if captured >= 16:
        (packet.tcp_window,) = unpack("14xH", packet.transport)
    return (packet.transport[12] >> 4) * 4 if captured >= 13 else 20


WITH_IDENTIFIER = {ICMP: (0, 8, 13, 14, 15, 16, 17, 18, 42, 43), ICMPV6: (128, 129, 160, 161)}
"""Types of ICMP messages with an identifier (RFC 792, RFC 950, RFC 4443, RFC 8335)."""
ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
"""Types of ICMP messages that quote a packet (RFC 1122, section 3.2.2; RFC 4443, section 2.1)."""


def icmp(packet: Packet) -> int:
    """Returns type, code and identifier of an ICMP message, `NO_ICMP` if they are cut off."""
    content = packet.transport[: packet.payload_bytes]
    if len(content) < 2:
        return NO_ICMP
    number = content[0] << 24 | content[1] << 16
    if content[0] in WITH_IDENTIFIER[packet.protocol]:
        if len(content) < 6:
            return NO_ICMP
        number |= int.from_bytes(content[4:6])
    return number


def quoted(error: Packet, decoding: str) -> Packet | None:
    """Returns the packet that an ICMP error quotes, None where there is none that names a flow.

    Later fragments name no flow, and nor do ICMP errors: there are none about those (RFC 1122, section 3.2.2).
    """
    if error.fragment != "whole" or error.icmp == NO_ICMP or error.icmp >> 24 not in ERRORS.get(error.protocol, ()):
        return None
    content = error.transport[8 : 8 + error.payload_bytes]
    version = 4 if error.protocol == ICMP else 6
    if content[:1] and content[0] >> 4 != version:
        return None
    try:
        packet = (ipv4 if version == 4 else ipv6)(content, len(content), decoding)
        if packet.fragment == "later":
            return None
        transport_layer(packet, decoding)
    except DropError:
        return None
    return None if packet.icmp >> 24 in ERRORS.get(packet.protocol, ()) else packet


# tunnels: docs/manifest.md, "Tunnels" --------------------------------------------------------------------------


def innermost(packet: Packet, tunnels: Collection[str], vxlan_ports: Collection[int], decoding: str) -> Packet:
    """Returns the innermost packet that is whole by its own headers and fits into those around it."""
    for _ in range(TUNNEL_DEPTH):
        opened = tunnel_content(packet, tunnels, vxlan_ports) if packet.fragment == "whole" else None
        inner = inner_packet(packet, opened, decoding) if opened else None
        if inner is None:
            break
        packet = inner
    return packet


def inner_packet(outer: Packet, opened: Opened, decoding: str) -> Packet | None:
    """Returns the packet directly inside a tunnel, or None."""
    room = outer.payload_bytes + (8 if outer.protocol == UDP else 0) - opened.header
    frame = outer.transport[opened.header : opened.header + max(room, 0)]
    if not frame:
        return None
    try:
        at, _ = network_layer(frame, opened.kind)
        inner = decode(frame, room, opened.kind, decoding)
    except DropError:
        return None
    if inner.ip_bytes > room - at:
        return None
    inner.wire_bytes = outer.wire_bytes
    inner.vlan = inner.vlan or outer.vlan
    inner.tunnel_id = outer.tunnel_id if opened.number is None else opened.number
    return inner


# packets of a group -------------------------------------------------------------------------------------------------


class Decoder:
    """Decodes the records of a capture group in captured order, and remembers first IP fragments.

    Args:
      fragments: "join" or "drop", for later IP fragments.
      tunnels: the kinds of tunnel to look into.
      vxlan_ports: the ports of VXLAN.
      decoding: "full" or "nfstream".
      icmp_errors: "packets" or "count".
    """

    def __init__(
        self,
        fragments: str,
        tunnels: Collection[str],
        vxlan_ports: Collection[int],
        decoding: str = "full",
        icmp_errors: str = "packets",
    ):
        self._icmp_errors = icmp_errors
        self._decoding = decoding
        self._fragments = fragments
        self._tunnels = tunnels
        self._vxlan_ports = vxlan_ports
        self._first: dict[tuple, Packet] = {}
        self._clock_ns = 0

    def packet(self, record: Record, *, counts: bool = True) -> Packet:
        """Returns the packet of a record.

        Args:
          counts: whether the clock believes its time.

        Raises:
          DropError: if there is none.
        """
        if record.time_ns is None:
            raise DropError(DropReason.TIME_OUT_OF_RANGE)
        if counts:
            self._clock_ns = max(self._clock_ns, record.time_ns)
        packet = decode(record.frame, record.wire_bytes, FRAME + record.link_type, self._decoding)
        packet = innermost(packet, self._tunnels, self._vxlan_ports, self._decoding)
        packet.time_ns, packet.clock_ns = record.time_ns, self._clock_ns
        if packet.fragment != "whole":
            self._join(packet)
        about = quoted(packet, self._decoding) if self._icmp_errors == "count" else None
        if about is None:
            return packet
        return dataclasses.replace(
            packet, src_ip=about.src_ip, dst_ip=about.dst_ip, src_port=about.src_port, dst_port=about.dst_port,
            protocol=about.protocol, icmp=about.icmp, icmp_error=1,
        )  # fmt: skip

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
        packet.icmp = first.icmp
