"""Claims hold only if the whole interval of their difference lies above the bound, for all claims of a page."""

import dataclasses

from flowloom.pipelines.reproduce.engine.claims import claim_above, claim_fact, judged
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


def test_a_fact_that_a_claim_needs_decides_it_alone():
    clear = difference_of([9, 8, 9, 8], [1, 1, 1, 2])
    missing = claim_above("a", "", "", "", clear, given=False)
    assert (missing.verdict, missing.p) == ("does not hold", None)
    assert claim_above("a", "", "", "", difference_of([9], [1]), given=False).verdict == "does not hold"
    assert claim_above("a", "", "", "", clear, given=True).holds


def test_many_comparisons_of_a_page_need_clearer_differences():
    """A difference that is clear alone is not decided among twenty; facts and the clearest ones stay."""
    clear = claim_above("clear", "", "", "", difference_of([9.0, 8.1, 9.0, 8.0], [1, 1, 1, 2]))
    slight = claim_above("slight", "", "", "", difference_of([3, 2.5, 4, 3], [1.5, 1, 1, 1]))
    fact = claim_fact("fact", "", "", "", False)
    assert [claim.verdict for claim in judged([slight, fact])] == ["holds", "does not hold"]
    noise = [claim_above(f"noise {n}", "", "", "", difference_of([n, 1, 2, 9 - n], [2, 1, 5, 1])) for n in range(20)]
    found = {claim.id: claim for claim in judged([slight, *noise, fact, clear])}
    assert (found["clear"].verdict, found["slight"].verdict) == ("holds", "not decided")
    assert found["fact"].verdict == "does not hold"
    assert found["slight"].p < 0.05 < found["slight"].corrected_p
    assert found["slight"].interval == slight.interval


def test_claims_on_one_comparison_count_once():
    clear = claim_above("a", "", "", "", difference_of([9.0, 8.1, 9.0, 8.0], [1, 1, 1, 2]))
    again = [dataclasses.replace(clear, id=str(n)) for n in range(50)]
    assert {claim.corrected_p for claim in judged([clear, *again])} == {clear.p}
