"""What AfterImage says of a packet: names and order of the 115 features of Kitsune.

Source: Mirsky et al., "Kitsune: An Ensemble of Autoencoders for Online Network Intrusion Detection", NDSS 2018, the
table of the feature extractor; names and order are those of the authors' published tables.
"""

from collections.abc import Sequence

DECAYS = (5.0, 3.0, 1.0, 0.1, 0.01)
"""Decay factors in 1/s: after t seconds a packet weighs 2^(-decay * t)."""

_OF_ONE = ("weight", "mean", "std")
_OF_TWO = ("magnitude", "radius", "covariance", "pcc")

STREAMS: dict[str, tuple[str, ...]] = {
    "MI_dir": _OF_ONE,
    "H": _OF_ONE,
    "HH": _OF_ONE + _OF_TWO,
    "HH_jit": _OF_ONE,
    "HpHp": _OF_ONE + _OF_TWO,
}
"""The streams that a packet belongs to, and the statistics of each: frame sizes (bytes) by source MAC and IP address,
by source address, by channel (source and destination address), gaps (seconds) by channel, sizes by socket (addresses,
ports and protocol). Statistics of two are over a stream and the one in the opposite direction."""


def afterimage_features(decays: Sequence[float] = DECAYS) -> tuple[str, ...]:
    """Return the names of all features in order: by stream, then decay, then statistic."""
    return tuple(
        f"{stream}_L{decay:g}_{statistic}"
        for stream, statistics in STREAMS.items()
        for decay in decays
        for statistic in statistics
    )
