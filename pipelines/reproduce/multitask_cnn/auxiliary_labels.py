"""Auxiliary labels: bandwidth and duration classes of flows in memory, with dividers from few labelled rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

QUANTITIES = ("bandwidth", "duration")


def quantities(flows: pa.RecordBatch) -> dict[str, npt.NDArray[np.float64]]:
    """Returns bandwidth in bit/s (NaN for flows without duration) and duration in s, float64 [rows]."""
    duration_s = flows["duration_ns"].to_numpy() / 1e9
    bits = 8.0 * (flows["bytes_fwd"].to_numpy().astype(np.float64) + flows["bytes_bwd"].to_numpy())
    bandwidth = np.divide(bits, duration_s, out=np.full(len(bits), np.nan), where=duration_s > 0)
    return {"bandwidth": bandwidth, "duration": duration_s}


def mean_dividers(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int32]) -> tuple[float, ...]:
    """Returns the midpoints between neighbouring class means, ascending (Rezaei and Liu, section IV-C).

    Rows without a value or with a label below 0 do not count. Classes with equal means share a class of the quantity.
    """
    counted = np.isfinite(values) & (labels >= 0)
    means = np.unique([values[counted & (labels == code)].mean() for code in np.unique(labels[counted])])
    return tuple(np.unique((means[1:] + means[:-1]) / 2).tolist())


def share_dividers(values: npt.NDArray[np.float64], shares: Sequence[float]) -> tuple[float, ...]:
    """Returns the quantiles of the values at the given shares, ascending and without repetition."""
    return tuple(np.unique(np.quantile(values[np.isfinite(values)], shares)).tolist())


def divider_classes(values: npt.NDArray[np.float64], dividers: Sequence[float]) -> npt.NDArray[np.int32]:
    """Returns the class of each value, the number of dividers that it reaches, int32 [N]; -1 without a value."""
    reached = np.searchsorted(np.asarray(dividers), values, side="right")
    return np.where(np.isfinite(values), reached, -1).astype(np.int32)
