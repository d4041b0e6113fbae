"""Claims of a paper, and whether they hold here."""

import dataclasses
from typing import Any

from flowloom.trainers.evaluation.intervals import Mean


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of a paper, the figures it rests on, and whether it holds here.

    Attributes:
      id: unique on the page.
      paper: the paper's figures.
      ours: our figures, in the same terms.
      interval: 95 % interval of the mean that decides the claim; None if no mean over repeats does.
      holds: false if the claim fails or is not decided.
      decided: false if the interval contains the bound, so that more repeats are needed.
    """

    id: str
    statement: str
    paper: str
    ours: str
    interval: tuple[float, float] | None
    holds: bool
    decided: bool = True

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if not self.decided:
            return "not decided"
        return "holds" if self.holds else "does not hold"

    def document(self) -> dict[str, Any]:
        """Returns the claim as JSON-ready values."""
        interval = None if self.interval is None else list(self.interval)
        return {**dataclasses.asdict(self), "interval": interval, "verdict": self.verdict}


def claim_above(id: str, statement: str, paper: str, ours: str, difference: Mean, least: float = 0.0) -> Claim:
    """Returns the claim that a difference is above `least`, decided if its interval lies on one side of `least`."""
    if difference.low is None or difference.high is None:
        return Claim(id, statement, paper, f"{ours}; one repeat decides nothing", None, False, False)
    interval = (difference.low, difference.high)
    holds = difference.low > least
    return Claim(id, statement, paper, ours, interval, holds, holds or difference.high <= least)
