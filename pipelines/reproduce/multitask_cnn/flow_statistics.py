"""Statistics of whole flows, the usual input of trees for traffic classification (Aceto et al., 2018)."""

from typing import Any

import numba
import numpy as np
import pyarrow as pa

SIDES = ("forward", "backward", "both")
SERIES = ("size", "gap")
STATISTICS = (
    "count", "minimum", "maximum", "mean", "deviation", "variance", "median_deviation", "skewness", "kurtosis",
    *(f"p{percent}" for percent in range(10, 100, 10)),
)  # fmt: skip


def statistic_names(sides: tuple[str, ...] = SIDES) -> tuple[str, ...]:
    """Returns the names of the columns of `flow_statistics`: 36 per side, 108 for all sides."""
    return tuple(f"{side} {series} {name}" for side in sides for series in SERIES for name in STATISTICS)


def flow_statistics(flows: pa.RecordBatch, sides: tuple[str, ...] = SIDES) -> np.ndarray:
    """Returns statistics of sizes and inter-packet times, for each direction and for both, over all stored packets.

    Deviation, variance, skewness and excess kurtosis are those of the population; `median_deviation` is the median
    distance from the median; percentiles are interpolated linearly. Times are in seconds; those of a direction are
    between its own packets. Without values all statistics are 0; for equal values skewness and kurtosis are 0.

    Args:
      flows: a batch with `pkt_size`, `pkt_dir` and `pkt_gap_ns`.
      sides: some of `SIDES`; flows without directions only have a meaningful side `both`.

    Returns:
      float64 [rows, 36 x sides], with the columns of `statistic_names`.

    Raises:
      ValueError: if a side is unknown.
    """
    if unknown := [side for side in sides if side not in SIDES]:
        raise ValueError(f"sides must be among {', '.join(SIDES)}, got {', '.join(unknown)}")
    lists = [flows[name] for name in ("pkt_size", "pkt_dir", "pkt_gap_ns")]
    lengths = lists[0].value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    size, direction, gap_ns = (each.flatten().to_numpy() for each in lists)
    found = np.zeros((flows.num_rows, len(statistic_names(sides))))
    wanted = np.array([{"forward": 1, "backward": -1, "both": 0}[side] for side in sides], np.int64)
    _measure(offsets, size, direction, gap_ns, wanted, found)
    return found


@numba.njit(nogil=True, cache=True)
def _measure(offsets: Any, size: Any, direction: Any, gap_ns: Any, wanted: Any, found: Any) -> None:
    """Fills the columns of each flow, side by side."""
    for flow in range(found.shape[0]):
        start, stop = offsets[flow], offsets[flow + 1]
        sizes, gaps = np.empty(stop - start), np.empty(stop - start)
        for place in range(wanted.shape[0]):
            packets, now, before = 0, 0, 0
            for at in range(start, stop):
                now += gap_ns[at] if at > start else 0
                if wanted[place] != 0 and direction[at] != wanted[place]:
                    continue
                sizes[packets] = size[at]
                if packets > 0:
                    gaps[packets - 1] = (now - before) / 1e9
                before = now
                packets += 1
            first = place * 36
            _describe(np.sort(sizes[:packets]), found[flow, first : first + 18])
            _describe(np.sort(gaps[: max(packets - 1, 0)]), found[flow, first + 18 : first + 36])


@numba.njit(nogil=True, cache=True)
def _describe(values: Any, out: Any) -> None:
    """Writes the statistics of ascending values in the order of `STATISTICS`."""
    count = len(values)
    out[:] = 0.0
    out[0] = count
    if count == 0:
        return
    mean = values.mean()
    second, third, fourth = 0.0, 0.0, 0.0
    for value in values:
        square = (value - mean) ** 2
        second += square
        third += square * (value - mean)
        fourth += square * square
    variance = second / count
    out[1], out[2], out[3], out[4], out[5] = values[0], values[-1], mean, np.sqrt(variance), variance
    median = _percentile(values, 0.5)
    out[6] = _percentile(np.sort(np.abs(values - median)), 0.5)
    # due to rounding, the variance of equal values is not exactly 0
    if variance > (1e-12 * mean) ** 2 and values[0] < values[-1]:
        out[7] = third / count / variance**1.5
        out[8] = fourth / count / variance**2 - 3.0
    for tenth in range(1, 10):
        out[8 + tenth] = _percentile(values, tenth / 10)


@numba.njit(nogil=True, cache=True)
def _percentile(values: Any, share: float) -> float:
    """Returns the quantile of ascending values at a share, interpolated linearly."""
    place = share * (len(values) - 1)
    low = int(np.floor(place))
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
