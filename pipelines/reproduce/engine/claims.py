"""Claims of a paper, and the judge of all pages, who decides whether they hold here."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flowloom.trainers.evaluation.intervals import CONFIDENCE, Mean, holm

_LEVEL = 1 - CONFIDENCE


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of a paper, the figures it rests on, and whether it holds here.

    A claim either compares means over repeats, or states a fact, such as a count. Make one with `claim_above` or
    `claim_fact`; `judged` corrects the comparisons of a page for their number.

    Attributes:
      id: unique on the page.
      paper: the paper's figures.
      ours: our figures, in the same terms.
      interval: 95 % interval of the mean that decides the claim; None if no mean over repeats does.
      holds: false if the claim fails or is not decided.
      decided: false if more repeats are needed.
      p: two-sided p-value of the comparison; None for a fact, and for a single repeat.
      corrected_p: the same, corrected for the number of comparisons of the page.
    """

    id: str
    statement: str
    paper: str
    ours: str
    interval: tuple[float, float] | None
    holds: bool
    decided: bool = True
    p: float | None = None
    corrected_p: float | None = None

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


def claim_fact(id: str, statement: str, paper: str, ours: str, holds: bool) -> Claim:
    """Returns a claim about a count or a measured quantity, which does not rest on a mean over repeats."""
    return Claim(id, statement, paper, ours, None, holds)


def claim_above(
    id: str, statement: str, paper: str, ours: str, difference: Mean, least: float = 0.0, given: bool = True
) -> Claim:
    """Returns the claim that a difference is above `least`, decided if its interval lies on one side of `least`.

    Args:
      id, statement, paper, ours: as of `Claim`.
      difference: a mean over repeats.
      least: the bound.
      given: a fact that the claim states as well, such as fewer parameters at equal accuracy; without it the claim
        fails, whatever the difference.
    """
    if not given:
        interval = None if difference.low is None or difference.high is None else (difference.low, difference.high)
        return Claim(id, statement, paper, ours, interval, False)
    p = difference.p_value(least)
    if p is None or difference.low is None or difference.high is None:
        return Claim(id, statement, paper, f"{ours}; one repeat decides nothing", None, False, False)
    interval = (difference.low, difference.high)
    holds = difference.low > least
    return Claim(id, statement, paper, ours, interval, holds, holds or difference.high < least, p)


def judged(claims: Sequence[Claim]) -> list[Claim]:
    """Returns the claims of a page; a comparison is decided if its corrected p-value is at most 0.05.

    The correction is Holm's over all comparisons of the page. Claims that rest on the same comparison count once.
    """
    distinct = sorted({(claim.p, claim.interval) for claim in claims if claim.p is not None})
    corrected = dict(zip(distinct, holm([p for p, _ in distinct]), strict=True))

    def judge(claim: Claim) -> Claim:
        if claim.p is None:
            return claim
        p = corrected[claim.p, claim.interval]
        decided = claim.decided and p <= _LEVEL
        return dataclasses.replace(claim, corrected_p=p, decided=decided, holds=claim.holds and decided)

    return [judge(claim) for claim in claims]
