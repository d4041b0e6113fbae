"""Scores show the baselines that were fitted, and a dash where one was not."""

import io

from rich.console import Console

from flowloom.pipelines.terminal.metrics_table import scores_table


def test_baselines_have_a_column_each_and_tasks_without_one_a_dash():
    figures = {"support": 1200, "auc": 0.9876, "interval": [0.9, 1.0]}
    tasks = {
        "app": {**figures, "baselines": {"majority": {"auc": 0.5}, "boosted_trees": {"auc": 0.75}}},
        "attack": {**figures, "auc": None, "interval": None, "baselines": {}},
    }
    console = Console(width=120, file=io.StringIO())
    console.print(scores_table({"run": {"split": "test", "tasks": tasks}}))
    said = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["run", "app", "1,200", "0.988", "0.900-1.000", "0.500", "0.750"] in said
    assert ["attack", "1,200", "-", "-", "-", "-"] in said
    assert not any("forest" in words for words in said)
