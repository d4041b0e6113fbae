"""Counts of workers as the progress of a job."""

import pytest

from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.transforms.io import tally as counts
from flowloom.transforms.io.tally import Tally, tally, tally_progress, watched


def test_a_tally_gives_the_text_that_the_job_wants():
    found = Tally(captures=2, flows=1200, shards=3)
    assert tally_progress(found, counts.READ_METERED_WRITTEN) == Progress(
        "2 captures read, 1,200 flows metered, 3 shards written", 1205
    )
    assert tally_progress(found, "{captures:,} captures metered").text == "2 captures metered"


def test_a_job_whose_captures_are_known_has_a_length_in_bytes():
    found = Tally(captures=1, flows=1200, sizes={"a": 1_500_000, "b": 3_000_000})
    found.read([("a", 0, None)])
    found.read([("b", 24, 1_000_000), ("other", 0, None)])
    text = "1 of 2 captures, 2.5 of 4.5 MB read, 1,200 flows, 0 shards"
    assert tally_progress(found, counts.READ_METERED_WRITTEN) == Progress(text, 2_499_976, 4_500_000)
    found.read([("b", 1_000_000, None)])
    found.read([("a", 0, None)])  # a range that a worker read twice
    assert tally_progress(found, "").done == 4_500_000


def test_a_job_whose_captures_are_not_known_counts_no_bytes():
    found = Tally()
    found.read([("a", 0, 1000)])
    assert found.read_bytes == 0


def test_a_watched_job_ends_with_its_last_counts_and_leaves_none(monkeypatch):
    monkeypatch.setattr(counts, "PERIOD_S", 0.001)
    seen: list[Progress] = []
    with watched("a", seen.append, "{shards:,} shards written"):
        tally("a").add(shards=2)
        while not seen:
            pass
        tally("a").add(shards=3)
    assert seen[-1] == Progress("5 shards written", 5)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert tally("a").shards == 0
    with pytest.raises(ZeroDivisionError), watched("b", ignore_progress):
        tally("b").add(shards=1 // 0)
    assert "b" not in counts._TALLIES
