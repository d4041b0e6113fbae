"""IPv6 extension headers, between the IPv6 header and the transport header (RFC 8200, section 4)."""

import numba
import numpy as np

EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
"""Protocol numbers of extension headers (RFC 7045)."""
FRAGMENT, AUTHENTICATION = 44, 51


@numba.njit(nogil=True, cache=True, inline="always")
def extension_bytes(buffer, at, protocol):
    """Returns the length in bytes of an extension header at a position."""
    if protocol == FRAGMENT:
        return np.int64(8)
    if protocol == AUTHENTICATION:  # RFC 4302
        return (np.int64(buffer[at + 1]) + 2) * 4
    return (np.int64(buffer[at + 1]) + 1) * 8
