"""Real captures through the commands that users run."""

import json
from pathlib import Path

import pytest

from flowloom.pipelines.cli import main as cli

CORPORA = Path(__file__).resolve().parents[2] / "docs" / "corpora"


def succeed(*words: object) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    assert exit_.value.code in (0, None)


def test_flows_accounts_for_every_record(real_data, tmp_path, capsys):
    folders = ("nfstream-tests/pcaps/*", "attacks/**/*.pcap*", "kitsune-mirai/*.pcap")
    succeed("flows", *(real_data / folder for folder in folders), "-o", tmp_path / "flows.parquet", "--json")
    report = json.loads(capsys.readouterr().out)
    assert len(report["captures"]) > 250
    assert not report["rejects"]
    for capture in report["captures"]:
        assert capture["records"] == capture["metered"] + sum(capture["dropped"].values()), capture["uri"]
    assert report["packets"] == sum(capture["metered"] for capture in report["captures"])
    assert set(report["seconds"]) == {"read", "decode", "meter", "write", "total"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_public_attacks_end_in_a_model_and_a_report(real_data, tmp_path, capsys):
    for folder in ("attacks", "kitsune-mirai"):
        (tmp_path / folder).symlink_to(real_data / folder)
    (tmp_path / "attacks.yaml").write_text((CORPORA / "attacks.yaml").read_text())
    succeed("build", tmp_path / "attacks.yaml", tmp_path / "dataset")
    succeed("train", tmp_path / "dataset", "-o", tmp_path / "run", "--set", "epochs=1", "--set", "units=8")
    capsys.readouterr()
    succeed("evaluate", tmp_path / "run", "--json")
    metrics = json.loads(capsys.readouterr().out)
    assert len(metrics["tasks"]) == 6
    assert all(task["support"] > 50 for task in metrics["tasks"].values())
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
