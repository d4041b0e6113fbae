"""Kinds of headers between link layer and IP that have no EtherType."""

import numpy as np
import numpy.typing as npt

FRAME = 1 << 16
"""Added to a LINKTYPE_ number: a frame of that link type."""

IP, LLC, PPP, PPP_FRAME, WIFI_OF_CAPWAP = (2 * FRAME + number for number in range(5))
"""IP of the version that its first four bits say, IEEE 802.2, a PPP protocol number, PPP with or without HDLC-like
framing, and IEEE 802.11 whose first two bytes may be exchanged."""

MPLS = 0x8847

SHORTEST_TYPE = 1501
"""Numbers below are no EtherTypes but the length of an IEEE 802.3 frame."""


def link_type_of(kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Returns what stands for kinds in the column `link_type` of records inside others: LINKTYPE_ numbers stay so."""
    return (kinds ^ FRAME).astype(np.int32)
