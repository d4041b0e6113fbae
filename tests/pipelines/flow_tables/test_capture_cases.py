"""Captures of known trouble, each with the flows that it should give."""

from pathlib import Path

import pytest
from capture_cases import CASES, difference

CAPTURES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "captures"


@pytest.mark.parametrize("name", CASES)
def test_a_capture_gives_the_flows_that_it_should(name):
    if not CAPTURES.is_dir():
        pytest.skip("needs the cases in shared/cases beside the repository")
    assert difference(CAPTURES / name, CASES[name]) is None
