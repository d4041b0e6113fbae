"""Kernels of the packet decoder: headers of located records become one output row per IP packet."""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import Number, borrowed, step, u16, u32, u64
from flowloom.transforms.packets.ipv6_extensions import EXTENSIONS, FRAGMENT, extension_bytes
from flowloom.transforms.packets.link_headers import unusual_network_header
from flowloom.transforms.packets.link_layer import UNUSUAL, network_header

WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT = 0, 1, 2
"""Parts of an IP datagram."""
NOT_DECODED = 3
"""In the place of a part: a row whose frame has unusual headers, for `decode_unusual`."""
HEADER_CUT = 4
"""Added to a part: the TCP header is cut off behind the ports."""

_NOT_IP = int(DropReason.NOT_IP)
_TRUNCATED = int(DropReason.TRUNCATED)
_MALFORMED = int(DropReason.MALFORMED)
_TIME_OUT_OF_RANGE = int(DropReason.TIME_OUT_OF_RANGE)
_MAPPED, _UPPER_HALF = np.uint64(0xFFFF0000), np.uint64(0xFFFFFFFF00000000)
_TCP, _UDP, _SCTP = 6, 17, 132
_OPAQUE_TO_NFSTREAM = (51, 139, 140)
"""Extension headers that NFStream takes for a protocol: authentication, HIP, Shim6."""


class Frames(NamedTuple):
    """Columns of `Records`, and whether headers are read as NFStream reads them (`decoding: nfstream`)."""

    window: np.ndarray
    start: np.ndarray
    captured: np.ndarray
    wire: np.ndarray
    time_ns: np.ndarray
    link_type: np.ndarray
    jumps: np.ndarray
    nfstream: bool


class DecodedColumns(NamedTuple):
    """Columns of `schemas.arrow.rows.PACKETS`, the part of a datagram, and the positions of both headers.

    `network` and `transport` have as many rows as the others, or none if they are not wanted.
    """

    record: np.ndarray
    time_ns: np.ndarray
    clock_ns: np.ndarray
    src_ip: np.ndarray
    dst_ip: np.ndarray
    src_port: np.ndarray
    dst_port: np.ndarray
    protocol: np.ndarray
    ip_version: np.ndarray
    vlan: np.ndarray
    tunnel_id: np.ndarray
    wire_bytes: np.ndarray
    ip_bytes: np.ndarray
    payload_bytes: np.ndarray
    ip_id: np.ndarray
    ttl: np.ndarray
    tcp_flags: np.ndarray
    tcp_window: np.ndarray
    tcp_seq: np.ndarray
    tcp_ack: np.ndarray
    fragment: np.ndarray
    network: np.ndarray
    transport: np.ndarray


class _IpHeader(NamedTuple):
    """Fields of an IP header, and the position of the transport header; `drop` is a `DropReason`, or 0 for none."""

    drop: Number
    transport: Number
    ip_bytes: Number
    protocol: Number
    fragment: Number
    ip_id: Number
    ttl: Number


class _TransportHeader(NamedTuple):
    """Fields of a transport header, 0 where there is none; `drop` is a `DropReason` or 0, `cut` `HEADER_CUT` or 0."""

    drop: Number
    cut: Number
    payload_bytes: Number
    src_port: Number
    dst_port: Number
    flags: Number
    window: Number
    seq: Number
    ack: Number


@numba.njit(nogil=True, cache=True)
def decode_records(frames, first_record, clock_ns, out, dropped):
    """Writes one row per IP packet and counts the other records by `DropReason`.

    A frame with unusual headers has a row that is `NOT_DECODED`.

    Args:
      clock_ns: the latest time of all records before.

    Returns:
      The number of rows, how many are not decoded, and the latest time of all records up to the last one.
    """
    frames, out = Frames(*borrowed(frames)), DecodedColumns(*borrowed(out))
    count = np.int64(0)  # one type from the start, so that the steps are compiled once
    unusual = jump = 0
    for i in range(len(frames.start)):
        if jump < len(frames.jumps) and frames.jumps[jump] == i:
            jump += 1
        elif frames.time_ns[i] >= 0:
            clock_ns = max(clock_ns, frames.time_ns[i])
        drop = _decode(frames, i, out, count)
        if drop and drop != UNUSUAL:
            dropped[drop] += 1
        else:
            if drop:
                out.fragment[count] = NOT_DECODED
                unusual += 1
            out.record[count] = np.uint64(first_record) + np.uint64(i)
            out.clock_ns[count] = max(clock_ns, 0)  # 1970 while no time counts
            count += 1
    return count, unusual, clock_ns


@numba.njit(nogil=True, cache=True)
def decode_unusual(frames, first_record, out, keep, dropped):
    """Decodes the rows that `decode_records` left, in their places, and counts those without a packet by `DropReason`.

    Args:
      keep: bool for each row; False is written for those without a packet.
    """
    frames, out = Frames(*borrowed(frames)), DecodedColumns(*borrowed(out))
    for row in range(len(keep)):
        if out.fragment[row] == NOT_DECODED:
            i = np.int64(out.record[row] - np.uint64(first_record))
            start = frames.start[i]
            at, vlan = unusual_network_header(frames.window, start, start + frames.captured[i], frames.link_type[i])
            drop = _decode_packet(frames, i, at, vlan, out, row)
            if drop:
                dropped[drop] += 1
                keep[row] = False


@step
def _decode(frames, i, out, row):
    """Writes the packet of record `i` into a row; returns 0, or the reason of a record without one."""
    if frames.time_ns[i] < 0:
        return _TIME_OUT_OF_RANGE
    start = frames.start[i]
    at, vlan = network_header(frames.window, start, start + frames.captured[i], frames.link_type[i])
    return _decode_packet(frames, i, at, vlan, out, row)


@step
def _decode_packet(frames, i, at, vlan, out, row):
    """Writes the packet whose IP header is at a position; returns 0, or the reason of a record without one."""
    start = frames.start[i]
    end = start + frames.captured[i]
    if at < 0:
        return -at
    if at >= end:
        return _TRUNCATED
    wire_bytes = frames.wire[i] - (at - start)
    version = frames.window[at] >> 4
    if version == 4:
        ip = _ipv4(frames.window, at, end, wire_bytes, frames.nfstream)
    elif version == 6:
        ip = _ipv6(frames.window, at, end, wire_bytes, frames.nfstream)
    else:
        return _NOT_IP
    if ip.drop:
        return ip.drop
    transport = _transport(frames.window, ip, end, ip.ip_bytes - (ip.transport - at), frames.nfstream)
    if transport.drop:
        return transport.drop
    out.time_ns[row] = frames.time_ns[i]
    out.wire_bytes[row] = frames.wire[i]
    out.ip_version[row] = version
    out.vlan[row] = vlan
    _write_addresses(frames.window, at, version, out, row)
    _write_headers(ip, transport, out, row)
    if len(out.network):
        out.network[row] = at
        out.transport[row] = ip.transport
    return 0


@step
def _ipv4(buffer, at, end, wire_bytes, nfstream):
    """Returns the IPv4 header (RFC 791) of a packet that has `wire_bytes` behind its link layer."""
    if at + 20 > end:
        return _no_ip(_TRUNCATED)
    header = np.int64(buffer[at] & 15) * 4
    ip_bytes = u16(buffer, at + 2)
    if ip_bytes == 0 and not nfstream:  # segmentation offload: longer than the field can say
        ip_bytes = wire_bytes
    if header < 20 or ip_bytes < header:
        return _no_ip(_MALFORMED)
    offset = u16(buffer, at + 6)
    fragment = WHOLE
    if offset & 0x1FFF:
        fragment = LATER_FRAGMENT
    elif offset & 0x2000:
        fragment = FIRST_FRAGMENT
    protocol, ip_id, ttl = np.int64(buffer[at + 9]), u16(buffer, at + 4), np.int64(buffer[at + 8])
    return _IpHeader(0, at + header, ip_bytes, protocol, fragment, ip_id, ttl)


@step
def _ipv6(buffer, at, end, wire_bytes, nfstream):
    """Returns the IPv6 header (RFC 8200), extensions included, of a packet with `wire_bytes` behind its link layer."""
    if at + 40 > end:
        return _no_ip(_TRUNCATED)
    ip_bytes = u16(buffer, at + 4) + 40
    if ip_bytes == 40 and buffer[at + 6] != 59 and not nfstream:  # jumbogram or segmentation offload
        ip_bytes = wire_bytes
    protocol = np.int64(buffer[at + 6])
    transport = at + 40
    fragment, ip_id = WHOLE, np.int64(0)
    while protocol in EXTENSIONS and fragment != LATER_FRAGMENT:
        if nfstream and protocol in _OPAQUE_TO_NFSTREAM:
            break
        if transport + 8 > end:
            return _no_ip(_TRUNCATED)
        if protocol == FRAGMENT:
            offset = u16(buffer, transport + 2)
            ip_id = u32(buffer, transport + 4)
            if offset & 0xFFF8:
                fragment = LATER_FRAGMENT
            elif offset & 1:
                fragment = FIRST_FRAGMENT
        length = extension_bytes(buffer, transport, protocol)
        protocol = np.int64(buffer[transport])
        transport += length
    if ip_bytes < transport - at:
        return _no_ip(_MALFORMED)
    return _IpHeader(0, transport, ip_bytes, protocol, fragment, ip_id, np.int64(buffer[at + 7]))


@step
def _no_ip(drop):
    return _IpHeader(drop, 0, 0, 0, 0, 0, 0)


@step
def _transport(buffer, ip, end, left, nfstream):
    """Returns the transport header of a packet with `left` bytes behind its IP header."""
    at, protocol = ip.transport, ip.protocol
    if ip.fragment == LATER_FRAGMENT:
        return _TransportHeader(0, 0, left, 0, 0, 0, 0, 0, 0)
    if nfstream and (protocol == _SCTP or (protocol == _TCP and left < 20) or (protocol == _UDP and left < 8)):
        return _TransportHeader(0, 0, left, 0, 0, 0, 0, 0, 0)
    if protocol == _TCP:
        return _tcp(buffer, at, end, left, nfstream)
    if protocol in (_UDP, _SCTP):  # RFC 768, RFC 9260
        payload = left - (8 if protocol == _UDP else 12)
        if payload < 0:
            return _no_transport(_MALFORMED)
        if at + 4 > end:
            return _no_transport(_TRUNCATED)
        return _TransportHeader(0, 0, payload, u16(buffer, at), u16(buffer, at + 2), 0, 0, 0, 0)
    if protocol in (1, 58):  # ICMP: RFC 792, RFC 4443
        return _TransportHeader(0, 0, max(left - 8, 0), 0, 0, 0, 0, 0, 0)
    return _TransportHeader(0, 0, left, 0, 0, 0, 0, 0, 0)


@step
def _tcp(buffer, at, end, left, nfstream):
    """Returns the TCP header (RFC 9293) as far as the window, which ends at byte 16."""
    if left < 20:
        return _no_transport(_MALFORMED)
    if at + 16 > end:
        return _tcp_cut_off(buffer, at, end, left, nfstream)
    header = np.int64(buffer[at + 12] >> 4) * 4
    if nfstream:
        header = min(header, left)
    elif header < 20 or header > left:
        return _no_transport(_MALFORMED)
    return _TransportHeader(
        0, 0, left - header, u16(buffer, at), u16(buffer, at + 2), np.int64(buffer[at + 13]), u16(buffer, at + 14),
        u32(buffer, at + 4), u32(buffer, at + 8),
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _tcp_cut_off(buffer, at, end, left, nfstream):
    """Returns a TCP header that is cut off before byte 16, if its ports are there.

    A field that is cut off is 0; the header then counts 20 bytes.
    """
    if at + 4 > end:
        return _no_transport(_TRUNCATED)
    header = np.int64(buffer[at + 12] >> 4) * 4 if at + 13 <= end else np.int64(20)
    if nfstream:
        header = min(header, left)
    elif header < 20 or header > left:
        return _no_transport(_MALFORMED)
    flags = np.int64(buffer[at + 13]) if at + 14 <= end else np.int64(0)
    seq = u32(buffer, at + 4) if at + 8 <= end else np.int64(0)
    ack = u32(buffer, at + 8) if at + 12 <= end else np.int64(0)
    return _TransportHeader(0, HEADER_CUT, left - header, u16(buffer, at), u16(buffer, at + 2), flags, 0, seq, ack)


@step
def _no_transport(drop):
    return _TransportHeader(drop, 0, 0, 0, 0, 0, 0, 0, 0)


@step
def _write_addresses(buffer, at, version, out, row):
    """Writes both addresses of the IP header at a position; IPv4 becomes IPv4-mapped IPv6 (RFC 4291)."""
    if version == 4:
        out.src_ip[row, 0] = 0
        out.dst_ip[row, 0] = 0
        out.src_ip[row, 1] = (u64(buffer, at + 8) & _UPPER_HALF) | _MAPPED
        out.dst_ip[row, 1] = (u64(buffer, at + 12) & _UPPER_HALF) | _MAPPED
    else:
        out.src_ip[row, 0] = u64(buffer, at + 8)
        out.src_ip[row, 1] = u64(buffer, at + 16)
        out.dst_ip[row, 0] = u64(buffer, at + 24)
        out.dst_ip[row, 1] = u64(buffer, at + 32)


@step
def _write_headers(ip, transport, out, row):
    out.ip_bytes[row] = ip.ip_bytes
    out.protocol[row] = ip.protocol
    out.fragment[row] = ip.fragment | transport.cut
    out.ip_id[row] = ip.ip_id
    out.ttl[row] = ip.ttl
    out.payload_bytes[row] = transport.payload_bytes
    out.src_port[row] = transport.src_port
    out.dst_port[row] = transport.dst_port
    out.tcp_flags[row] = transport.flags
    out.tcp_window[row] = transport.window
    out.tcp_seq[row] = transport.seq
    out.tcp_ack[row] = transport.ack
    out.tunnel_id[row] = 0
