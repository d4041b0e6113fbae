"""Claims hold only if the whole interval of their difference lies above the bound."""

from flowloom.pipelines.reproduce.engine.claims import claim_above
from flowloom.trainers.evaluation.intervals import difference_of


def test_one_repeat_decides_nothing():
    claim = claim_above("a", "a is above b", "90 against 50", "90 against 50", difference_of([90.0], [50.0]))
    assert not claim.holds
    assert (claim.interval, claim.verdict) == (None, "not decided")


def test_a_claim_holds_only_if_its_whole_interval_does():
    clear, unclear = difference_of([9, 8, 9, 8], [1, 1, 1, 2]), difference_of([9, 1, 9, 1], [1, 2, 3, 4])
    assert claim_above("a", "", "", "", clear).holds
    assert not claim_above("a", "", "", "", clear, least=20).holds
    assert not claim_above("a", "", "", "", unclear).holds
    verdicts = [
        claim_above("a", "", "", "", *each).document()["verdict"] for each in ((clear,), (clear, 20), (unclear,))
    ]
    assert verdicts == ["holds", "does not hold", "not decided"]
