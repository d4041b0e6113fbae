"""Quantities of a flow, for tasks whose labels are measured."""

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.tasks import Quantity
from flowloom.transforms.arrays.columns import view, view_or


def quantity(flows: pa.RecordBatch, name: Quantity) -> np.ndarray:
    """Measures one quantity of every flow.

    * `bandwidth`: bits per second, 8 x bytes over the duration; unknown for a flow without duration.
    * `duration`: seconds from the first to the latest packet.
    * `mean_size`: bytes per packet, as the flow definition's `size` counts them; unknown without packets.
    * `gap_deviation`: population standard deviation in seconds of the gaps between its first k packets; unknown with
      fewer than two packets.
    * `bursts`: runs of one direction among its first k packets.

    Returns:
      float64 [rows], NaN where unknown.
    """
    if name == "duration":
        return view(flows["duration_ns"]) / 1e9
    if name == "gap_deviation":
        starts, gaps = _entries(flows, "pkt_gap_ns")
        return _deviations(starts, gaps) / 1e9
    if name == "bursts":
        starts, directions = _entries(flows, "pkt_dir")
        return _runs(starts, directions).astype(np.float64)
    total = (view(flows["bytes_fwd"]) + view(flows["bytes_bwd"])).astype(np.float64)
    if name == "bandwidth":
        return _ratio(total * 8e9, view(flows["duration_ns"]))
    # published files without packet counts have null
    return _ratio(total, view_or(flows["packets_fwd"], 0) + view_or(flows["packets_bwd"], 0))


def _ratio(numbers: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Returns quotients, NaN where the divisor is not above 0."""
    return np.divide(numbers, divisors, out=np.full(len(numbers), np.nan), where=divisors > 0)


def _entries(flows: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets of each flow in a sequence column, int64 [rows + 1], and the values of all flows."""
    lengths = flows[name].value_lengths()
    return np.concatenate([[0], np.cumsum(view(lengths), dtype=np.int64)]), view(flows[name].flatten())


@numba.njit(nogil=True, cache=True)
def _deviations(starts, gaps):
    """Returns the deviation of each flow's gaps, without the first, which is always 0; sums in packet order."""
    found = np.empty(len(starts) - 1)
    for flow in range(len(found)):
        first, stop = starts[flow] + 1, starts[flow + 1]
        if stop <= first:
            found[flow] = np.nan
            continue
        mean = 0.0
        for at in range(first, stop):
            mean += gaps[at]
        mean /= stop - first
        squares = 0.0
        for at in range(first, stop):
            squares += (gaps[at] - mean) ** 2
        found[flow] = np.sqrt(squares / (stop - first))
    return found


@numba.njit(nogil=True, cache=True)
def _runs(starts, directions):
    """Returns the number of runs of one direction in each flow."""
    found = np.zeros(len(starts) - 1, np.int64)
    for flow in range(len(found)):
        for at in range(starts[flow], starts[flow + 1]):
            found[flow] += at == starts[flow] or directions[at] != directions[at - 1]
    return found
