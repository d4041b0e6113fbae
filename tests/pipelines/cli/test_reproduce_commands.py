"""The demo: needs its corpus, and leaves datasets, runs and reports."""

import json

import pytest

from flowloom.pipelines.cli import reproduce_commands
from flowloom.schemas.dataset.dataset_card import CARD


def test_a_demo_without_its_corpus_says_where_it_is(run, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce_commands, "import_trainer", lambda module: None)
    code, _, err = run("demo", "--out", tmp_path / "demo", "--corpus", tmp_path)
    assert code == 1
    assert "rainbow.yaml and aurora.yaml" in err
    assert "--corpus" in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_builds_trains_and_reports(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path, "--quick", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["rainbow", "aurora"]
    for layout in found:
        assert (tmp_path / layout / CARD).is_file()
        assert (tmp_path / "runs" / layout / "report.html").is_file()
        assert json.loads((tmp_path / "runs" / layout / "metrics.json").read_text()) == found[layout]
    assert set(found["rainbow"]["tasks"]) == {"syn_flood", "ssdp_flood", "tls_renegotiation"}
    assert set(found["aurora"]["tasks"]) == {"app", "traffic", "tunnel", "attack"}
    assert found["aurora"]["mean_auc"] > 0.6, "two epochs are enough to be better than chance"
    code, out, _ = run("evaluate", tmp_path / "runs" / "aurora", "--split", "validation")
    assert code == 0
    assert "classical" in out
