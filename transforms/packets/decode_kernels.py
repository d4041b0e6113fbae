"""Kernels of the packet decoder: headers of located records become one output row per IP packet."""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.icmp_messages import ICMP, is_error
from flowloom.transforms.arrays.kernels import borrowed, step, u64
from flowloom.transforms.packets.ip_headers import LATER_FRAGMENT, WHOLE, ipv4_header, ipv6_header, transport_header
from flowloom.transforms.packets.link_headers import unusual_network_header
from flowloom.transforms.packets.link_layer import UNUSUAL, network_header

NOT_DECODED = 3
"""In the place of a part: a row whose frame has unusual headers, for `decode_unusual`."""

_NOT_IP = int(DropReason.NOT_IP)
_TRUNCATED = int(DropReason.TRUNCATED)
_TIME_OUT_OF_RANGE = int(DropReason.TIME_OUT_OF_RANGE)
_MAPPED, _UPPER_HALF = np.uint64(0xFFFF0000), np.uint64(0xFFFFFFFF00000000)


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
    checksum: np.ndarray
    icmp: np.ndarray
    icmp_error: np.ndarray
    fragment: np.ndarray
    network: np.ndarray
    transport: np.ndarray


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
        ip = ipv4_header(frames.window, at, end, wire_bytes, frames.nfstream)
    elif version == 6:
        ip = ipv6_header(frames.window, at, end, wire_bytes, frames.nfstream)
    else:
        return _NOT_IP
    if ip.drop:
        return ip.drop
    transport = transport_header(frames.window, ip, end, ip.ip_bytes - (ip.transport - at), frames.nfstream)
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
    out.checksum[row] = transport.checksum
    out.icmp[row] = transport.icmp
    out.icmp_error[row] = 0
    out.tunnel_id[row] = 0


@numba.njit(nogil=True, cache=True)
def quote_packets(window, end, nfstream, out):
    """Writes the flow of the quoted packet into the rows of ICMP errors, and returns their number.

    An error stays a packet like others where its quote names no flow: without ports, of a later fragment, or of
    another error.

    Args:
      end: int64 position behind the captured bytes of each row's frame.
      out: the rows, with the positions of headers.
    """
    out = DecodedColumns(*borrowed(out))
    count = 0
    for row in range(len(end)):
        if out.fragment[row] != WHOLE or not is_error(out.protocol[row], out.icmp[row]):
            continue
        at = out.transport[row] + 8
        stop = min(end[row], at + np.int64(out.payload_bytes[row]))
        version = 4 if out.protocol[row] == ICMP else 6
        if at >= stop or window[at] >> 4 != version:
            continue
        if version == 4:
            ip = ipv4_header(window, at, stop, stop - at, nfstream)
        else:
            ip = ipv6_header(window, at, stop, stop - at, nfstream)
        if ip.drop or ip.fragment == LATER_FRAGMENT:
            continue
        transport = transport_header(window, ip, stop, ip.ip_bytes - (ip.transport - at), nfstream)
        if transport.drop or is_error(ip.protocol, transport.icmp):
            continue
        _write_addresses(window, at, version, out, row)
        out.protocol[row], out.icmp[row], out.icmp_error[row] = ip.protocol, transport.icmp, 1
        out.src_port[row], out.dst_port[row] = transport.src_port, transport.dst_port
        count += 1
    return count
