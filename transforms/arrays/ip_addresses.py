"""Parser of IP addresses: texts to the 16 bytes that flows have, without a Python object per address."""

import numba
import numpy as np
import pyarrow as pa

_DOT, _COLON, _ZERO, _NINE = ord("."), ord(":"), ord("0"), ord("9")


def parse_addresses(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Parses IPv4 addresses with dots and IPv6 addresses (RFC 4291, section 2.2) without a scope.

    Args:
      texts: strings; null is not an address.

    Returns:
      uint64 [rows, 2], the halves of each `schemas.rows.ADDRESS`, and bool [rows], true where the text is an address.
    """
    texts = texts.cast(pa.large_string()).fill_null("")
    _, edges, content = texts.buffers()
    offsets = (
        np.frombuffer(edges, np.int64)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else np.zeros(1)
    )
    addresses, valid = np.zeros((len(texts), 16), np.uint8), np.empty(len(texts), bool)
    _parse(np.frombuffer(content or b"", np.uint8), offsets.astype(np.int64), addresses, valid)
    return addresses.view(np.uint64), valid


@numba.njit(nogil=True, cache=True)
def _parse(content, offsets, addresses, valid):
    for row in range(len(valid)):
        at, stop = offsets[row], offsets[row + 1]
        out = addresses[row]
        valid[row] = _parse_four(content, at, stop, out, 12)
        if valid[row]:
            out[10] = out[11] = 0xFF
        else:
            out[:] = 0
            valid[row] = _parse_six(content, at, stop, out)


@numba.njit(nogil=True, cache=True)
def _parse_four(content, at, stop, out, place):
    """Writes four decimal bytes from `place` on; rejects leading zeros, which some parsers read as octal."""
    for part in range(4):
        begin, value = at, 0
        while at < stop and at - begin < 3 and _ZERO <= content[at] <= _NINE:
            value = value * 10 + content[at] - _ZERO
            at += 1
        if at == begin or value > 255 or (at - begin > 1 and content[begin] == _ZERO):
            return False
        out[place + part] = value
        if part < 3:
            if at == stop or content[at] != _DOT:
                return False
            at += 1
    return at == stop


@numba.njit(nogil=True, cache=True)
def _parse_six(content, at, stop, out):
    """Writes eight groups of hexadecimal digits; `::` stands for one run of zeros, and the last two may be IPv4."""
    count, gap = 0, -1
    while at < stop:
        if content[at] == _COLON:  # start of `::`; single colons are skipped below
            if gap >= 0 or at + 1 == stop or content[at + 1] != _COLON:
                return False
            gap = count
            at += 2
            continue
        begin, value = at, 0
        while at < stop and at - begin < 4:
            digit = _digit(content[at])
            if digit < 0:
                break
            value = value * 16 + digit
            at += 1
        if at == begin or count == 8:
            return False
        if at < stop and content[at] == _DOT:
            if count > 6 or not _parse_four(content, begin, stop, out, 2 * count):
                return False
            count += 2
            break
        out[2 * count] = value >> 8
        out[2 * count + 1] = value & 0xFF
        count += 1
        if at == stop:
            break
        if content[at] != _COLON or at + 1 == stop:
            return False
        if content[at + 1] != _COLON:
            at += 1
    if gap < 0:
        return count == 8
    moved = 2 * (count - gap)
    for back in range(moved):
        out[15 - back] = out[2 * count - 1 - back]
    out[2 * gap : 16 - moved] = 0
    return count < 8


@numba.njit(nogil=True, cache=True, inline="always")
def _digit(byte):
    if _ZERO <= byte <= _NINE:
        return byte - _ZERO
    lower = byte | 0x20
    return lower - 87 if 97 <= lower <= 102 else -1
