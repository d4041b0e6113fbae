"""Curves of reports as inline SVG, whose text uses the font of the page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.evaluation.predictions import Predictions

PALETTE = ("#2563a8", "#d1622b", "#2f8f6b", "#a23b72", "#b58a00", "#5b5fc7", "#5c8a99", "#8a5a44")
"""Colours of classes and tasks; they repeat after eight."""
INK, MUTED, RULE = "#1f2733", "#66707f", "#d9dee5"
ROC_POINTS = 300
"""Largest number of points of a drawn curve."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "grid.color": "#eef1f5",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def roc(task: Task, predictions: Predictions) -> str | None:
    """Draws the ROC curve of a binary task's positive class, or of every class against the rest; None if undefined."""
    present = np.unique(predictions.labels)
    if len(present) < 2:
        return None
    drawn = [1] if task.kind == "binary" else present
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"roc {task.name}"}):
        figure, (axes,) = _panels(1, width=4.3, height=3.7)
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=(0, (4, 3)))
        for c in drawn:
            false, true, _ = sklearn.metrics.roc_curve(predictions.labels == c, predictions.probabilities[:, c])
            if len(false) > ROC_POINTS:
                kept = np.linspace(0, len(false) - 1, ROC_POINTS).astype(int)
                false, true = false[kept], true[kept]
            axes.plot(false, true, color=PALETTE[c % len(PALETTE)], linewidth=1.8, label=task.vocabulary[c])
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        if len(drawn) <= len(PALETTE):
            axes.legend(loc="lower right", title=None)
        return _svg(figure)


def learning_curves(tasks: Sequence[Task], history: Sequence[dict[str, Any]], best_epoch: int) -> str:
    """Draws the train and validation loss and the validation ROC AUC of every task over the epochs."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "learning curves"}):
        figure, (losses, aucs) = _panels(2, width=9.4, height=3.2)
        for number, task in enumerate(tasks):
            color = PALETTE[number % len(PALETTE)]
            trained = [record for record in history if task.name in record["loss"]]
            if not trained:  # a model that grew trains its new tasks alone
                continue
            epochs = [record["epoch"] for record in trained]
            _line(losses, epochs, [record["loss"][task.name] for record in trained], color, linestyle=(0, (2, 2)))
            _line(losses, epochs, [record["validation_loss"][task.name] for record in trained], color, label=task.name)
            _line(aucs, epochs, [record["validation_auc"][task.name] for record in trained], color, label=task.name)
        losses.set(title="Loss", xlabel="epoch")
        losses.set_ylim(bottom=0)
        aucs.set(title="Validation ROC AUC", xlabel="epoch")
        for axes in (losses, aucs):
            axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.legend(loc="best")
        return _svg(figure)


def size_walk(found: Mapping[str, Any]) -> str:
    """Draws the trials of a size search (tuning.json): single LSTMs by units, models of all tasks by parameters."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "size walk"}):
        figure, (singles, models) = _panels(2, width=9.4, height=3.4)
        for number, task in enumerate(found["singles"]):
            points = sorted(
                (trial["units"], trial["auc"][task])
                for trial in found["trials"]
                if trial["experts"] == 1 and list(trial["tasks"]) == [task]
            )
            color = PALETTE[number % len(PALETTE)]
            singles.plot(*zip(*points, strict=True), color=color, linewidth=1.2, marker="o", markersize=4, label=task)
        for kind, marker, color in (("single LSTMs", "o", PALETTE[1]), ("lmmoe", "D", PALETTE[0])):
            drawn = [(each["parameters"], each["worst_auc"]) for each in found["models"] if each["model"] == kind]
            if drawn:
                name = kind.replace("lmmoe", "LMMoE")
                models.plot(*zip(*drawn, strict=True), color=color, marker=marker, linestyle="none", label=name)
        least = found["target_auc"] - found["max_drop"]
        for axes, aim in ((singles, found["target_auc"]), (models, least)):
            axes.axhline(aim, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.legend(loc="lower right")
        singles.set(title="One LSTM for each task", xlabel="units", ylabel="validation AUC")
        models.set(title="All tasks", xlabel="parameters", ylabel="worst validation AUC")
        return _svg(figure)


def _panels(count: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Returns a figure, sized in inches, with axes side by side; pyplot would keep it alive."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _line(axes: Axes, epochs: list[int], values: list[float | None], color: str, **style: Any) -> None:
    """Draws one value per epoch; an undefined one leaves a gap."""
    shown = [np.nan if value is None else value for value in values]
    axes.plot(epochs, shown, color=color, linewidth=1.6, marker="o" if len(epochs) < 3 else None, markersize=4, **style)


def _svg(figure: Figure) -> str:
    """Returns the figure as an <svg> element without the XML prologue; the same figure gives the same text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def sweep(
    title: str, label: str, values: Sequence[float], lines: Mapping[str, Sequence[Mean]], logarithmic: bool = False
) -> str:
    """Draws means over repeats with their intervals as bands against the varied quantity."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, (axes,) = _panels(1, width=4.9, height=3.2)
        for number, (name, means) in enumerate(lines.items()):
            color = PALETTE[number % len(PALETTE)]
            axes.plot(
                values,
                [each.mean for each in means],
                color=color,
                linewidth=1.6,
                marker="o",
                markersize=3.5,
                label=name,
            )
            low, high = zip(*((each.low, each.high) for each in means), strict=True)
            if None not in low:
                axes.fill_between(values, low, high, color=color, alpha=0.13, linewidth=0)
        axes.set(title=title, xlabel=label, ylabel="accuracy, %")
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 100.0))  # an interval of few repeats may exceed the possible values
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.legend(loc="best")
        return _svg(figure)


def validation_curves(title: str, curves: Mapping[str, Sequence[Sequence[float]]], measure: str = "accuracy") -> str:
    """Draws a validation metric of several trainings per method over the progress of the training."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, (axes,) = _panels(1, width=4.9, height=3.2)
        for number, (name, repeats) in enumerate(curves.items()):
            color = PALETTE[number % len(PALETTE)]
            for place, values in enumerate(repeats):
                done = np.linspace(0, 100, len(values))
                axes.plot(done, values, color=color, linewidth=1.0, alpha=0.7, label=name if place == 0 else None)
        axes.set(title=title, xlabel="training done, %", ylabel=f"validation {measure}, %")
        axes.legend(loc="lower right")
        return _svg(figure)


def balance(title: str, label: str, series: Mapping[str, Sequence[tuple[float, Mean]]]) -> str:
    """Draws the mean ROC AUC with its interval against a cost, one line per method (MULTA).

    The axis of costs is logarithmic if they differ more than tenfold; otherwise it begins at 0.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"{title} {label}"}):
        figure, (axes,) = _panels(1, width=4.9, height=3.4)
        for number, (name, points) in enumerate(series.items()):
            ordered = sorted(points, key=lambda point: point[0])
            costs, means = zip(*ordered, strict=True)
            height = [each.mean for each in means]
            spread = [each.mean - each.low if each.low is not None else 0.0 for each in means]
            color = PALETTE[number % len(PALETTE)]
            axes.errorbar(costs, height, spread, color=color, linewidth=1.4, marker="o", markersize=4, elinewidth=0.7,
                          capsize=2, label=name)  # fmt: skip
        axes.set(title=title, xlabel=label, ylabel="mean AUC, test split")
        every = [cost for points in series.values() for cost, _ in points]
        if max(every) > 10 * min(every):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, 1.05 * max(every))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        lowest = min(mean.mean for points in series.values() for _, mean in points)
        axes.set_ylim(max(lowest - 0.05, 0.0), 1.005)
        axes.legend(loc="lower right")
        return _svg(figure)


def arrivals(title: str, lines: Mapping[str, Sequence[Mean]], phases: Mapping[str, int]) -> str:
    """Draws the ROC AUC of every task over the epochs of an incremental training (MULTA, figure 5).

    Args:
      title: title of the figure.
      lines: by task the mean ROC AUC after each epoch.
      phases: first epoch of each phase by its name, counted from 1.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, (axes,) = _panels(1, width=4.9, height=3.2)
        for number, (task, means) in enumerate(lines.items()):
            color, epochs = PALETTE[number % len(PALETTE)], range(1, len(means) + 1)
            axes.plot(epochs, [each.mean for each in means], color=color, linewidth=1.6, label=task)
            low, high = ([each.mean if end is None else end for each, end in zip(means, ends, strict=True)]
                         for ends in zip(*((each.low, each.high) for each in means), strict=True))  # fmt: skip
            axes.fill_between(epochs, low, high, color=color, alpha=0.13, linewidth=0)
        axes.set_ylim(top=1.02, bottom=max(axes.get_ylim()[0], 0.0))
        for name, epoch in phases.items():
            axes.axvline(epoch - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(name, (epoch - 0.4, 0.01), xycoords=("data", "axes fraction"), color=MUTED, fontsize=7.5)
        axes.set(title=title, xlabel="epoch", ylabel="AUC, test split")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="center right")
        return _svg(figure)
