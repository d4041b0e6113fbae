"""Header masks: bytes of an IP packet that are zeroed in place, wherever the packet is cut off."""

import numba
import numpy as np

from flowloom.transforms.arrays.icmp_messages import quotes
from flowloom.transforms.arrays.kernels import clear_bytes, u16
from flowloom.transforms.packets.ip_headers import EXTENSIONS, FRAGMENT, extension_bytes

HOST_SERVICES = (53, 67, 68, 137, 138, 546, 547, 1900, 3702, 5350, 5351, 5353, 5355, 17500)
"""Ports of services whose payload names hosts or holds their addresses: DNS, DHCP, NetBIOS name service and datagrams,
DHCPv6, SSDP, WS-Discovery, NAT-PMP and PCP, multicast DNS, LLMNR, and Dropbox's discovery of its peers."""

_CONTROL = (2, 88, 89, 103, 112)
"""Protocols whose payload consists of addresses: IGMP, EIGRP, OSPF, PIM, VRRP."""
_ECHO = (0, 8, 128, 129)
_REDIRECT = 5
_DEEPEST = 4
"""Packets inside each other whose fields are found; what is deeper is zeroed."""


@numba.njit(nogil=True, cache=True)
def clear_within(content, at, size, first, last):
    """Zeroes the bytes from `first` to before `last`, counted from `at`, as far as `size` goes."""
    last = min(last, size)
    if first < last:
        clear_bytes(content, at + first, last - first)


@numba.njit(nogil=True, cache=True)
def clear_addresses(content, at, size):
    """Zeroes both addresses of the IP packet that begins at `at`."""
    first, last = (12, 20) if content[at] >> 4 == 4 else (8, 40)
    clear_within(content, at, size, first, last)


@numba.njit(nogil=True, cache=True, inline="always")
def names_hosts(src_port, dst_port):
    """Returns whether the payload between two ports is that of a service in `HOST_SERVICES`."""
    return src_port in HOST_SERVICES or dst_port in HOST_SERVICES


@numba.njit(nogil=True, cache=True)
def clear_connection(content, at, size):
    """Zeroes all of the IP packet at `at` that identifies a connection or a host, except its own addresses.

    These are ports, sequence and acknowledgement numbers, identification, time to live or hop limit, flow label,
    checksums, options of IPv4 and TCP, contents of IPv6 extension headers, and identifiers of ICMP echo, ESP, SCTP and
    GRE; the payload of `HOST_SERVICES`, of ICMP messages that hold addresses, and of routing protocols; and in packets
    that ICMP errors quote or tunnels carry (IP in IP, GRE), the same and both addresses. Types, codes, flags and
    lengths stay, and so does the payload of applications, with names that it may have. `clear_addresses` zeroes the
    addresses of the packet itself. A later fragment has no ports, so its payload stays.
    """
    for _ in range(_DEEPEST):
        inner = _clear_packet(content, at, size)
        at += inner
        size -= inner
        if size <= 0:
            return
        if content[at] >> 4 != 4 and content[at] >> 4 != 6:
            break
        clear_addresses(content, at, size)
    clear_within(content, at, size, 0, size)


@numba.njit(nogil=True, cache=True)
def _clear_packet(content, at, size):
    """Masks one packet and returns the position of the packet inside it, or `size` if there is none."""
    if content[at] >> 4 == 4:  # RFC 791
        clear_within(content, at, size, 4, 6)  # identification
        clear_within(content, at, size, 8, 9)  # time to live
        clear_within(content, at, size, 10, 12)  # checksum
        header = max(np.int64(content[at] & 15) * 4, 20)
        clear_within(content, at, size, 20, header)  # options
        if size <= header or u16(content, at + 6) & 0x1FFF:  # a later fragment has no transport header
            return size
        protocol = np.int64(content[at + 9])
    else:  # RFC 8200
        if size > 1:
            content[at + 1] &= 0xF0
        clear_within(content, at, size, 2, 4)  # flow label
        clear_within(content, at, size, 7, 8)  # hop limit
        if size <= 40:
            return size
        protocol, header = _behind_extensions(content, at, size)
        if header >= size:
            return size
    return header + _clear_transport(content, at + header, size - header, protocol)


@numba.njit(nogil=True, cache=True)
def _clear_transport(content, at, size, protocol):
    """Masks a transport header and returns the position of the packet behind it, or `size` if there is none."""
    if protocol == 4 or protocol == 41:  # IP in IP, RFC 2003, RFC 2473
        return np.int64(0)
    if protocol == 6 or protocol == 17:
        ports = size >= 4 and names_hosts(u16(content, at), u16(content, at + 2))
        clear_within(content, at, size, 0, 4)
        payload = np.int64(8)
        if protocol == 6:  # RFC 9293
            clear_within(content, at, size, 4, 12)  # sequence and acknowledgement numbers
            clear_within(content, at, size, 16, 18)  # checksum
            payload = max(np.int64(content[at + 12] >> 4) * 4, np.int64(20)) if size > 12 else size
            clear_within(content, at, size, 20, payload)  # options, timestamps among them
        else:  # RFC 768
            clear_within(content, at, size, 6, 8)  # checksum
        if ports:
            clear_within(content, at, size, payload, size)
    elif protocol == 1 or protocol == 58:
        return _clear_icmp(content, at, size, protocol == 58)
    elif protocol == 47:
        return _clear_gre(content, at, size)
    elif protocol == 50:  # ESP, RFC 4303
        clear_within(content, at, size, 0, 8)
    elif protocol == 132:  # SCTP, RFC 9260
        clear_within(content, at, size, 0, 12)
    elif protocol in _CONTROL:
        clear_within(content, at, size, 1, size)
    return size


@numba.njit(nogil=True, cache=True)
def _clear_icmp(content, at, size, six):
    """Masks an ICMP message and returns the position of the packet that it quotes, or `size`."""
    clear_within(content, at, size, 2, 4)  # checksum
    kind = np.int64(content[at])
    if kind in _ECHO and (kind >= 128) == six:
        clear_within(content, at, size, 4, 8)  # identifier and sequence number
        return size
    if not quotes(six, kind):  # routers, neighbours, groups, address masks
        clear_within(content, at, size, 4, size)
        return size
    if not six and kind == _REDIRECT:
        clear_within(content, at, size, 4, 8)  # gateway
    # behind the quoted packet may be extensions, which may have addresses (RFC 4884)
    place, unit = (4, 8) if six else (5, 4)
    quoted = np.int64(content[at + place]) * unit if size > place else np.int64(0)
    if quoted:
        clear_within(content, at, size, 8 + quoted, size)
    return min(np.int64(8), size)


@numba.njit(nogil=True, cache=True)
def _clear_gre(content, at, size):
    """Masks checksum, key and sequence number of GRE and returns the position of its IP packet, or `size`.

    Other payload of GRE stays (RFC 2784, RFC 2890).
    """
    if size < 4 or (u16(content, at + 2) != 0x0800 and u16(content, at + 2) != 0x86DD):
        return size
    flags = content[at]
    header = np.int64(4)
    for bit in (0x80, 0x20, 0x10):  # checksum, key, sequence number
        if flags & bit:
            header += 4
    clear_within(content, at, size, 4, header)
    return min(header, size)


@numba.njit(nogil=True, cache=True)
def _behind_extensions(content, at, size):
    """Returns the protocol of an IPv6 packet and the position of its header, or `size` if the packet has none.

    All of extension headers is zeroed but their type, length and fragment offset: routes and home addresses, among
    others.
    """
    protocol, header = np.int64(content[at + 6]), np.int64(40)
    while protocol in EXTENSIONS:
        if protocol == FRAGMENT:
            clear_within(content, at, size, header + 4, header + 8)  # identification
        else:
            length = extension_bytes(content, at + header, protocol) if header + 2 <= size else np.int64(8)
            clear_within(content, at, size, header + 2, header + length)
        if header + 8 > size or (protocol == FRAGMENT and u16(content, at + header + 2) >> 3):
            return protocol, size
        length = extension_bytes(content, at + header, protocol)
        protocol = np.int64(content[at + header])
        header += length
    return protocol, header
