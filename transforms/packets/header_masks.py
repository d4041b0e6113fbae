"""Header masks: fields of an IP packet that are zeroed in place, wherever the packet is cut off."""

import numba
import numpy as np

from flowloom.transforms.arrays.kernels import clear_bytes, u16
from flowloom.transforms.packets.ipv6_extensions import EXTENSIONS, FRAGMENT, extension_bytes


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


@numba.njit(nogil=True, cache=True)
def clear_connection(content, at, size):
    """Zeroes the header fields of the IP packet at `at` that identify a connection or a host, except addresses.

    These are ports, sequence and acknowledgement numbers, identification, time to live or hop limit, flow label,
    checksums, and options of IPv4 and TCP. `clear_addresses` zeroes the addresses.
    """
    if content[at] >> 4 == 4:  # RFC 791
        clear_within(content, at, size, 4, 6)  # identification
        clear_within(content, at, size, 8, 9)  # time to live
        clear_within(content, at, size, 10, 12)  # checksum
        header = max(np.int64(content[at] & 15) * 4, 20)
        clear_within(content, at, size, 20, header)  # options
        if size <= header or u16(content, at + 6) & 0x1FFF:  # a later fragment has no transport header
            return
        protocol = np.int64(content[at + 9])
    else:  # RFC 8200
        if size > 1:
            content[at + 1] &= 0xF0
        clear_within(content, at, size, 2, 4)  # flow label
        clear_within(content, at, size, 7, 8)  # hop limit
        if size <= 40:
            return
        protocol, header = _behind_extensions(content, at, size)
        if header >= size:
            return
    transport, left = at + header, size - header
    if protocol == 6:  # RFC 9293
        clear_within(content, transport, left, 0, 12)  # ports, sequence and acknowledgement numbers
        clear_within(content, transport, left, 16, 18)  # checksum
        if left > 20:
            options = np.int64(content[transport + 12] >> 4) * 4
            clear_within(content, transport, left, 20, options)  # timestamps among them
    elif protocol == 17:  # RFC 768
        clear_within(content, transport, left, 0, 4)  # ports
        clear_within(content, transport, left, 6, 8)  # checksum
    elif protocol == 1 or protocol == 58:  # RFC 792, RFC 4443
        clear_within(content, transport, left, 2, 4)  # checksum


@numba.njit(nogil=True, cache=True)
def _behind_extensions(content, at, size):
    """Returns the protocol of an IPv6 packet and the position of its header, or `size` if the packet has none."""
    protocol, header = np.int64(content[at + 6]), np.int64(40)
    while protocol in EXTENSIONS:
        if protocol == FRAGMENT:
            clear_within(content, at, size, header + 4, header + 8)  # identification
        if header + 8 > size or (protocol == FRAGMENT and u16(content, at + header + 2) >> 3):
            return protocol, size
        length = extension_bytes(content, at + header, protocol)
        protocol = np.int64(content[at + header])
        header += length
    return protocol, header
