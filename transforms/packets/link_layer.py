"""Link layer: from the first byte of a frame to its IP header, for the headers that most frames have.

All others are unusual: `link_headers.py` finds their IP header, compiled when the first of them is seen.
Numbers: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes.
"""

import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import step, u16

UNUSUAL = 255
"""In the place of a `DropReason`: `link_headers.py` must look at the frame."""

_NOT_IP = int(DropReason.NOT_IP)
_TRUNCATED = int(DropReason.TRUNCATED)
_IPV4, _IPV6 = 0x0800, 0x86DD
_WITHOUT_IP = (0x0806, 0x8035, 0x88CC, 0x888E, 0x9000)
"""EtherTypes of ARP, RARP, LLDP, EAPOL and loopback tests."""


@step
def network_header(buffer, at, end, link_type):
    """Returns (position of the IP header, VLAN identifier), or (-`DropReason` or -`UNUSUAL`, 0).

    Args:
      buffer: uint8 bytes of the capture.
      at, end: positions of the frame's first byte and behind its last captured one.
      link_type: LINKTYPE_ number.
    """
    if link_type == 1:  # Ethernet
        header, type_at = 14, 12
    elif link_type == 113:  # Linux cooked capture
        header, type_at = 16, 14
    elif link_type == 276:  # Linux cooked capture, version 2
        header, type_at = 20, 0
    elif link_type == 101:  # raw IP
        return at, 0
    else:
        return -UNUSUAL, 0
    if at + header > end:
        return -_TRUNCATED, 0
    kind = u16(buffer, at + type_at)
    at += header
    vlan = np.int64(0)
    while kind in (0x8100, 0x88A8, 0x9100):  # 802.1Q, 802.1ad and its ancestor
        if at + 4 > end:
            return -_TRUNCATED, 0
        vlan = u16(buffer, at) & 0x0FFF
        kind = u16(buffer, at + 2)
        at += 4
    if kind in (_IPV4, _IPV6):
        return at, vlan
    if kind in _WITHOUT_IP or (kind <= 1500 and at < end and buffer[at] == 0x42):  # spanning tree
        return -_NOT_IP, 0
    return -UNUSUAL, 0
