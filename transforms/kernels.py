"""Pieces of arithmetic that several kernels share."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, inline="always")
def mix(word):
    """Spread the bits of a uint64 (the finalizer of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(nogil=True, cache=True, inline="always")
def u16(buffer, at):
    """Return the big-endian 16-bit number at a position as int64."""
    return (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])


@numba.njit(nogil=True, cache=True, inline="always")
def u32(buffer, at):
    """Return the big-endian 32-bit number at a position as int64."""
    return (u16(buffer, at) << 16) | u16(buffer, at + 2)


@numba.njit(nogil=True, cache=True, inline="always")
def u64(buffer, at):
    """Return eight bytes as a word whose memory holds them in the same order (little-endian machines)."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
    return word
