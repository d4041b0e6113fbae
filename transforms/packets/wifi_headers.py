"""IEEE 802.11 data frames, and the headers that captures put before them: radiotap, Prism, AVS, PPI."""

import numpy as np

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.arrays.kernels import part, u32
from flowloom.transforms.captures.records import u32 as u32_of_order
from flowloom.transforms.packets.link_kinds import FRAME, LLC

_NOT_IP = int(DropReason.NOT_IP)
_TRUNCATED = int(DropReason.TRUNCATED)
_WIFI = FRAME + 105


@part
def behind_wifi(buffer, at, end, padded, exchangeable):
    """Skips the header of a data frame up to IEEE 802.2; of an A-MSDU also that of its first frame.

    Frames without data, encrypted ones and later fragments have no IP that can be read.

    Args:
      padded: whether the header is padded to a multiple of four bytes.
      exchangeable: whether the bytes of frame control, and with them those of sequence control, may be exchanged,
        as some access points do in CAPWAP.
    """
    if at + 2 > end:
        return -_TRUNCATED, np.int64(LLC)
    first, flags = buffer[at], buffer[at + 1]
    exchanged = exchangeable and first & 0x0F != 8 and flags & 0x0F == 8
    if exchanged:
        first, flags = flags, first
    if first & 0x4F != 0x08 or flags & 0x40:  # not of version 0, not data, or without data; encrypted
        return -_NOT_IP, np.int64(LLC)
    sequence = at + (23 if exchanged else 22)
    if sequence + 1 > end:
        return -_TRUNCATED, np.int64(LLC)
    if buffer[sequence] & 0x0F:  # a later fragment
        return -_NOT_IP, np.int64(LLC)
    length = np.int64(30 if flags & 3 == 3 else 24)  # a fourth address between two access points
    aggregate = False
    if first & 0x80:  # quality of service, and perhaps high throughput control
        if at + length + 1 > end:
            return -_TRUNCATED, np.int64(LLC)
        aggregate = buffer[at + length] & 0x80 != 0
        length += 6 if flags & 0x80 else 2
    if padded:
        length = (length + 3) // 4 * 4
    return at + length + (14 if aggregate else 0), np.int64(LLC)


@part
def behind_radiotap(buffer, at, end):
    """Skips a radiotap header and the 802.11 header behind it, whose padding the radiotap flags tell."""
    if at + 8 > end:
        return -_TRUNCATED, np.int64(_WIFI)
    length = np.int64(buffer[at + 2]) | (np.int64(buffer[at + 3]) << 8)
    if length < 8:
        return -_NOT_IP, np.int64(_WIFI)
    behind, field = at + length, at + 8
    present = u32_of_order(buffer, at + 4, False)
    more = present
    while more & 0x80000000 and field + 4 <= behind:
        if field + 4 > end:
            return -_TRUNCATED, np.int64(_WIFI)
        more = u32_of_order(buffer, field, False)
        field += 4
    if present & 1:  # a time stamp, aligned to its eight bytes
        field += (at - field) % 8 + 8
    padded = present & 2 != 0 and field < min(behind, end) and buffer[field] & 0x20 != 0
    return behind_wifi(buffer, behind, end, padded, False)


@part
def behind_avs(buffer, at, end):
    """Skips an AVS header."""
    if at + 8 > end:
        return -_TRUNCATED, np.int64(_WIFI)
    length = u32(buffer, at + 4)
    return (at + length if length >= 8 else -_NOT_IP), np.int64(_WIFI)


@part
def behind_prism(buffer, at, end):
    """Skips a Prism header in either byte order, or an AVS header in its place."""
    if at + 8 > end:
        return -_TRUNCATED, np.int64(_WIFI)
    if u32(buffer, at) & 0xFFFFF000 == 0x80211000:
        return behind_avs(buffer, at, end)
    length = u32(buffer, at + 4)
    if length > 0xFFFF:
        length = u32_of_order(buffer, at + 4, False)
    return (at + length if length >= 8 else -_NOT_IP), np.int64(_WIFI)


@part
def behind_ppi(buffer, at, end):
    """Skips a per-packet information header, which names the link type of the rest."""
    if at + 8 > end:
        return -_TRUNCATED, np.int64(_WIFI)
    length = np.int64(buffer[at + 2]) | (np.int64(buffer[at + 3]) << 8)
    kind = FRAME + min(u32_of_order(buffer, at + 4, False), 0xFFFF)
    return (at + length if length >= 8 else -_NOT_IP), kind
