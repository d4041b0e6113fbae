"""Link layer: from the first byte of a frame to its IP header.

Numbers: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes, PPP DLL protocol numbers (RFC 1661).
"""

import numba
import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import step, u16, u32

_NOT_IP = int(DropReason.NOT_IP)
_UNSUPPORTED_LINKTYPE = int(DropReason.UNSUPPORTED_LINKTYPE)
_TRUNCATED = int(DropReason.TRUNCATED)

_IP_OF_ITS_VERSION = -1  # in the place of an EtherType, which is 0 or more: the version field decides
_IPV4, _IPV6, _MPLS, _PPPOE, _NO_ETHERTYPE = 0x0800, 0x86DD, 0x8847, 0x8864, 0xFFFF


@numba.njit(nogil=True, cache=True)
def network_header(buffer, at, end, link_type):
    """Returns (position of the IP header, VLAN identifier), or (-`DropReason`, 0) for a frame without one.

    Args:
      buffer: uint8 bytes of the capture.
      at, end: positions of the frame's first byte and behind its last captured one.
      link_type: LINKTYPE_ number.
    """
    at, kind = _link_header(buffer, at, end, link_type)
    vlan = 0
    while at >= 0 and kind not in (_IPV4, _IPV6, _IP_OF_ITS_VERSION):
        if kind in (0x8100, 0x88A8, 0x9100):  # 802.1Q, 802.1ad and its ancestor
            if at + 4 > end:
                return -_TRUNCATED, 0
            vlan = u16(buffer, at) & 0x0FFF
            at, kind = _typed_header(buffer, at, end, 2, 4)
        else:
            at, kind = _inner_header(buffer, at, end, kind)
    return (at, vlan) if at >= 0 else (at, 0)


@step
def _typed_header(buffer, at, end, type_at, length):
    """Returns the position behind a header of a fixed length, and the EtherType that it has at `type_at`."""
    if at + length > end:
        return -_TRUNCATED, np.int64(0)
    return at + length, u16(buffer, at + type_at)


@step
def _link_header(buffer, at, end, link_type):
    """Returns the position behind the header of a link type and the next EtherType, or (-`DropReason`, 0)."""
    if link_type == 1:  # Ethernet
        return _typed_header(buffer, at, end, 12, 14)
    if link_type == 113:  # Linux cooked capture
        return _typed_header(buffer, at, end, 14, 16)
    if link_type == 276:  # Linux cooked capture, version 2
        return _typed_header(buffer, at, end, 0, 20)
    if link_type in (12, 14, 101, 228, 229):  # raw IP
        return at, np.int64(_IP_OF_ITS_VERSION)
    if link_type in (0, 108):  # BSD null and loop
        return _bsd_header(buffer, at, end)
    if link_type in (9, 50):  # PPP, with or without HDLC framing
        return _ppp_frame(buffer, at, end)
    if link_type == 51:
        return at, np.int64(_PPPOE)
    if link_type == 104:  # Cisco HDLC
        return _typed_header(buffer, at, end, 2, 4)
    return -_UNSUPPORTED_LINKTYPE, np.int64(0)


@numba.njit(nogil=True, cache=True)
def _bsd_header(buffer, at, end):
    """Skips an address family, in the byte order of the capturing machine (BSD null) or big-endian (loop)."""
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    family = u32(buffer, at)
    if family > 0xFFFF:
        family = np.int64(buffer[at]) | (np.int64(buffer[at + 1]) << 8)
    if family not in (2, 10, 24, 28, 30):  # AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
        return -_NOT_IP, np.int64(0)
    return at + 4, np.int64(_IP_OF_ITS_VERSION)


@numba.njit(nogil=True, cache=True)
def _ppp_frame(buffer, at, end):
    """Skips a PPP header, or a Cisco HDLC header under the link type of PPP, as Wireshark does."""
    if at + 4 > end:
        return -_TRUNCATED, np.int64(0)
    if buffer[at] in (0x0F, 0x8F):
        return _typed_header(buffer, at, end, 2, 4)
    if buffer[at] == 0xFF and buffer[at + 1] == 0x03:
        at += 2
    return _ppp_protocol(buffer, at, end)


@numba.njit(nogil=True, cache=True)
def _ppp_protocol(buffer, at, end):
    """Returns the position behind a PPP protocol field (one byte where compressed) and the EtherType it stands for."""
    if at + 2 > end:
        return at, np.int64(_NO_ETHERTYPE)
    protocol = np.int64(buffer[at])
    if protocol & 1:
        at += 1
    else:
        protocol = u16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return at, np.int64(_IPV4)
    if protocol == 0x0057:
        return at, np.int64(_IPV6)
    if protocol == 0x0281:
        return at, np.int64(_MPLS)
    return at, np.int64(_NO_ETHERTYPE)


@numba.njit(nogil=True, cache=True)
def _inner_header(buffer, at, end, kind):
    """Returns the position behind the header of an EtherType and the next EtherType, or (-`DropReason`, 0).

    These headers lie between link layer and IP: MPLS, Cisco FabricPath, PPPoE, IEEE 802.2 with SNAP.
    """
    if kind in (_MPLS, 0x8848):  # RFC 3032
        return _behind_labels(buffer, at, end)
    if kind == 0x8903:  # Cisco FabricPath: its tag, then the frame of the edge port
        return _typed_header(buffer, at, end, 14, 16)
    if kind == _PPPOE:  # session stage, RFC 2516
        if at + 6 > end:
            return -_TRUNCATED, np.int64(0)
        return _ppp_protocol(buffer, at + 6, end)
    if kind <= 1500 and at + 8 <= end:  # IEEE 802.3 length: LLC, IP only behind SNAP
        behind = u16(buffer, at + 6)
        if u32(buffer, at) == 0xAAAA0300 and buffer[at + 4] == 0 and behind > 1500:
            return at + 8, behind
    return -_NOT_IP, np.int64(0)


@numba.njit(nogil=True, cache=True)
def _behind_labels(buffer, at, end):
    """Skips the labels of MPLS down to the bottom of their stack; IP of either version follows."""
    bottom = False
    while not bottom:
        if at + 4 > end:
            return -_TRUNCATED, np.int64(0)
        bottom = (buffer[at + 2] & 1) == 1
        at += 4
    return at, np.int64(_IP_OF_ITS_VERSION)
