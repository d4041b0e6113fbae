"""Numbers of packets in embedding tables: exact size by direction, gap, window, TTL and flags.

Gaps and windows are compared with constants instead of rounding their logarithms, so that every runtime gives a packet
the same numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowloom.trainers.layers.packets.packet_bins import FLAGS

SIZES = 1536
"""Numbers of sizes of a direction; larger sizes share the last."""
TTLS = 256
GAP_STEPS = (10.0 ** (np.arange(1, 49) / 6)).astype(np.float32)
"""Microseconds at which the number of a gap rises: six steps for each power of ten, up to 100 s."""
WINDOW_STEPS = (2.0 ** (np.arange(1, 64) / 4) - 1).astype(np.float32)
"""Windows at which their number rises: four steps for each power of two."""


def table_rows(features: Any) -> dict[str, int]:
    """Returns the number of rows of each table by feature; row 0 of gaps is for unknown ones."""
    rows = {
        "size": SIZES * (2 if "direction" in features else 1),
        "gap": len(GAP_STEPS) + 2,
        "window": len(WINDOW_STEPS) + 1,
        "ttl": TTLS,
    }
    found = {name: count for name, count in rows.items() if name in features}
    return found | ({"flags": 2 ** len(FLAGS)} if all(flag in features for flag in FLAGS) else {})


def packet_numbers(packets: Mapping[str, Any], follows: Any, xp: Any) -> dict[str, Any]:
    """Returns the row of each packet in each table of `table_rows`, int32 [...].

    Args:
      packets: float32 [...] by name, as from `named_features`; sizes in bytes, gaps in microseconds.
      follows: float32 [...], 1 for packets behind another one, whose gap is known, else 0.
      xp: `numpy` or `keras.ops`, which computes.
    """
    found = {}
    if "size" in packets:
        found["size"] = _whole(packets["size"], SIZES, xp)
        if "direction" in packets:
            found["size"] = found["size"] + SIZES * _integers(packets["direction"] > 0, xp)
    if "gap" in packets:
        found["gap"] = (1 + _steps(packets["gap"], GAP_STEPS, xp)) * _integers(follows, xp)
    if "window" in packets:
        found["window"] = _steps(packets["window"], WINDOW_STEPS, xp)
    if "ttl" in packets:
        found["ttl"] = _whole(packets["ttl"], TTLS, xp)
    if all(flag in packets for flag in FLAGS):
        bits = [_integers(packets[flag] > 0.5, xp) * 2**place for place, flag in enumerate(FLAGS)]
        found["flags"] = sum(bits[1:], bits[0])
    return found


def _whole(values: Any, count: int, xp: Any) -> Any:
    """Returns values as whole numbers from 0 to count - 1."""
    return _integers(xp.clip(values, 0.0, count - 1.0), xp)


def _steps(values: Any, steps: np.ndarray, xp: Any) -> Any:
    """Returns how many of the steps are at most each value."""
    return xp.sum(_integers(xp.expand_dims(values, -1) >= steps, xp), axis=-1)


def _integers(values: Any, xp: Any) -> Any:
    """Returns numbers or truths as int32, without their fractions."""
    return values.astype("int32") if xp is np else xp.cast(values, "int32")
