"""Keyed hashing for hash tables in memory, and a table with keys of five words (open addressing).

No input can be made to collide: the hash key is drawn for each process. So no order of a table may reach an output, and
hashes that reach one (of partitions, of stored rows) do not come from here.
"""

import os

import numba
import numpy as np

from flowloom.transforms.arrays.kernels import mix, step

HASH_KEY: np.ndarray = np.frombuffer(os.urandom(8 * 12), np.uint64).copy()
"""Secret of this process, an argument of every kernel that hashes: a constant would be compiled into its cache."""


@step
def keyed_hash(hash_key, a, b, c, d, e, f):
    """Returns a uint64 hash of five uint64 words and one of 32 bits.

    Multilinear hashing of 32-bit halves: under a random key the upper halves of two different inputs' sums agree with
    a probability of 2^-32 (Lemire and Kaser, "Strongly universal string hashing is fast", 2014, section 3).
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    total = hash_key[0] + hash_key[1] * (a & low) + hash_key[2] * (a >> half)
    total += hash_key[3] * (b & low) + hash_key[4] * (b >> half)
    total += hash_key[5] * (c & low) + hash_key[6] * (c >> half)
    total += hash_key[7] * (d & low) + hash_key[8] * (d >> half)
    total += hash_key[9] * (e & low) + hash_key[10] * (e >> half)
    return mix(total + hash_key[11] * f)


@numba.njit(nogil=True, cache=True)
def find_slot(slots, keys, key, hash_key):
    """Returns the slot that holds a key's place, or the empty one where it belongs.

    Args:
      slots: int64 [a power of two], 0 where empty; at least one is.
      keys: uint64 [places, 5].
      key: five uint64 words.
      hash_key: `HASH_KEY`.
    """
    mask = np.uint64(len(slots) - 1)
    at = keyed_hash(hash_key, key[0], key[1], key[2], key[3], key[4], np.uint64(0)) & mask
    while slots[at]:
        held = keys[slots[at] - 1]
        if (held[0], held[1], held[2], held[3], held[4]) == key:
            break
        at = (at + np.uint64(1)) & mask
    return at


@numba.njit(nogil=True, cache=True)
def fill_slots(slots, keys, count, hash_key):
    """Enters the first `count` keys into empty slots."""
    for place in range(count):
        key = keys[place]
        slots[find_slot(slots, keys, (key[0], key[1], key[2], key[3], key[4]), hash_key)] = place + 1
