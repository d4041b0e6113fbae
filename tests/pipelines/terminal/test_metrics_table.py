"""The metrics table shows the fitted baselines, and a dash for a missing one."""

import io

from rich.console import Console

from flowloom.pipelines.terminal.metrics_table import scores_table


def test_each_baseline_has_a_column_with_dashes_for_missing_scores():
    figures = {"support": 1200, "auc": 0.9876, "interval": [0.9, 1.0]}
    tasks = {
        "app": {**figures, "baselines": {"majority": {"auc": 0.5}, "boosted_trees": {"auc": 0.75}}},
        "attack": {**figures, "auc": None, "interval": None, "baselines": {}},
    }
    console = Console(width=120, file=io.StringIO())
    console.print(scores_table({"run": {"split": "test", "tasks": tasks}}))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["run", "app", "1,200", "0.988", "0.900-1.000", "0.750"] in lines
    assert ["attack", "1,200", "-", "-", "-"] in lines
    assert not any("forest" in line or "majority" in line for line in lines)


def test_figures_are_whole_on_a_narrow_terminal():
    figures = {"support": 1200, "auc": 0.9876, "interval": [0.9, 1.0]}
    baselines = {name: {"auc": 0.75} for name in ("best_classical", "nearest_flows")}
    task = {"renegotiation_of_tls": {**figures, "baselines": baselines}}
    console = Console(width=70, file=io.StringIO())
    console.print(scores_table({"rainbow": {"split": "test", "tasks": task}}))
    text = console.file.getvalue()
    assert "0.988   0.900-1.000       0.750     0.750" in text
    assert "…" not in text
