"""Curves of reports as inline SVG with the font and the colours of the page, light or dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.evaluation.pages import MOST_LINES, PALETTE, line_style
from flowloom.trainers.evaluation.predictions import Predictions

INK, MUTED, RULE, GRID = "#1f2733", "#5d6775", "#d9dee5", "#eef1f5"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    GRID: "--grid",
    **{color: f"--c{number}" for number, color in enumerate(PALETTE)},
}
"""Variables of a page's style by the colours that a figure is drawn with."""
CURVE_POINTS = 300
"""Largest number of points of a drawn curve."""
LEGEND_LINES = 8
"""Largest number of lines with a legend inside of the figure."""

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
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def drawn_classes(task: Task, predictions: Predictions) -> list[int]:
    """Returns the classes whose curves a figure shows: the positive one of a binary task, or all against the rest.

    Of more classes than a legend tells apart, the most frequent. Empty if the curves are undefined.
    """
    support = np.bincount(predictions.labels, minlength=len(task.vocabulary))
    present = np.flatnonzero(support)
    if len(present) < 2:
        return []
    if task.kind == "binary":
        return [1]
    return sorted(present[np.argsort(-support[present], kind="stable")][:MOST_LINES].tolist())


def roc(task: Task, predictions: Predictions) -> str | None:
    """Draws the ROC curves of `drawn_classes`; None if they are undefined."""
    return _class_curves(task, predictions, "ROC", "false positive rate", "true positive rate (recall)", _roc_points)


def precision_recall(task: Task, predictions: Predictions) -> str | None:
    """Draws the precision-recall curves of `drawn_classes`; None if they are undefined."""
    return _class_curves(task, predictions, "PR", "recall", "precision", _precision_recall_points)


def _roc_points(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    false, true, _ = sklearn.metrics.roc_curve(positive, scores)
    return false, true


def _precision_recall_points(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall, _ = sklearn.metrics.precision_recall_curve(positive, scores)
    return recall[::-1], precision[::-1]


def _class_curves(
    task: Task,
    predictions: Predictions,
    kind: str,
    across: str,
    up: str,
    points: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> str | None:
    """Draws a curve for each of `drawn_classes`, whose names are in the legend of the page."""
    drawn = drawn_classes(task, predictions)
    if not drawn:
        return None
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"{kind} {task.name}"}):
        figure, axes = _panel(width=4.3, height=3.7)
        if kind == "ROC":
            axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=(0, (4, 3)))
        for c in drawn:
            x, y = points(predictions.labels == c, predictions.probabilities[:, c])
            if len(x) > CURVE_POINTS:
                kept = np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int)
                x, y = x[kept], y[kept]
            axes.plot(x, y, linewidth=1.8, **_numbered(c))
        axes.set(xlabel=across, ylabel=up, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        return _svg(figure)


def _numbered(number: int) -> dict[str, Any]:
    """Returns the colour and dashes of a line by its number, as in the legend of the page."""
    color, dashes = line_style(number)
    return {"color": PALETTE[color], "linestyle": (0, dashes) if dashes else "solid"}


def learning_curves(tasks: Sequence[Task], history: Sequence[dict[str, Any]], best_epoch: int) -> tuple[str, str]:
    """Draws the train (dotted) and validation loss, and the validation ROC AUC, of every task over the epochs."""
    drawn = []
    for title, measure in (("Loss", "validation_loss"), ("Validation ROC AUC", "validation_auc")):
        with mpl.rc_context({**STYLE, "svg.hashsalt": f"learning curves {measure}"}):
            figure, axes = _panel(width=4.7, height=3.2)
            for number, task in enumerate(tasks):
                color = PALETTE[line_style(number)[0]]
                trained = [record for record in history if task.name in record["loss"]]
                if not trained:  # a model that grew trains its new tasks alone
                    continue
                epochs = [record["epoch"] for record in trained]
                if measure == "validation_loss":
                    losses = [record["loss"][task.name] for record in trained]
                    _line(axes, epochs, losses, color=color, linestyle=(0, (2, 2)), alpha=0.7)
                values = [record[measure][task.name] for record in trained]
                _line(axes, epochs, values, label=task.name, **_numbered(number))
            axes.set(title=title, xlabel="epoch")
            if measure == "validation_loss":
                axes.set_ylim(bottom=0)
            axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            drawn.append(_svg(figure))
    losses_svg, aucs_svg = drawn
    return losses_svg, aucs_svg


def size_walk(found: Mapping[str, Any]) -> tuple[str, str]:
    """Draws the trials of a size search (tuning.json): single LSTMs by units, models of all tasks by parameters."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "size walk, singles"}):
        singles_figure, singles = _panel(width=4.7, height=3.4)
        for number, task in enumerate(found["singles"]):
            points = sorted(
                (trial["units"], trial["auc"][task])
                for trial in found["trials"]
                if trial["experts"] == 1 and list(trial["tasks"]) == [task]
            )
            singles.plot(
                *zip(*points, strict=True), linewidth=1.2, marker="o", markersize=4, label=task, **_numbered(number)
            )
        singles.axhline(found["target_auc"], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        singles.set(title="One LSTM for each task", xlabel="units", ylabel="validation AUC")
        _legend(singles, loc="lower right")
        singles_svg = _svg(singles_figure)
    with mpl.rc_context({**STYLE, "svg.hashsalt": "size walk, models"}):
        models_figure, models = _panel(width=4.7, height=3.4)
        for kind, marker, color in (("single LSTMs", "o", PALETTE[1]), ("lmmoe", "D", PALETTE[0])):
            drawn = [(each["parameters"], each["worst_auc"]) for each in found["models"] if each["model"] == kind]
            if drawn:
                name = kind.replace("lmmoe", "LMMoE")
                models.plot(*zip(*drawn, strict=True), color=color, marker=marker, linestyle="none", label=name)
        least = found["target_auc"] - found["max_drop"]
        models.axhline(least, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        models.set(title="All tasks", xlabel="parameters", ylabel="worst validation AUC")
        _legend(models, loc="lower right")
        return singles_svg, _svg(models_figure)


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of one panel, sized in inches; pyplot would keep it alive."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes, loc: Literal["best", "lower right", "center right"]) -> None:
    """Draws the legend in the figure, or below it if it has many lines."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= LEGEND_LINES:
        axes.legend(loc=loc)
        return
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches()
    columns = 2
    figure.set_size_inches(width, height + 0.17 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _line(axes: Axes, epochs: list[int], values: list[float | None], **style: Any) -> None:
    """Draws one value per epoch; an undefined one leaves a gap."""
    shown = [np.nan if value is None else value for value in values]
    axes.plot(epochs, shown, linewidth=1.6, marker="o" if len(epochs) < 3 else None, markersize=4, **style)


def _svg(figure: Figure) -> str:
    """Returns the figure as an <svg> element without the XML prologue; the same figure gives the same text.

    Its colours are variables of the page's style, and themselves where a figure is shown without the page.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    return _STYLES.sub(lambda style: _COLORS.sub(_variable, style[0]), svg)


def _variable(color: re.Match[str]) -> str:
    return f"var({_VARIABLES[color[0]]}, {color[0]})"


_STYLES = re.compile(r'(?<= style=")[^"]*')
_COLORS = re.compile("|".join(_VARIABLES))


def sweep(
    title: str, label: str, values: Sequence[float], lines: Mapping[str, Sequence[Mean]], logarithmic: bool = False
) -> str:
    """Draws means over repeats with their intervals as bands against the varied quantity."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _panel(width=4.9, height=3.2)
        for number, (name, means) in enumerate(lines.items()):
            style = _numbered(number)
            heights = [each.mean for each in means]
            axes.plot(values, heights, linewidth=1.6, marker="o", markersize=3.5, label=name, **style)
            low, high = zip(*((each.low, each.high) for each in means), strict=True)
            if None not in low:
                axes.fill_between(values, low, high, color=style["color"], alpha=0.13, linewidth=0)
        axes.set(title=title, xlabel=label, ylabel="accuracy, %")
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 100.0))  # an interval of few repeats may exceed the possible values
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        _legend(axes, loc="best")
        return _svg(figure)


def validation_curves(title: str, curves: Mapping[str, Sequence[Sequence[float]]], measure: str = "accuracy") -> str:
    """Draws a validation metric of several trainings per method over the progress of the training."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _panel(width=4.9, height=3.2)
        for number, (name, repeats) in enumerate(curves.items()):
            style = _numbered(number)
            for place, values in enumerate(repeats):
                done = np.linspace(0, 100, len(values))
                axes.plot(done, values, linewidth=1.0, alpha=0.7, label=name if place == 0 else None, **style)
        axes.set(title=title, xlabel="training done, %", ylabel=f"validation {measure}, %")
        _legend(axes, loc="lower right")
        return _svg(figure)


def balance(title: str, label: str, series: Mapping[str, Sequence[tuple[float, Mean]]]) -> str:
    """Draws the mean ROC AUC with its interval against a cost, one line per method (MULTA).

    The axis of costs is logarithmic if they differ more than tenfold; otherwise it begins at 0.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"{title} {label}"}):
        figure, axes = _panel(width=4.9, height=3.4)
        for number, (name, points) in enumerate(series.items()):
            ordered = sorted(points, key=lambda point: point[0])
            costs, means = zip(*ordered, strict=True)
            height = [each.mean for each in means]
            spread = [each.mean - each.low if each.low is not None else 0.0 for each in means]
            axes.errorbar(costs, height, spread, linewidth=1.4, marker="o", markersize=4, elinewidth=0.7, capsize=2,
                          label=name, **_numbered(number))  # fmt: skip
        axes.set(title=title, xlabel=label, ylabel="mean AUC, test split")
        every = [cost for points in series.values() for cost, _ in points]
        if max(every) > 10 * min(every):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, 1.05 * max(every))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        lowest = min(mean.mean for points in series.values() for _, mean in points)
        axes.set_ylim(max(lowest - 0.05, 0.0), 1.005)
        _legend(axes, loc="lower right")
        return _svg(figure)


def arrivals(title: str, lines: Mapping[str, Sequence[Mean]], phases: Mapping[str, int]) -> str:
    """Draws the ROC AUC of every task over the epochs of an incremental training (MULTA, figure 5).

    Args:
      title: title of the figure.
      lines: by task the mean ROC AUC after each epoch.
      phases: first epoch of each phase by its name, counted from 1.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _panel(width=4.9, height=3.2)
        for number, (task, means) in enumerate(lines.items()):
            style, epochs = _numbered(number), range(1, len(means) + 1)
            axes.plot(epochs, [each.mean for each in means], linewidth=1.6, label=task, **style)
            low, high = ([each.mean if end is None else end for each, end in zip(means, ends, strict=True)]
                         for ends in zip(*((each.low, each.high) for each in means), strict=True))  # fmt: skip
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.13, linewidth=0)
        axes.set_ylim(top=1.02, bottom=max(axes.get_ylim()[0], 0.0))
        for name, epoch in phases.items():
            axes.axvline(epoch - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(name, (epoch - 0.4, 0.01), xycoords=("data", "axes fraction"), color=MUTED, fontsize=7.5)
        axes.set(title=title, xlabel="epoch", ylabel="AUC, test split")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, loc="center right")
        return _svg(figure)
