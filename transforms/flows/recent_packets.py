"""Duplicates: copies of a packet among the last 8 of its flow, found by their content and time.

A copy has the same key and direction, IP identification, TCP sequence number, length, TCP flags, and transport checksum
or fragment offset; its TTL may differ, because mirror ports copy a packet before and behind a router. Signatures are
64-bit hashes of these.

A range does not know the packets before it. A piece that may continue a flow therefore keeps its first 8 packets apart
(`HEADS`): the join counts them when it knows the 8 before each.
"""

from typing import NamedTuple

import numba
import numpy as np

from flowloom.schemas.arrow.rows import HEAD, TAIL
from flowloom.transforms.arrays.columns import integer_dtype
from flowloom.transforms.arrays.kernels import mix, step

RECENT = 8
"""Packets of a flow among which copies are sought."""

HEADS = np.dtype([(name.removeprefix("head_"), integer_dtype(kind)) for name, kind in HEAD.items()], align=True)
"""One of the first packets of a piece; `listed` is 1 if it has a sequence entry."""
TAILS = np.dtype([(name.removeprefix("tail_"), integer_dtype(kind)) for name, kind in TAIL.items()], align=True)
"""One of the last packets of a flow."""


class Ends(NamedTuple):
    """First and last packets of pieces, flat, and int32 [pieces + 1] positions of each piece in them."""

    heads: np.ndarray
    head_offsets: np.ndarray
    tails: np.ndarray
    tail_offsets: np.ndarray


@step
def signature(packets, i, from_low):
    """Returns a hash of what packet `i` and its copies have in common within a flow."""
    number = (np.uint64(packets.ip_id[i]) << np.uint64(32)) | np.uint64(packets.tcp_seq[i])
    size = (np.uint64(packets.ip_bytes[i]) << np.uint64(32)) | np.uint64(packets.checksum[i])
    rest = (np.uint64(packets.tcp_flags[i]) << np.uint64(1)) | np.uint64(from_low)
    return mix(mix(number) ^ size) + rest * np.uint64(0x9E3779B97F4A7C15)


@step
def is_copy(tails, begin, seen, sign, now, window_ns):
    """Returns whether the last packets of a flow, `RECENT` places of a ring from `begin` on, have a packet's copy.

    Args:
      seen: the packets of the flow so far; the next one has the place `seen % RECENT`.
    """
    hits = np.int64(0)
    for at in range(RECENT):
        hits |= np.int64(tails[begin + at].signature == sign) << at
    if seen < RECENT:
        hits &= (np.int64(1) << np.int64(seen)) - np.int64(1)
    if hits == 0:
        return False
    found = False
    for at in range(RECENT):
        found |= hits >> at & 1 == 1 and abs(now - tails[begin + at].time_ns) <= window_ns
    return found


@step
def remember(tails, begin, seen, sign, now):
    """Writes a packet into the ring of the last ones."""
    tail = tails[begin + np.int64(seen) % RECENT]
    tail.signature, tail.time_ns = sign, now


def piece_ends(flows: np.ndarray, places: np.ndarray, heads: np.ndarray, tails: np.ndarray) -> Ends:
    """Returns the first and last packets of pieces.

    Args:
      flows: `FLOW` records of the pieces.
      places: the number of each in the table.
      heads, tails: `RECENT` places for each flow of the table; heads are empty if no earlier range exists.
    """
    known = np.minimum(flows["seen"], RECENT).astype(np.int32)
    of_head, of_tail = (np.where(flows[side] == 1, known, 0) for side in ("open_before", "open_after"))
    offsets = [np.concatenate([np.zeros(1, np.int32), np.cumsum(each, dtype=np.int32)]) for each in (of_head, of_tail)]
    ends = Ends(np.empty(offsets[0][-1], HEADS), offsets[0], np.empty(offsets[1][-1], TAILS), offsets[1])
    _copy_ends(flows["seen"], places, heads, tails, *ends)
    return ends


@numba.njit(nogil=True, cache=True)
def _copy_ends(seen, places, heads, tails, head_out, head_offsets, tail_out, tail_offsets):
    """Copies first packets in their order, and last packets from the oldest to the newest."""
    for i in range(len(places)):
        begin = np.int64(places[i]) * RECENT
        for at in range(head_offsets[i + 1] - head_offsets[i]):
            head_out[head_offsets[i] + at] = heads[begin + at]
        count = tail_offsets[i + 1] - tail_offsets[i]
        for at in range(count):
            tail_out[tail_offsets[i] + at] = tails[begin + (np.int64(seen[i]) - count + at) % RECENT]
