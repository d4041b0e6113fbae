"""Reproduction of a paper from the command line, for tests that hold for every paper."""

import json

import pytest

from flowloom.pipelines.cli import main as cli


def reproduced_twice(paper, data, out, capsys):
    """Runs `flowloom reproduce --quick` twice in one folder, and returns its result, equal both times and as stored."""
    words = ["reproduce", paper, "--data", str(data), "-o", str(out), "--quick", "--json"]
    found = []
    for _ in range(2):
        with pytest.raises(SystemExit) as exit_:
            cli.main(words)
        assert exit_.value.code == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] == json.loads((out / "results.json").read_text())
    return found[0]
