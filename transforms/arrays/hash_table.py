"""Hash table with keys of five words: open addressing; a slot holds the place of its key plus one."""

import numba
import numpy as np

from flowloom.transforms.arrays.kernels import mix


@numba.njit(nogil=True, cache=True)
def find_slot(slots, keys, key):
    """Returns the slot that holds a key's place, or the empty one where it belongs.

    Args:
      slots: int64 [a power of two], 0 where empty; at least one is.
      keys: uint64 [places, 5].
      key: five uint64 words.
    """
    mask = np.uint64(len(slots) - 1)
    at = mix(mix(mix(key[0] ^ mix(key[1])) + key[2] ^ mix(key[3])) + key[4]) & mask
    while slots[at]:
        held = keys[slots[at] - 1]
        if (held[0], held[1], held[2], held[3], held[4]) == key:
            break
        at = (at + np.uint64(1)) & mask
    return at


@numba.njit(nogil=True, cache=True)
def fill_slots(slots, keys, count):
    """Enters the first `count` keys into empty slots."""
    for place in range(count):
        key = keys[place]
        slots[find_slot(slots, keys, (key[0], key[1], key[2], key[3], key[4]))] = place + 1
