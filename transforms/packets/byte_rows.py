"""Packet bytes: rows of equal length with headers in fixed places and addresses masked.

The layout is that of MTC, section 3.2.1, without its last step: the model divides by 255.

    IP header as sent, addresses 0          20 bytes, or up to 60 with options
    TCP header cut to 20 bytes, or UDP header of 8 bytes and 12 zeros
    captured payload, cut or padded with zeros to the row's length
"""

from collections.abc import Iterator

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import numbered_packet_schema
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.kernels import clear_bytes, copy_bytes, u16
from flowloom.transforms.packets.decoder import PacketPlaces
from flowloom.transforms.packets.header_masks import clear_connection, names_hosts

BATCH_BYTES = 1 << 21
"""Most bytes of a batch, which are then read from the cache (docs/performance.md)."""

_KEPT = 0
_IPV6, _OTHER_PROTOCOL, _LATER_FRAGMENT = (
    int(PacketDrop.IPV6),
    int(PacketDrop.OTHER_PROTOCOL),
    int(PacketDrop.LATER_FRAGMENT),
)
_NAME_SERVICE, _EMPTY_SEGMENT = int(PacketDrop.NAME_SERVICE), int(PacketDrop.EMPTY_SEGMENT)
_NO_PACKET = 255
"""In the place of a reason: an ICMP error, which the captures table counts (`DropReason.ICMP_ERROR`)."""
_COLUMNS = ("icmp_error", "ip_version", "protocol", "src_port", "dst_port", "payload_bytes")


def no_drops() -> np.ndarray:
    """Returns int64 counts by `PacketDrop` code, all zero."""
    return np.zeros(max(PacketDrop) + 1, np.int64)


def packet_rows(
    packets: pa.RecordBatch, places: PacketPlaces, serials: np.ndarray, packet_view: PacketView, dropped: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Yields packets as `schemas.arrow.rows.numbered_packet_schema`, in captured order, in batches that fit a cache.

    Args:
      packets: `schemas.arrow.rows.PACKETS`.
      places: their positions; `PacketDecoder.decode_located` returns both.
      serials: int64 number of each packet's flow in its range, from `FlowMeter.update`.
      packet_view: length and masks of a row.
      dropped: int64 counts by `PacketDrop` code; dropped packets are added to them.
    """
    ports = np.zeros(1 << 16, np.bool_)
    ports[list(packet_view.name_service_ports)] = True
    drop = np.empty(packets.num_rows, np.uint8)
    _choose(places.window, places.network, *(view(packets[name]) for name in _COLUMNS), ports, drop, dropped)
    kept = np.flatnonzero(drop == _KEPT)
    schema = numbered_packet_schema(packet_view.length)
    *numbers, content_field = schema
    values = view(packets["record"])[kept], view(packets["time_ns"])[kept], serials[kept]
    columns = [column(value, field.type) for value, field in zip(values, numbers, strict=True)]
    protocol, ip_bytes = view(packets["protocol"]), view(packets["ip_bytes"])
    step = max(BATCH_BYTES // packet_view.length, 1)
    for at in range(0, len(kept), step):
        rows = kept[at : at + step]
        content = pa.allocate_buffer(len(rows) * packet_view.length)
        _write_rows(
            places.window, places.network, places.end, protocol, ip_bytes, rows,
            packet_view.length, packet_view.preset == "strict", np.frombuffer(content, np.uint8),
        )  # fmt: skip
        written = pa.Array.from_buffers(content_field.type, len(rows), [None, content])
        yield pa.RecordBatch.from_arrays([*(c.slice(at, step) for c in columns), written], schema=schema)


@numba.njit(nogil=True, cache=True)
def _choose(window, network, icmp_error, ip_version, protocol, src_port, dst_port, payload, ports, drop, dropped):
    """Writes the reason why each packet is dropped, or `_KEPT`, and count the reasons."""
    for i in range(len(network)):
        if icmp_error[i]:
            reason = _NO_PACKET
        elif ip_version[i] != 4:
            reason = _IPV6
        elif protocol[i] != 6 and protocol[i] != 17:
            reason = _OTHER_PROTOCOL
        elif u16(window, network[i] + 6) & 0x1FFF:
            reason = _LATER_FRAGMENT
        elif ports[src_port[i]] or ports[dst_port[i]]:
            reason = _NAME_SERVICE
        elif protocol[i] == 6 and payload[i] == 0:
            reason = _EMPTY_SEGMENT
        else:
            reason = _KEPT
        drop[i] = reason
        if reason not in (_KEPT, _NO_PACKET):
            dropped[reason] += 1


@numba.njit(nogil=True, cache=True)
def _write_rows(window, network, end, protocol, ip_bytes, rows, length, strict, out):
    """Writes each chosen packet into its row; every byte of a row is written."""
    for i in range(len(rows)):
        packet = rows[i]
        source = network[packet]
        stop = min(end[packet], source + np.int64(ip_bytes[packet]))  # a short frame is padded behind its packet
        header = np.int64(window[source] & 15) * 4
        transport = source + header
        tcp = protocol[packet] == 6
        row = i * length

        copy_bytes(out, row, window, source, header)
        clear_bytes(out, row + 12, 8)  # addresses, RFC 791
        at = row + header
        kept = min(20 if tcp else 8, stop - transport)
        copy_bytes(out, at, window, transport, kept)
        clear_bytes(out, at + kept, 20 - kept)
        payload = transport + 8
        if tcp:  # the length is there unless the header is cut off
            payload = transport + (np.int64(window[transport + 12] >> 4) * 4 if transport + 13 <= stop else 20)
        named = strict and names_hosts(u16(window, transport), u16(window, transport + 2))
        if strict:
            clear_connection(out, row, header + 20)
        at += 20
        copied = 0 if named else max(min(stop - payload, row + length - at), 0)
        copy_bytes(out, at, window, payload, copied)
        clear_bytes(out, at + copied, row + length - at - copied)
