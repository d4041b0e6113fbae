"""Soft bins of packets: sizes, gaps, windows and TTLs as values of Gaussians, for a network's first layer.

A network reads a number such as a size of 1,378 bytes through products, so that near sizes look alike. A Gaussian per
bin makes each range of sizes a feature of its own, as a histogram has.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
PROTOCOLS = ("tcp", "udp", "icmp", "other")
FEATURES = ("size", "gap", "direction", *FLAGS, *PROTOCOLS, "ttl", "window", "payload")
"""Features of a packet that can be represented, named as `FeatureSpec` names them."""

LARGEST_SIZE = 1500.0
"""Bytes; larger sizes, of packets that a network card has merged, count as this one."""
LEAST_GAP = 1.0
"""Microseconds; smaller gaps count as this one."""


class Bins(NamedTuple):
    """Centres and common standard deviation of Gaussians."""

    centres: np.ndarray
    width: float


def _evenly(low: float, high: float, count: int, width: float) -> Bins:
    """Returns bins in the middles of equal intervals."""
    edges = np.linspace(low, high, count + 1)
    return Bins(((edges[:-1] + edges[1:]) / 2).astype(np.float32), width)


SIZE_BINS = _evenly(0.0, LARGEST_SIZE, 30, 30.0)
"""Bins of bytes."""
GAP_BINS = _evenly(0.0, 7.0, 14, 0.35)
"""Bins of log10 of microseconds, from 1 us to 10 s."""
WINDOW_BINS = Bins(np.arange(17, dtype=np.float32), 0.5)
"""Bins of log2(1 + window)."""
TTL_BINS = Bins(np.array([1, 32, 64, 128, 255], np.float32), 10.0)
"""Bins about the first values of TTLs that systems choose."""


def packet_bins(packets: Mapping[str, Any], follows: Any, xp: Any) -> list[Any]:
    """Returns the soft bins of packets, and their direction, flags and protocol as they are.

    Sizes have bins for each direction if the direction is known. Features that are absent are left out.

    Args:
      packets: float32 [...] by name, as from `named_features`; sizes in bytes, gaps in microseconds.
      follows: float32 [...], 1 for packets behind another one, whose gap is known, else 0.
      xp: `numpy` or `keras.ops`, which computes.

    Returns:
      Parts to be joined at the last axis, float32 [..., width]; `bins_width` is the sum of their widths.
    """
    parts = []
    if "size" in packets:
        sizes = _gaussians(xp.minimum(packets["size"], LARGEST_SIZE), SIZE_BINS, xp)
        parts += _by_direction(sizes, packets, xp)
    if "payload" in packets:
        parts.append(_gaussians(xp.minimum(packets["payload"], LARGEST_SIZE), SIZE_BINS, xp))
    if "gap" in packets:
        gaps = xp.log(xp.maximum(packets["gap"], LEAST_GAP)) * np.float32(1 / math.log(10))
        parts.append(_gaussians(gaps, GAP_BINS, xp) * xp.expand_dims(follows, -1))
    if "window" in packets:
        windows = xp.log(1.0 + xp.maximum(packets["window"], 0.0)) * np.float32(1 / math.log(2))
        parts.append(_gaussians(windows, WINDOW_BINS, xp))
    if "ttl" in packets:
        parts.append(_gaussians(packets["ttl"], TTL_BINS, xp))
    plain = [xp.expand_dims(packets[name], -1) for name in ("direction", *FLAGS, *PROTOCOLS) if name in packets]
    return parts + plain


def bins_width(features: Sequence[str]) -> int:
    """Returns the number of values that `packet_bins` makes of a packet."""
    one = np.zeros(1, np.float32)
    return sum(part.shape[-1] for part in packet_bins(dict.fromkeys(features, one), one, np))


def named_features(packets: Any, features: Sequence[str]) -> dict[str, Any]:
    """Returns packets [..., C] as one array [...] for each of their C features."""
    return {name: packets[..., place] for place, name in enumerate(features)}


def check_features(features: Sequence[str]) -> None:
    """Raises unless all features can be represented, and none repeats.

    Raises:
      ValueError: naming the features.
    """
    if not features or len(set(features)) < len(features) or not set(features) <= set(FEATURES):
        raise ValueError(f"features must be distinct names among {', '.join(FEATURES)}, got {list(features)}")


def _gaussians(values: Any, bins: Bins, xp: Any) -> Any:
    """Returns exp(-((values - centre) / width)^2 / 2), [..., bins]."""
    distances = (xp.expand_dims(values, -1) - bins.centres) * np.float32(1 / bins.width)
    return xp.exp(np.float32(-0.5) * distances * distances)


def _by_direction(values: Any, packets: Mapping[str, Any], xp: Any) -> list[Any]:
    """Returns values [..., bins] once for each direction, zero for the other one; once if no direction is known."""
    if "direction" not in packets:
        return [values]
    forward = xp.expand_dims(packets["direction"] > 0, -1)
    zero = np.float32(0)
    return [xp.where(forward, values, zero), xp.where(forward, zero, values)]
