"""What the rows were like that a model was trained on, as counts in fixed bins: what scored rows are held against."""

from typing import Literal, Self

import pydantic

PROFILE = "profile.json"

PACKETS = "packets"
"""The feature that counts packets of a flow: from 1 to k, and more than the model sees, which is the last bin."""

Bins = Literal["quarter_octaves", "octaves", "values"]
"""How values become bins: four to each power of two, one to each, or each value its own."""

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
"""The columns that are counted beside `PACKETS`, and how many bins each has; a direction of -1 is value 255."""


class FeatureProfile(pydantic.BaseModel):
    """Counts over rows of flows as a model sees them: their first k packets."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    profile_version: Literal[1] = 1
    k: int = pydantic.Field(ge=1)
    rows: int = pydantic.Field(ge=0)
    counts: dict[str, tuple[int, ...]]
    """By feature: how many values lie in each bin; features that are not known are left out."""
    classes: dict[str, dict[str, int]] = {}
    """By task: rows of each word; of a training as labelled."""

    @pydantic.model_validator(mode="after")
    def _bins_fit(self) -> Self:
        for feature, counts in self.counts.items():
            expected = bins_of(feature, self.k)
            if len(counts) != expected:
                raise ValueError(f"feature {feature!r} must have {expected} bins, got {len(counts)}")
        return self


def bins_of(feature: str, k: int) -> int:
    """Return how many bins a feature has.

    Raises:
      ValueError: if it is none that is counted.
    """
    if feature == PACKETS:
        return k + 1
    if feature not in PROFILED:
        raise ValueError(f"feature must be {PACKETS} or one of {', '.join(PROFILED)}, got {feature!r}")
    return PROFILED[feature][1]


def bin_name(feature: str, number: int, k: int) -> str:
    """Return what the values of a bin are, as people read it."""
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
