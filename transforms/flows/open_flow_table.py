"""Hash table of open flows, and the pool of their sequence entries.

The table is open addressing with linear probing and backward-shift deletion; a slot is tag << 32 | flow + 1, 0 where
empty. Tags are hashes under the key of the process (`transforms/arrays/hash_table.py`), so no input fills one stretch
of the table, and the order of its slots may not reach an output.
"""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.transforms.arrays.hash_table import keyed_hash
from flowloom.transforms.arrays.kernels import borrowed, step
from flowloom.transforms.flows.flow_state import BLOCK
from flowloom.transforms.flows.packet_steps import MeteredColumns, flow_key


class MeterTable(NamedTuple):
    """Open and finished flows: slots of the table, records, and the numbers of free and of finished records.

    Each flow has `RECENT` places in `tails` for its last packets, and if an earlier range exists, in `heads` for its
    first ones.
    """

    slots: np.ndarray
    flows: np.ndarray
    free: np.ndarray
    finished: np.ndarray
    tails: np.ndarray
    heads: np.ndarray


class EntryPool(NamedTuple):
    """Sequence entries in blocks, the next block of the same flow (-1: none), and the numbers of free blocks."""

    entries: np.ndarray
    next_block: np.ndarray
    free: np.ndarray


@numba.njit(nogil=True, cache=True)
def key_tags(packets, options, hash_key):
    """Returns the upper half of each packet's key hash, the same for both directions.

    Args:
      packets: tuple of `MeteredColumns`.
      options: `KeyOptions`.
      hash_key: key of the hash.
    """
    packets = MeteredColumns(*borrowed(packets))
    tags = np.empty(len(packets.src_port), np.uint32)
    for i in range(len(tags)):
        _, key = flow_key(packets, i, options)
        rest = (np.uint64(key.low_port) << np.uint64(48)) | (np.uint64(key.high_port) << np.uint64(32))
        rest |= (np.uint64(key.vlan) << np.uint64(16)) | np.uint64(key.protocol)
        tunnel_id = np.uint64(key.tunnel_id)
        tags[i] = keyed_hash(hash_key, key.low_0, key.low_1, key.high_0, key.high_1, rest, tunnel_id) >> np.uint64(32)
    return tags


@step
def flow_at(slot):
    """Returns the flow that a slot holds, -1 for an empty slot."""
    return np.int64(slot & np.uint64(0xFFFFFFFF)) - 1


@step
def slot_of(tag, index):
    """Returns the slot value of a flow."""
    return (np.uint64(tag) << np.uint64(32)) | np.uint64(index + 1)


@step
def find(key, tag, table):
    """Returns the slot of a key and its open flow, or the empty slot where it belongs and -1."""
    mask = np.uint64(len(table.slots) - 1)
    at = np.uint64(tag) & mask
    while table.slots[at]:
        slot = table.slots[at]
        if np.uint32(slot >> np.uint64(32)) == tag:
            index = flow_at(slot)
            f = table.flows[index]
            if (
                f.low_1 == key.low_1 and f.high_1 == key.high_1 and f.low_port == key.low_port
                and f.high_port == key.high_port and f.low_0 == key.low_0 and f.high_0 == key.high_0
                and f.protocol == key.protocol and f.key_vlan == key.vlan and f.key_tunnel == key.tunnel_id
            ):  # fmt: skip
                return at, index
        at = (at + np.uint64(1)) & mask
    return at, np.int64(-1)


@step
def free_record(state, table):
    """Returns the number of a free record, which is then taken."""
    state.free_flows -= 1
    return np.int64(table.free[state.free_flows])


@step
def take_free(slot, tag, state, table):
    """Puts a free record into a slot and returns its number."""
    index = free_record(state, table)
    table.slots[slot] = slot_of(tag, index)
    table.flows[index].tag = tag
    return index


@step
def next_entry(flow, state, pool):
    """Returns the record of a flow's next entry, in a new block if the last one is full."""
    position = flow.entries % BLOCK
    if position == 0:
        state.free_blocks -= 1
        block = pool.free[state.free_blocks]
        pool.next_block[block] = -1
        if flow.entries == 0:
            flow.first_block = block
        else:
            pool.next_block[flow.last_block] = block
        flow.last_block = block
    flow.entries += 1
    return pool.entries[np.int64(flow.last_block) * BLOCK + position]


@numba.njit(nogil=True, cache=True)
def remove(slots, tag, index):
    """Takes a flow out of the table."""
    mask = np.uint64(len(slots) - 1)
    wanted = slot_of(tag, index)
    hole = np.uint64(tag) & mask
    while slots[hole] != wanted:
        hole = (hole + np.uint64(1)) & mask
    at = hole
    while True:
        at = (at + np.uint64(1)) & mask
        slot = slots[at]
        if slot == 0:
            break
        home = (slot >> np.uint64(32)) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots[hole] = slot
            hole = at
    slots[hole] = 0


@numba.njit(nogil=True, cache=True)
def rehash(old, new):
    """Copies the slots of a table into a larger, empty one."""
    mask = np.uint64(len(new) - 1)
    for slot in old:
        if slot:
            at = (slot >> np.uint64(32)) & mask
            while new[at]:
                at = (at + np.uint64(1)) & mask
            new[at] = slot


@numba.njit(nogil=True, cache=True)
def pick(flows, chosen):
    """Returns copies of records, faster than NumPy, which copies field by field."""
    picked = np.empty(len(chosen), flows.dtype)
    for i in range(len(chosen)):
        picked[i] = flows[chosen[i]]
    return picked


@numba.njit(nogil=True, cache=True)
def release(chosen, state, table, pool):
    """Frees the records and blocks of taken flows."""
    table, pool = MeterTable(*borrowed(table)), EntryPool(*borrowed(pool))
    for index in chosen:
        block = table.flows[index].first_block
        while block >= 0:
            pool.free[state.free_blocks] = block
            state.free_blocks += 1
            block = pool.next_block[block]
        table.free[state.free_flows] = index
        state.free_flows += 1
