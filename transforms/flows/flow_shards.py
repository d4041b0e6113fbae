"""Flow shards: the keys of one capture are dealt to several flow meters, each in a thread of its own.

A flow depends on the packets of its key and on the clock, and packets carry the clock. So shards know nothing of one
another, and their flows are those of one meter, for every definition whose flows end by themselves. Shards sweep
together and merge the flows that are ready by their end, so the order is that of one meter too.

One thing depends on all flows: which of them end for lack of resources. A capture whose shards together may have
reached `max_open_flows` must be metered by one meter, from its start.
"""

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.arrays.hash_table import HASH_KEY
from flowloom.transforms.arrays.take import rearranged
from flowloom.transforms.flows.meter import TAKE_FLOWS, FlowMeter
from flowloom.transforms.flows.open_flow_table import key_tags
from flowloom.transforms.flows.packet_steps import key_options, packet_columns

Result = TypeVar("Result")

NAME = "shards"
"""Beginning of the names of the threads."""


class FlowShards:
    """Meter of one whole capture by several threads; it has the methods of `FlowMeter` that a whole capture needs.

    Args:
      definition: what counts as one flow.
      group: the capture group's content-based name.
      shards: number of threads, the caller's included.
    """

    def __init__(self, definition: FlowDefinition, group: str, shards: int):
        self._definition = definition
        self._shards = [FlowMeter(definition, group) for _ in range(shards)]
        self._threads = concurrent.futures.ThreadPoolExecutor(shards - 1, NAME)

    def update(self, packets: pa.RecordBatch, origin: int = 0) -> None:
        """Meters packets (`schemas.arrow.rows.PACKETS`) of the capture that follow all packets metered before.

        Args:
          origin: number below 2^64 of the capture; part of flow ids.
        """
        if not packets.num_rows:
            return
        columns = packet_columns(packets, self._definition)
        tags = key_tags(tuple(columns), key_options(self._definition), HASH_KEY)
        rows, ends = _deal(tags, len(self._shards))

        def update(shard: int) -> None:
            mine = rows[ends[shard] : ends[shard + 1]]
            self._shards[shard].update_some(columns, mine, tags[mine], origin)

        self._each(update)
        if any(meter.sweep_is_due for meter in self._shards):
            self._each(lambda shard: self._shards[shard].sweep())

    def finish(self, clock_ns: int | None = None) -> None:
        """Ends all flows that are still open, as `FlowMeter.finish` does."""
        self._each(lambda shard: self._shards[shard].finish(clock_ns))

    @property
    def ready(self) -> int:
        """Number of finished flows that no other flow can precede."""
        return sum(meter.ready for meter in self._shards)

    @property
    def finished(self) -> int:
        """Number of flows that ended and were not taken yet."""
        return sum(meter.finished for meter in self._shards)

    @property
    def most_open(self) -> int:
        """The greatest number of flows that were open at once, or more: shards have their maxima at different times."""
        return sum(meter.most_open for meter in self._shards)

    @property
    def flows_short(self) -> int:
        """Number of flows dropped because they have fewer than `min_packets` packets."""
        return sum(meter.flows_short for meter in self._shards)

    @property
    def ended_early(self) -> int:
        """Number of flows that ended for lack of resources; they are not those of one meter."""
        return sum(meter.ended_early for meter in self._shards)

    def take(self) -> pa.RecordBatch:
        """Removes up to `TAKE_FLOWS` flows that are ready, and returns them as `FlowMeter.take` does."""
        first = [meter.peek() for meter in self._shards]
        shard = np.repeat(np.arange(len(first)), [len(flows) for flows in first])
        chosen = shard[_in_order(first)[:TAKE_FLOWS]]
        counts = np.bincount(chosen, minlength=len(first)).tolist()
        taken = self._each(lambda shard: self._shards[shard].take_some(counts[shard]))
        order = _in_order([flows for _, flows in taken])
        return rearranged(concatenated([rows for rows, _ in taken], FLOWS), order)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    def _each(self, work: Callable[[int], Result]) -> list[Result]:
        """Returns the result of each shard; the first one is the caller's work."""
        others = [self._threads.submit(work, shard) for shard in range(1, len(self._shards))]
        try:
            return [work(0), *(other.result() for other in others)]
        finally:
            concurrent.futures.wait(others)


def _in_order(flows: list[np.ndarray]) -> np.ndarray:
    """Returns the order of finished flows (`FLOW`) of all shards, counted through them."""
    names = ("record", "ended_at", "ended_ns")  # the record of the first packet: serials count within a shard
    return np.lexsort([np.concatenate([each[name] for each in flows]) for name in names])


@numba.njit(nogil=True, cache=True)
def _deal(tags, shards):
    """Returns the rows of packets shard by shard, ascending in each, and where each shard begins and ends.

    Shards are equal parts of the tag's range; the hash table of a shard uses the lower bits.
    """
    ends = np.zeros(shards + 1, np.int64)
    for tag in tags:
        ends[((np.uint64(tag) * np.uint64(shards)) >> np.uint64(32)) + np.uint64(1)] += 1
    for shard in range(shards):
        ends[shard + 1] += ends[shard]
    rows = np.empty(len(tags), np.int32)
    free = ends[:-1].copy()
    for i in range(len(tags)):
        its = (np.uint64(tags[i]) * np.uint64(shards)) >> np.uint64(32)
        rows[free[its]] = i
        free[its] += 1
    return rows, ends
