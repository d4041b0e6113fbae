"""Metrics of runs as a short table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table


def scores_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns one row per run and task: AUC with its interval, and the AUC of each baseline.

    The commonest class is left out, as its AUC is always one half. A narrow terminal folds names, never figures.

    Args:
      runs: the content of `metrics.json` by the name of the run.
    """
    title = ", ".join(sorted({f"split {metrics['split']}" for metrics in runs.values()}))
    table = Table(title=f"ROC AUC, {title}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "task"):
        table.add_column(name, min_width=5, overflow="fold")
    every_task = [figures for metrics in runs.values() for figures in metrics["tasks"].values()]
    found = dict.fromkeys(name for figures in every_task for name in figures["baselines"])
    baselines = [name for name in found if name != "majority"]
    for name in ("rows", "AUC", "95 %\ninterval", *(name.replace("_", "\n") for name in baselines)):
        table.add_column(name, justify="right", no_wrap=True)
    for run, metrics in runs.items():
        for at, (task, figures) in enumerate(metrics["tasks"].items()):
            table.add_row(
                run if at == 0 else "",
                task,
                f"{figures['support']:,}",
                number(figures["auc"]),
                _interval(figures["interval"]),
                *(number(figures["baselines"].get(name, {}).get("auc")) for name in baselines),
            )
        table.add_section()
    return table


def number(value: float | None) -> str:
    """Returns a score as text; an undefined score is a dash."""
    return "-" if value is None else f"{value:.3f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else "-".join(map(number, bounds))
