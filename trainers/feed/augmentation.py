"""Augmentation of flows: random changes of training rows that a network path makes to a flow, or a meter."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pydantic

Share = Annotated[float, pydantic.Field(ge=0, lt=1)]
Factor = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]

_DEVIATIONS = 6
"""Standard deviations above the mean number of lost packets that a flow may lose."""


class Augmentation(pydantic.BaseModel):
    """Changes of training rows, drawn anew for each row of each epoch; the defaults change nothing.

    `packet_loss` and `gap_scale` are the packet loss and the change of the round-trip time of Horowicz, Shapira and
    Shavitt (A Few Shots Traffic Classification with mini-FlowPic Augmentations, IMC 2022), which tcbench has too
    (Finamore et al., Replication: Contrastive Learning and Data Augmentation in Traffic Classification Using a Flowpic
    Input Representation, IMC 2023; Wang et al., Data Augmentation for Traffic Classification, PAM 2024). They lose all
    packets of an interval; here each packet is lost independently, as in most models of a path. Their time shift does
    not change the gaps between packets; `start` moves the window over the packets instead. Augmentations by the
    behaviour of TCP are not among these (Xie et al., Rosetta: Enabling Robust TLS Encrypted Traffic Classification in
    Diverse Network Environments with TCP-Aware Traffic Augmentation, USENIX Security 2023).

    Example:

    >>> Augmentation(packet_loss=0.05, gap_scale=(0.5, 1.5)).most_lost(k=20)
    8
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    start: int = pydantic.Field(0, ge=0, description="last packet that a training row may begin at")
    """Half of the rows begin at a packet drawn from 0 (the flow's first) to this one; see `window_starts`."""
    packet_loss: Share = pydantic.Field(0.0, description="probability that a packet is lost")
    """The gap of a lost packet is added to that of the next one; a flow keeps at least one packet."""
    gap_scale: tuple[Factor, Factor] = pydantic.Field(
        (1.0, 1.0), description="smallest and largest factor of the gaps of a flow"
    )
    """One factor for each row, as by another round-trip time; all factors between are equally likely."""
    mirror: float = pydantic.Field(0.0, ge=0, le=1, description="probability that a flow's directions are exchanged")
    """For flows whose direction is unknown, such as those captured from their middle on."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.gap_scale
        if low > high:
            raise ValueError(f"gap_scale must be the smallest and the largest factor, got [{low:g}, {high:g}]")
        return self

    @property
    def changes_packets(self) -> bool:
        """True if packets are lost or changed, not only windows moved."""
        return self.packet_loss > 0 or self.gap_scale != (1.0, 1.0) or self.mirror > 0

    @property
    def changes_rows(self) -> bool:
        """True if any setting differs from its default."""
        return self.start > 0 or self.changes_packets

    def most_lost(self, k: int) -> int:
        """Returns the largest number of packets that a flow may lose before its k-th kept one.

        It is six standard deviations above the mean, so that loss stays independent but the feed can keep few packets.
        """
        loss = self.packet_loss
        mean, deviation = k * loss / (1 - loss), math.sqrt(k * loss) / (1 - loss)
        return math.ceil(mean + _DEVIATIONS * deviation)

    def further_packets(self, k: int) -> int:
        """Returns the number of packets of a flow, beyond the first k, that a row may show."""
        return self.start + self.most_lost(k)

    def unfit(self, scaling: str, channels: Sequence[str]) -> str | None:
        """Returns the reason why flows of a scaling and channels cannot be augmented, or None."""
        needs = {"packet_loss": None, "gap_scale": "gap", "mirror": "direction"}
        for setting, channel in needs.items():
            if getattr(self, setting) == type(self).model_fields[setting].default:
                continue
            if scaling != "none":
                return (
                    f"augment.{setting} needs scaling=none, under which gaps can be added up, got {scaling}; set "
                    f"scaling=none, or remove {setting}"
                )
            if channel and channel not in channels:
                return f"augment.{setting} needs channel {channel}, got {', '.join(channels)}; remove {setting}"
        return None

    def draws(self, place: Sequence[int], rows: int) -> "Draws":
        """Draws the starts and the seeds of rows.

        Args:
          place: the seed, the epoch and the window of the rows.
          rows: number of rows.
        """
        seed, epoch, window = place
        starts = np.zeros(rows, np.int64)
        if self.start:
            starts = window_starts(np.random.default_rng((seed, epoch, 2, window)), rows, self.start)
        seeds = np.random.default_rng((seed, epoch, 3, window)).integers(0, 2**64, rows, np.uint64)
        return Draws(starts, seeds)


UNCHANGED = Augmentation()
"""The augmentation that changes nothing."""


class Draws(NamedTuple):
    """The random choices of rows."""

    starts: npt.NDArray[np.int64]
    """int64 [rows], the packet that each row begins at."""
    seeds: npt.NDArray[np.uint64]
    """uint64 [rows], of the factor, the mirroring and the lost packets of each row (`gather_augmented`)."""


def window_starts(generator: np.random.Generator, rows: int, furthest: int) -> npt.NDArray[np.int64]:
    """Draws the packet that each training row begins at, int64 [rows].

    An augmentation for few labels: the packets of a flow from the tenth on resemble those from the first on. Half of
    the rows begin at the first packet, because predicted rows do.

    Args:
      generator: source of randomness.
      rows: number of rows.
      furthest: latest start; starts from 0 to `furthest` are equally likely, 0 begins every row at its first packet.
    """
    return generator.integers(0, furthest + 1, rows) * generator.integers(0, 2, rows)
