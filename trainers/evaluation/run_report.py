"""Report of an evaluation: one self-contained HTML page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.dataset.dataset_findings import find_problems
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.comparison import BASELINE_NAMES, bounds, compared_rows, comparison
from flowloom.trainers.evaluation.leakage_verdict import leakage_verdict
from flowloom.trainers.evaluation.page_units import count, duration, figure, percent
from flowloom.trainers.evaluation.pages import MOST_LINES, confusion_rows, rendered
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.run_directory import Run

FEW = 30
"""Number of rows of a class below which its metrics are called uncertain."""
UNITS: dict[View, str] = {"flows": "flow", "packets": "packet", "tables": "row"}
"""Name of a row of each view."""
GRADES = ((0.98, "almost perfectly"), (0.9, "well"), (0.75, "fairly well"), (0.6, "poorly"), (0.0, "hardly at all"))
"""Smallest AUC of each grade, and its name."""
MOST_EPOCHS = 10
"""Largest number of epochs in the table of AUCs; the figure shows all."""
TEMPLATE = "report.html.j2"


@dataclasses.dataclass(frozen=True)
class RunResults:
    """Results of an evaluation."""

    run: Run
    card: DatasetCard
    metrics: dict[str, Any]
    """Content of metrics.json."""
    predictions: dict[str, Predictions]
    gates: dict[str, list[float]] | None
    """Mean gate weight of each expert per task; None for a model without gates."""


def render(results: RunResults) -> str:
    """Returns the report as one HTML page with inline styles and figures."""
    run, card = results.run, results.card
    return rendered(
        __package__,
        TEMPLATE,
        {"position": _position},
        run=run,
        unit=UNITS[run.features.view],
        card=card,
        metrics=results.metrics,
        summary=_summary(results),
        findings=[finding.text for finding in find_problems(card)],
        leakage=leakage_verdict(card, results.metrics["split"], run.source.content_hash),
        warnings=_warnings(results),
        tasks=[
            {
                "task": task,
                "figures": results.metrics["tasks"][task.name],
                "verdict": _verdict(results, task),
                "confusion": _confusion_rows(results, task),
                "false_positives": _false_positives(results, task),
                "compared": compared_rows(run.recipe.name, results.metrics["tasks"][task.name]),
                "comparison": comparison(task.name, UNITS[run.features.view], results.metrics["tasks"][task.name]),
                "curves": [
                    drawn
                    for draw in (figures.roc, figures.precision_recall)
                    if (drawn := draw(task, results.predictions[task.name]))
                ],
                "drawn": figures.drawn_classes(task, results.predictions[task.name]),
            }
            for task in run.tasks
        ],
        bounds=bounds(UNITS[run.features.view], results.metrics["tasks"]),
        fitted=_fitted(results),
        epochs=_epochs(run.history),
        inherited=[task.name for task in run.tasks if not any(task.name in record["loss"] for record in run.history)],
        latecomers=_latecomers(run),
        curves=figures.learning_curves(run.tasks, run.history, run.summary["best_epoch"]),
        gates=results.gates,
        most_lines=MOST_LINES,
        gate_rows=_gate_rows(results.gates),
        gate_sentence=_gate_sentence(results.gates) if run.recipe.model.kind == "lmmoe" else None,
        recipe={name: _text(value) for name, value in run.recipe.settings.items()},
        definition={name: _text(value) for name, value in card.definition},
        drops={reason: count for reason, count in card.accounting.dropped.items() if count},
    )


def _text(value: Any) -> str:
    """Returns a setting as a reader writes it: no Python reprs."""
    if value is None:
        return "not set"
    if not value and isinstance(value, list | tuple | dict):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, pydantic.BaseModel):
        return _text(dict(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _position(value: float, low: float = 0.0, high: float = 1.0) -> str:
    """Returns the position of a value between two others, as a CSS percentage."""
    return f"{100 * min(max((value - low) / (high - low), 0.0), 1.0):.1f}%"


def _summary(results: RunResults) -> str:
    """Returns the result in two sentences."""
    run, metrics, unit = results.run, results.metrics, UNITS[results.run.features.view]
    parameters, time = count(metrics["cost"]["parameters"]), duration(metrics["cost"]["inference_us"] / 1e6)
    tasks = f"{len(run.tasks)} task{'s' if len(run.tasks) > 1 else ''}"
    model = f"One model of {parameters} parameters predicts {tasks} for each {unit}"
    reads = f"from {run.features.seen}, in {time} on one CPU thread."
    if metrics["mean_auc"] is None:
        return f"{model} {reads} The ROC AUC is undefined for every task on the {metrics['split']} split."
    mean = f"{'Its mean' if len(run.tasks) > 1 else 'Its'} ROC AUC"
    return f"{model} {reads} {mean} on the {metrics['split']} split is {metrics['mean_auc']:.3f}."


def _verdict(results: RunResults, task: Task) -> str:
    """Returns the quality of a task's predictions in words, and a comparison with the baselines."""
    found = results.metrics["tasks"][task.name]
    if found["auc"] is None:
        return f"The ROC AUC is undefined: {found['auc_undefined']}."
    grade = next(name for least, name in GRADES if found["auc"] >= least)
    low, high = found["interval"] or (None, None)
    unit = UNITS[results.run.features.view]
    sentences = [
        f"The model separates the classes {grade}: ROC AUC {found['auc']:.3f} (95 % interval {figure(low)} to "
        f"{figure(high)}) over {count(found['support'])} {unit}s."
    ]
    best = found["baselines"].get("best_classical")
    if best and best["auc"] is not None and low is not None:
        side = "inside" if low <= best["auc"] <= high else "above" if best["auc"] > high else "below"
        sentences.append(
            f"The best classical model on the same input ({BASELINE_NAMES[best['family']]}) reaches "
            f"{best['auc']:.3f}, {side} that interval."
        )
    majority = found["baselines"].get("majority")
    if majority:
        sentences.append(
            f"Its accuracy is {percent(found['accuracy'])}; always predicting the most frequent class of the train "
            f"split would reach {percent(majority['accuracy'])}."
        )
    return " ".join(sentences)


def _fitted(results: RunResults) -> str:
    """Returns the rows and trees that each estimator was fitted with, in words; empty for networks."""
    run = results.run
    if not run.recipe.model.is_trees:
        return ""
    record, unit = run.history[0], UNITS[run.features.view]
    parts = []
    for task, rows in record["rows"].items():
        trees = record["trees"].get(task)
        parts.append(f"{task} on {count(rows)} {unit}s" + (f" with {count(trees)} trees" if trees is not None else ""))
    return ", ".join(parts)


def _warnings(results: RunResults) -> list[str]:
    """Returns the warnings about data that make metrics uncertain."""
    split, unit = results.metrics["split"], UNITS[results.run.features.view]
    warnings = []
    if results.card.content_hash != results.run.source.content_hash:
        warnings.append(
            f"The model was trained on another dataset ({results.run.source.name}) than the one of this evaluation."
        )
    for task in results.run.tasks:
        found = results.metrics["tasks"][task.name]
        if found["auc"] is None:
            warnings.append(f"{task.name}: the ROC AUC is undefined, because {found['auc_undefined']}.")
        supports = {name: metrics["support"] for name, metrics in found["classes"].items()}
        few = [f"{name} ({count})" for name, count in supports.items() if 0 < count < FEW]
        if few:
            warnings.append(
                f"{task.name}: the {split} split has fewer than {FEW} {unit}s of {', '.join(few)}; their metrics are "
                "uncertain."
            )
        absent = [name for name, count in supports.items() if not count]
        if absent and found["support"]:
            warnings.append(
                f"{task.name}: the {split} split has no {unit} of {', '.join(absent)}; the metrics cover the other "
                "classes alone."
            )
        majority = found["baselines"].get("majority")
        if majority and found["accuracy"] < majority["accuracy"]:
            warnings.append(
                f"{task.name}: the model is less accurate than the constant prediction of the most frequent class."
            )
    return warnings


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the records of every second epoch (as in table II of MULTA), or of fewer if there are many."""
    every = 2 * -(-len(history) // (2 * MOST_EPOCHS))
    return [record for record in history if record["epoch"] % every == 0]


def _latecomers(run: Run) -> dict[str, Any] | None:
    """Returns the results of an incremental training by task; None for any other training."""
    path = run.checked(run_directory.LATECOMERS) if (run.root / run_directory.LATECOMERS).exists() else None
    return json.loads(path.read_bytes()) if path else None


def _false_positives(results: RunResults, task: Task) -> str | None:
    """Returns the recall at low false positive rates in words; None if metrics.json does not have it."""
    found = results.metrics["tasks"][task.name]["classes"]
    shown = [task.vocabulary[1]] if task.kind == "binary" else list(task.vocabulary)
    recalls = {name: found[name]["recall_at_fpr"] for name in shown if found[name].get("recall_at_fpr")}
    recalls = {name: at for name, at in recalls.items() if None not in at.values()}
    if not recalls:
        return None
    low, high = ({name: at[rate] for name, at in recalls.items()} for rate in ("0.001", "0.01"))
    if task.kind == "binary":
        unit = UNITS[results.run.features.view]
        return (
            f"With at most 0.1 % false positives it finds {percent(low[shown[0]])} of the {unit}s of “{shown[0]}”, and "
            f"with at most 1 % it finds {percent(high[shown[0]])}."
        )
    name = min(high, key=lambda each: high[each])
    return (
        f"At 1 % false positives, the recall of the classes is {percent(sum(high.values()) / len(high))} on average, "
        f"and lowest for {name}: {percent(high[name])}."
    )


def _confusion_rows(results: RunResults, task: Task) -> list[dict[str, Any]]:
    """Returns the rows of a confusion matrix: actual class, and cells by predicted class."""
    return confusion_rows(task.vocabulary, results.metrics["tasks"][task.name]["confusion"])


def _gate_rows(gates: dict[str, list[float]] | None) -> list[dict[str, Any]]:
    """Returns the rows of the table of gate weights."""
    return [
        {
            "label": task,
            "cells": [{"share": weight, "text": f"{weight:.2f}", "title": "", "marked": False} for weight in weights],
        }
        for task, weights in (gates or {}).items()
    ]


def _gate_sentence(gates: dict[str, list[float]] | None) -> str:
    if gates is None:
        return "All tasks share a single expert, so the model has no gates."
    largest = {task: max(range(len(weights)), key=weights.__getitem__) for task, weights in gates.items()}
    by_expert: dict[int, list[str]] = {}
    for task, expert in largest.items():
        by_expert.setdefault(expert, []).append(task)
    preferred = "; ".join(f"expert {expert + 1} for {', '.join(tasks)}" for expert, tasks in sorted(by_expert.items()))
    return (
        "The gate of each task weights the outputs of the experts; the table shows the mean over the split. The "
        f"largest weights: {preferred}."
    )
