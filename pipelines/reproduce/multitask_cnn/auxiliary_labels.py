"""Auxiliary labels: bandwidth and duration classes of flows in memory, between dividers found on few labelled rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

QUANTITIES = ("bandwidth", "duration")


def quantities(flows: pa.RecordBatch) -> dict[str, npt.NDArray[np.float64]]:
    """Return bandwidth in bits per second, NaN of a flow without duration, and duration in seconds, float64 [rows]."""
    duration_s = flows["duration_ns"].to_numpy() / 1e9
    bits = 8.0 * (flows["bytes_fwd"].to_numpy().astype(np.float64) + flows["bytes_bwd"].to_numpy())
    bandwidth = np.divide(bits, duration_s, out=np.full(len(bits), np.nan), where=duration_s > 0)
    return {"bandwidth": bandwidth, "duration": duration_s}


def mean_dividers(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int32]) -> tuple[float, ...]:
    """Return the points half way between neighbouring class means (Rezaei and Liu, section IV-C), ascending.

    Rows without a value or a label below 0 do not count. Classes of equal means share a class of the quantity.
    """
    counted = np.isfinite(values) & (labels >= 0)
    means = np.unique([values[counted & (labels == code)].mean() for code in np.unique(labels[counted])])
    return tuple(np.unique((means[1:] + means[:-1]) / 2).tolist())


def share_dividers(values: npt.NDArray[np.float64], shares: Sequence[float]) -> tuple[float, ...]:
    """Return the values that the given shares of all are below, ascending and each once."""
    return tuple(np.unique(np.quantile(values[np.isfinite(values)], shares)).tolist())


def divided(values: npt.NDArray[np.float64], dividers: Sequence[float]) -> npt.NDArray[np.int32]:
    """Return the number of dividers that each value reaches, int32 [N]; -1 where there is no value."""
    reached = np.searchsorted(np.asarray(dividers), values, side="right")
    return np.where(np.isfinite(values), reached, -1).astype(np.int32)
