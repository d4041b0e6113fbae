"""Profile of a model's training rows, as counts in fixed bins, to compare scored rows with."""

from typing import Literal, Self

import pydantic

PROFILE = "profile.json"

PACKETS = "packets"
"""Feature with the number of packets of a flow: one bin for each of 1 to k, and a last one for more."""

Bins = Literal["quarter_octaves", "octaves", "values"]
"""Bins of values: four per power of two, one per power of two, or one per value."""

PROFILED: dict[str, tuple[Bins, int]] = {
    "pkt_size": ("quarter_octaves", 60),
    "pkt_payload": ("quarter_octaves", 60),
    "pkt_tcp_window": ("quarter_octaves", 60),
    "pkt_gap_ns": ("octaves", 64),
    "pkt_dir": ("values", 256),
    "pkt_tcp_flags": ("values", 256),
    "pkt_ttl": ("values", 256),
    "protocol": ("values", 256),
}
"""Counted columns besides `PACKETS`, with their kind and number of bins; a direction of -1 is value 255."""


class FeatureProfile(pydantic.BaseModel):
    """Counts of feature values over the first k packets of flows."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    profile_version: Literal[1] = 1
    k: int = pydantic.Field(ge=1)
    rows: int = pydantic.Field(ge=0)
    counts: dict[str, tuple[int, ...]]
    """Values in each bin, by feature; unknown features are absent."""
    classes: dict[str, dict[str, int]] = {}
    """Rows by task and label value: actual in training, predicted in scoring."""

    @pydantic.model_validator(mode="after")
    def _bins_fit(self) -> Self:
        for feature, counts in self.counts.items():
            expected = bin_count(feature, self.k)
            if len(counts) != expected:
                raise ValueError(f"feature {feature!r} must have {expected} bins, got {len(counts)}")
        return self


def bin_count(feature: str, k: int) -> int:
    """Returns the number of bins of a feature.

    Raises:
      ValueError: if the feature is not counted.
    """
    if feature == PACKETS:
        return k + 1
    if feature not in PROFILED:
        raise ValueError(f"feature must be {PACKETS} or one of {', '.join(PROFILED)}, got {feature!r}")
    return PROFILED[feature][1]


def bin_name(feature: str, number: int, k: int) -> str:
    """Returns the values of a bin as text, such as `8 to 9`."""
    if feature == PACKETS:
        return str(number + 1) if number < k else f"above {k}"
    kind, _ = PROFILED[feature]
    if kind == "values":
        return str(number - 256) if feature == "pkt_dir" and number > 127 else str(number)
    first, last = (
        (_octave(number), _octave(number + 1)) if kind == "octaves" else (_quarter(number), _quarter(number + 1))
    )
    return str(first) if last - first == 1 else f"{first} to {last - 1}"


def _octave(number: int) -> int:
    return 0 if number == 0 else 1 << (number - 1)


def _quarter(number: int) -> int:
    return number if number < 4 else (4 + number % 4) << (number // 4 - 1)
