"""Conformance of the preset `nfstream` with NFStream on its own test captures; differences have known causes."""

import conformance
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("settings", conformance.SETTINGS, ids=["defaults", "ip sizes"])
def test_flows_are_those_of_nfstream(real_data, settings):
    pytest.importorskip("nfstream")
    captures = sorted((real_data / "nfstream-tests/pcaps").iterdir())
    found = conformance.compare(captures, settings)
    assert found.ours > 5_000
    assert found.share >= 0.995
    assert found.simultaneous >= 0.99 * found.equal
    assert {capture for capture, _, _ in found.differences} <= conformance.CAUSES.keys()
    assert found.differences, "a comparison that cannot fail shows nothing: these captures are known to differ"
