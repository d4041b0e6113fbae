"""ICMP messages as numbers: type << 24 | code << 16 | identifier, `NO_ICMP` for packets without one.

Sources: RFC 792, RFC 950 and RFC 8335 (ICMP), RFC 4443 (ICMPv6), RFC 1122, section 3.2.2 (errors).
"""

import numpy as np
import numpy.typing as npt

from flowloom.schemas.arrow.rows import NO_ICMP
from flowloom.transforms.arrays.kernels import step

ICMP, ICMPV6 = 1, 58
"""IP protocol numbers."""

_WITH_IDENTIFIER = np.zeros((2, 256), np.bool_)
_WITH_IDENTIFIER[0, [0, 8, 13, 14, 15, 16, 17, 18, 42, 43]] = True
_WITH_IDENTIFIER[1, [128, 129, 160, 161]] = True
_QUOTING = np.zeros((2, 256), np.bool_)
_QUOTING[0, [3, 4, 5, 11, 12]] = True
_QUOTING[1, [1, 2, 3, 4]] = True
_REQUEST_OF = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
_REQUEST_OF[0, [0, 14, 16, 18, 43]] = 8, 13, 15, 17, 42
_REQUEST_OF[1, [129, 161]] = 128, 160


@step
def has_identifier(protocol, kind):
    """Returns whether ICMP messages of a type have an identifier."""
    return _WITH_IDENTIFIER[0 if protocol == ICMP else 1, kind]


@step
def quotes(six, kind):
    """Returns whether ICMP messages of a type, those of ICMPv6 if `six`, are errors that quote a packet."""
    return _QUOTING[1 if six else 0, kind]


@step
def is_error(protocol, icmp):
    """Returns whether a packet is an ICMP message of a type that quotes a packet."""
    if (protocol != ICMP and protocol != ICMPV6) or icmp == NO_ICMP:
        return False
    return quotes(protocol == ICMPV6, icmp >> 24)


@step
def message_key(protocol, icmp):
    """Returns the part of a flow key that an ICMP message adds, the same for a request and its reply.

    The code of messages with an identifier does not count: a reply has its own (RFC 8335, section 3).
    """
    kind = icmp >> 24
    if icmp == NO_ICMP or not has_identifier(protocol, kind):
        return np.uint32(icmp)
    request = _REQUEST_OF[0 if protocol == ICMP else 1, kind]
    return (np.uint32(request) << np.uint32(24)) | np.uint32(icmp & 0xFFFF)


def message_fields(
    protocol: npt.NDArray[np.uint8], icmp: npt.NDArray[np.uint32]
) -> dict[str, tuple[np.ndarray, npt.NDArray[np.bool_]]]:
    """Returns the columns `icmp_type`, `icmp_code` and `icmp_id` of packets, each with a mask of the missing ones."""
    missing = icmp == NO_ICMP
    kind = (icmp >> 24).astype(np.uint8)
    numbered = _WITH_IDENTIFIER[np.where(protocol == ICMP, 0, 1), kind]
    return {
        "icmp_type": (kind, missing),
        "icmp_code": ((icmp >> 16 & 0xFF).astype(np.uint8), missing),
        "icmp_id": ((icmp & 0xFFFF).astype(np.uint16), missing | ~numbered),
    }
