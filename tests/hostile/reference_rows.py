"""Reference of the packets view: rows of bytes in plain Python, from the reference decoder."""

from collections.abc import Sequence

import reference_decoder
from cut_captures import patched
from reference_decoder import TCP, UDP, Packet
from reference_meter import reference_packets

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.packets.header_masks import HOST_SERVICES


def reference_rows(
    files: Sequence[bytes], definition: FlowDefinition, packet_view: PacketView
) -> tuple[list[bytes], dict[PacketDrop, int]]:
    """Returns the rows of readable captures in captured order, and the number of dropped packets by reason."""
    ipv4 = reference_decoder.ipv4

    def located(data: bytes, room: int, decoding: str = "full") -> Packet:
        packet = ipv4(data, room, decoding)
        packet.network = data  # type: ignore[attr-defined]
        return packet

    with patched(reference_decoder, ipv4=located):
        packets, _, _ = reference_packets(files, definition, range(len(files)))
    rows, dropped = [], {}
    for packet in packets:
        if packet.icmp_error:
            continue
        reason = dropped_for(packet, packet_view)
        if reason is None:
            rows.append(row(packet.network, packet, packet_view))  # type: ignore[attr-defined]
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    return rows, dropped


def dropped_for(packet: Packet, packet_view: PacketView) -> PacketDrop | None:
    """Returns the reason for which a packet has no row, None if it has one."""
    if packet.ip_version != 4:
        return PacketDrop.IPV6
    if packet.protocol not in (TCP, UDP):
        return PacketDrop.OTHER_PROTOCOL
    if packet.fragment == "later":
        return PacketDrop.LATER_FRAGMENT
    if {packet.src_port, packet.dst_port} & set(packet_view.name_service_ports):
        return PacketDrop.NAME_SERVICE
    if packet.protocol == TCP and packet.payload_bytes == 0:
        return PacketDrop.EMPTY_SEGMENT
    return None


def row(data: bytes, packet: Packet, packet_view: PacketView) -> bytes:
    """Returns the row of an IPv4 packet: IP header, 20 bytes of transport header, payload, zeros."""
    data = data[: packet.ip_bytes]
    header = (data[0] & 15) * 4
    ip, rest = bytearray(data[:header]), data[header:]
    ip[12:20] = bytes(8)
    own = 20 if packet.protocol == TCP else 8
    transport = bytearray(rest[:own].ljust(20, b"\0"))
    behind = 8 if packet.protocol == UDP else (rest[12] >> 4) * 4 if len(rest) > 12 else 20
    payload = rest[behind:]
    if packet_view.preset == "strict":
        if {int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")} & {*HOST_SERVICES}:
            payload = b""
        ip[4:6], ip[8:9], ip[10:12], ip[20:] = bytes(2), bytes(1), bytes(2), bytes(header - 20)
        cleared = ((0, 12), (16, 18)) if packet.protocol == TCP else ((0, 4), (6, 8))
        for begin, end in cleared:
            transport[begin:end] = bytes(end - begin)
    return bytes(ip + transport + payload)[: packet_view.length].ljust(packet_view.length, b"\0")
