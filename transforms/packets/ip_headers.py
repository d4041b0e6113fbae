"""IP and transport headers in kernels: steps of the packet decoder, from a position to the fields of a header."""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import NO_ICMP
from flowloom.transforms.arrays.icmp_messages import ICMP, ICMPV6, has_identifier
from flowloom.transforms.arrays.kernels import Number, step, u16, u32

WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT = 0, 1, 2
"""Parts of an IP datagram."""
HEADER_CUT = 4
"""Added to a part: the TCP header is cut off behind the ports."""

EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
"""Protocol numbers of IPv6 extension headers (RFC 8200, section 4; RFC 7045)."""
FRAGMENT, AUTHENTICATION = 44, 51
_OPAQUE_TO_NFSTREAM = (51, 139, 140)
"""Extension headers that NFStream takes for a protocol: authentication, HIP, Shim6."""

_TRUNCATED = int(DropReason.TRUNCATED)
_MALFORMED = int(DropReason.MALFORMED)
_TCP, _UDP, _SCTP = 6, 17, 132


@numba.njit(nogil=True, cache=True, inline="always")
def extension_bytes(buffer, at, protocol):
    """Returns the length in bytes of an extension header at a position."""
    if protocol == FRAGMENT:
        return np.int64(8)
    if protocol == AUTHENTICATION:  # RFC 4302
        return (np.int64(buffer[at + 1]) + 2) * 4
    return (np.int64(buffer[at + 1]) + 1) * 8


class IpHeader(NamedTuple):
    """Fields of an IP header, and the position of the transport header.

    `offset` is that of an IP fragment; `drop` is a `DropReason`, or 0 for none.
    """

    drop: Number
    transport: Number
    ip_bytes: Number
    protocol: Number
    fragment: Number
    ip_id: Number
    ttl: Number
    offset: Number


class TransportHeader(NamedTuple):
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
    icmp: Number
    checksum: Number


@step
def ipv4_header(buffer, at, end, wire_bytes, nfstream):
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
    return IpHeader(0, at + header, ip_bytes, protocol, fragment, ip_id, ttl, (offset & 0x1FFF) * 8)


@step
def ipv6_header(buffer, at, end, wire_bytes, nfstream):
    """Returns the IPv6 header (RFC 8200), extensions included, of a packet with `wire_bytes` behind its link layer."""
    if at + 40 > end:
        return _no_ip(_TRUNCATED)
    ip_bytes = u16(buffer, at + 4) + 40
    if ip_bytes == 40 and buffer[at + 6] != 59 and not nfstream:  # jumbogram or segmentation offload
        ip_bytes = wire_bytes
    protocol = np.int64(buffer[at + 6])
    transport = at + 40
    fragment, ip_id, place = WHOLE, np.int64(0), np.int64(0)
    while protocol in EXTENSIONS and fragment != LATER_FRAGMENT:
        if nfstream and protocol in _OPAQUE_TO_NFSTREAM:
            break
        if transport + 8 > end:
            return _no_ip(_TRUNCATED)
        if protocol == FRAGMENT:
            offset = u16(buffer, transport + 2)
            ip_id = u32(buffer, transport + 4)
            place = offset & 0xFFF8
            if offset & 0xFFF8:
                fragment = LATER_FRAGMENT
            elif offset & 1:
                fragment = FIRST_FRAGMENT
        length = extension_bytes(buffer, transport, protocol)
        protocol = np.int64(buffer[transport])
        transport += length
    if ip_bytes < transport - at:
        return _no_ip(_MALFORMED)
    return IpHeader(0, transport, ip_bytes, protocol, fragment, ip_id, np.int64(buffer[at + 7]), place)


@step
def _no_ip(drop):
    return IpHeader(drop, 0, 0, 0, 0, 0, 0, 0)


@step
def transport_header(buffer, ip, end, left, nfstream):
    """Returns the transport header of a packet with `left` bytes behind its IP header."""
    at, protocol = ip.transport, ip.protocol
    if ip.fragment == LATER_FRAGMENT:
        return _without_ports(left, NO_ICMP, ip.offset)
    if nfstream and (protocol == _SCTP or (protocol == _TCP and left < 20) or (protocol == _UDP and left < 8)):
        return _without_ports(left, NO_ICMP, 0)
    if protocol == _TCP:
        return _tcp(buffer, at, end, left, nfstream)
    if protocol in (_UDP, _SCTP):  # RFC 768, RFC 9260
        payload = left - (8 if protocol == _UDP else 12)
        if payload < 0:
            return _no_transport(_MALFORMED)
        if at + 4 > end:
            return _no_transport(_TRUNCATED)
        if protocol == _UDP:
            checksum = u16(buffer, at + 6) if at + 8 <= end else np.int64(0)
        else:
            checksum = u32(buffer, at + 8) if at + 12 <= end else np.int64(0)
        return TransportHeader(0, 0, payload, u16(buffer, at), u16(buffer, at + 2), 0, 0, 0, 0, NO_ICMP, checksum)
    if protocol in (ICMP, ICMPV6):  # RFC 792, RFC 4443
        icmp = _icmp(buffer, at, min(end, at + left), protocol)
        return _without_ports(max(left - 8, 0), icmp, u16(buffer, at + 2) if at + 4 <= end else np.int64(0))
    return _without_ports(left, NO_ICMP, 0)


@step
def _without_ports(payload, icmp, checksum):
    return TransportHeader(0, 0, payload, 0, 0, 0, 0, 0, 0, icmp, np.int64(checksum))


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
    checksum = u16(buffer, at + 16) if at + 18 <= end else np.int64(0)
    return TransportHeader(
        0, 0, left - header, u16(buffer, at), u16(buffer, at + 2), np.int64(buffer[at + 13]), u16(buffer, at + 14),
        u32(buffer, at + 4), u32(buffer, at + 8), NO_ICMP, checksum,
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
    return TransportHeader(
        0, HEADER_CUT, left - header, u16(buffer, at), u16(buffer, at + 2), flags, 0, seq, ack, NO_ICMP, 0
    )


@step
def _icmp(buffer, at, end, protocol):
    """Returns type, code and identifier of an ICMP message that ends at a position, `NO_ICMP` if it is too short."""
    if at + 2 > end:
        return np.int64(NO_ICMP)
    number = np.int64(buffer[at]) << 24 | np.int64(buffer[at + 1]) << 16
    if has_identifier(protocol, buffer[at]):
        if at + 6 > end:
            return np.int64(NO_ICMP)
        number |= u16(buffer, at + 4)
    return number


@step
def _no_transport(drop):
    return TransportHeader(drop, 0, 0, 0, 0, 0, 0, 0, 0, NO_ICMP, 0)
