"""Packets in the order of their times, as far as a bounded window allows (`reorder_s`).

A packet waits until the clock of its capture is the window past its time. Packets that need wait no longer leave in the
order of their times, those of one time in captured order. A packet that is late by more than the window leaves at once,
out of order. A time that the clock does not count (`transforms/captures/record_clock.py`) is replaced by the clock.
"""

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import PACKETS
from flowloom.transforms.arrays.columns import column, concatenated, view


class PacketOrder:
    """Buffer that puts the packets of one capture after another in order.

    The same packets leave in the same order for any batches. Memory is bounded by the packets within the window.

    Args:
      window_ns: nanoseconds by which a packet may be late.
    """

    def __init__(self, window_ns: int):
        self._window_ns = window_ns
        self._waiting = concatenated([], PACKETS)
        self._clock_ns = 0

    def add(self, packets: pa.RecordBatch) -> pa.RecordBatch:
        """Adds packets (`schemas.arrow.rows.PACKETS`) and returns those that need not wait for any later one.

        Their `clock_ns` is the latest time of the packets up to each in the new order.
        """
        rows = concatenated([self._waiting, packets], PACKETS)
        clock, times = view(rows["clock_ns"]), _times(rows)
        # the first packet whose clock lets each leave: none before itself
        leaves = np.maximum(np.searchsorted(clock, times + self._window_ns), np.arange(len(rows)))
        stays = leaves == len(rows)
        order = np.lexsort((times, leaves))  # stable: packets of one time stay in captured order
        self._waiting = _taken(rows, np.flatnonzero(stays))
        return self._with_clock(_taken(rows, order[: len(rows) - np.count_nonzero(stays)]))

    def flush(self) -> pa.RecordBatch:
        """Returns the packets that still wait, because their capture has ended."""
        rows, self._waiting = self._waiting, concatenated([], PACKETS)
        return self._with_clock(_taken(rows, np.argsort(_times(rows), kind="stable")))

    def _with_clock(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not rows.num_rows:
            return rows
        clock = np.maximum(np.maximum.accumulate(_times(rows)), self._clock_ns)
        self._clock_ns = int(clock[-1])
        at = PACKETS.get_field_index("clock_ns")
        return rows.set_column(at, PACKETS.field(at), column(clock, PACKETS.field(at).type))


def _times(rows: pa.RecordBatch) -> np.ndarray:
    """Returns the time of each packet, or the clock where that does not count it."""
    return np.minimum(view(rows["time_ns"]), view(rows["clock_ns"]))


def _taken(rows: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    return rows.take(column(places, pa.int64()))
