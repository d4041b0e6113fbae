"""Pieces of arithmetic that several kernels share."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, inline="always")
def mix(word):
    """Spread the bits of a uint64 (the finalizer of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
