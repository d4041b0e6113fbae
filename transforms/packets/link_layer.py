"""Link layer: from the first byte of a frame to its IP header.

Numbers: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes, PPP DLL protocol numbers (RFC 1661).
"""

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import u16, u32

_NOT_IP = int(DropReason.NOT_IP)
_UNSUPPORTED_LINKTYPE = int(DropReason.UNSUPPORTED_LINKTYPE)
_TRUNCATED = int(DropReason.TRUNCATED)


@numba.njit(nogil=True, cache=True)
def network_header(buffer, at, end, link_type):
    """Return (position of the IP header, VLAN identifier), or (-reason, 0) for a record without one."""
    vlan = 0
    if link_type == 1:  # Ethernet
        if at + 14 > end:
            return -_TRUNCATED, 0
        kind = u16(buffer, at + 12)
        at += 14
    elif link_type == 113:  # Linux cooked capture
        if at + 16 > end:
            return -_TRUNCATED, 0
        kind = u16(buffer, at + 14)
        at += 16
    elif link_type == 276:  # Linux cooked capture, version 2
        if at + 20 > end:
            return -_TRUNCATED, 0
        kind = u16(buffer, at)
        at += 20
    elif link_type in (12, 14, 101, 228, 229):  # raw IP
        kind = 0
    elif link_type in (0, 108):  # BSD null (either byte order) and loop
        if at + 4 > end:
            return -_TRUNCATED, 0
        family = u32(buffer, at)
        if family > 0xFFFF:
            family = np.int64(buffer[at]) | (np.int64(buffer[at + 1]) << 8)
        if family not in (2, 10, 24, 28, 30):  # AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
            return -_NOT_IP, 0
        kind = 0
        at += 4
    elif link_type in (9, 50):  # PPP, with or without HDLC framing
        if at + 4 > end:
            return -_TRUNCATED, 0
        if buffer[at] in (0x0F, 0x8F):  # Cisco HDLC under the wrong name, as Wireshark too reads it
            kind = u16(buffer, at + 2)
            at += 4
        else:
            if buffer[at] == 0xFF and buffer[at + 1] == 0x03:
                at += 2
            at, kind = _ppp(buffer, at, end)
    elif link_type == 51:  # PPPoE
        kind = 0x8864
    elif link_type == 104:  # Cisco HDLC
        if at + 4 > end:
            return -_TRUNCATED, 0
        kind = u16(buffer, at + 2)
        at += 4
    else:
        return -_UNSUPPORTED_LINKTYPE, 0

    while kind not in (0x0800, 0x86DD, 0):
        if kind in (0x8100, 0x88A8, 0x9100):  # 802.1Q, 802.1ad and its ancestor
            if at + 4 > end:
                return -_TRUNCATED, 0
            vlan = u16(buffer, at) & 0x0FFF
            kind = u16(buffer, at + 2)
            at += 4
        elif kind in (0x8847, 0x8848):  # MPLS (RFC 3032): labels down to the bottom, then IP by its version
            bottom = False
            while not bottom:
                if at + 4 > end:
                    return -_TRUNCATED, 0
                bottom = (buffer[at + 2] & 1) == 1
                at += 4
            kind = 0
        elif kind == 0x8903:  # Cisco FabricPath: its tag, then the frame of the edge port
            if at + 16 > end:
                return -_TRUNCATED, 0
            kind = u16(buffer, at + 14)
            at += 16
        elif kind == 0x8864:  # PPPoE session (RFC 2516)
            if at + 6 > end:
                return -_TRUNCATED, 0
            at, kind = _ppp(buffer, at + 6, end)
        elif kind <= 1500:  # IEEE 802.3 length: LLC, IP only behind SNAP
            if at + 8 > end:
                return -_NOT_IP, 0
            if u32(buffer, at) != 0xAAAA0300 or buffer[at + 4] != 0:
                return -_NOT_IP, 0
            kind = u16(buffer, at + 6)
            at += 8
            if kind <= 1500:
                return -_NOT_IP, 0
        else:
            return -_NOT_IP, 0
    return at, vlan


@numba.njit(nogil=True, cache=True)
def _ppp(buffer, at, end):
    """Return the position behind a PPP protocol field (one byte where compressed) and the EtherType it stands for."""
    if at + 2 > end:
        return at, np.int64(0xFFFF)
    protocol = np.int64(buffer[at])
    if protocol & 1:
        at += 1
    else:
        protocol = u16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return at, np.int64(0x0800)
    if protocol == 0x0057:
        return at, np.int64(0x86DD)
    if protocol == 0x0281:
        return at, np.int64(0x8847)
    return at, np.int64(0xFFFF)
