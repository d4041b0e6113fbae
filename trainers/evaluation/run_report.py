"""The report of an evaluation: one HTML file that needs nothing else, for people."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.pages import rendered
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.run_directory import Run

FEW = 30
"""Below this many rows of a class its figures are called uncertain."""
UNITS: dict[View, str] = {"flows": "flow", "packets": "packet", "tables": "row"}
"""What a row of each view is called."""
GRADES = ((0.98, "almost perfectly"), (0.9, "well"), (0.75, "fairly"), (0.6, "weakly"), (0.0, "hardly"))
"""How an AUC of at least so much is called."""
MOST_EPOCHS = 10
"""Epochs whose AUC is told at most; the figure has them all."""
TEMPLATE = "report.html.j2"


@dataclasses.dataclass(frozen=True)
class RunResults:
    """What an evaluation found."""

    run: Run
    card: DatasetCard
    metrics: dict[str, Any]
    """As in metrics.json."""
    predictions: dict[str, Predictions]
    gates: dict[str, list[float]] | None
    """Mean weight of each expert per task; None for a model without gates."""


def render(findings: RunResults) -> str:
    """Return the report as one HTML page with inline styles and figures."""
    run, card = findings.run, findings.card
    return rendered(
        __package__,
        TEMPLATE,
        {"figure": _figure, "count": _count, "share": _share},
        run=run,
        unit=UNITS[run.features.view],
        card=card,
        metrics=findings.metrics,
        summary=_summary(findings),
        warnings=_warnings(findings),
        tasks=[
            {
                "task": task,
                "figures": findings.metrics["tasks"][task.name],
                "verdict": _verdict(findings, task),
                "confusion": _confusion_rows(findings, task),
                "roc": figures.roc(task, findings.predictions[task.name]),
            }
            for task in run.tasks
        ],
        epochs=_epochs(run.history),
        inherited=[task.name for task in run.tasks if not any(task.name in record["loss"] for record in run.history)],
        latecomers=_latecomers(run),
        curves=figures.learning_curves(run.tasks, run.history, run.summary["best_epoch"]),
        gates=findings.gates,
        palette=figures.PALETTE,
        gate_sentence=_gate_sentence(findings.gates) if run.recipe.model.kind == "lmmoe" else None,
        drops={reason: count for reason, count in card.accounting.dropped.items() if count},
    )


def _figure(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float, low: float = 0.0, high: float = 1.0) -> str:
    """Return where a value lies between two others, as a CSS percentage."""
    return f"{100 * min(max((value - low) / (high - low), 0.0), 1.0):.1f}%"


def _summary(findings: RunResults) -> str:
    """Return the outcome in two sentences."""
    run, metrics, unit = findings.run, findings.metrics, UNITS[findings.run.features.view]
    parameters, time_us = _count(metrics["cost"]["parameters"]), _count(metrics["cost"]["inference_us"])
    questions = f"{len(run.tasks)} question{'s' if len(run.tasks) > 1 else ''}"
    model = f"One model of {parameters} parameters answers {questions} about a {unit}"
    reads = f"from {run.features.seen}, in {time_us} µs on one CPU thread."
    if metrics["mean_auc"] is None:
        return f"{model} {reads} No AUC is defined on the {metrics['split']} split."
    return f"{model} {reads} Over all tasks its mean AUC on the {metrics['split']} split is {metrics['mean_auc']:.3f}."


def _verdict(findings: RunResults, task: Task) -> str:
    """Return how well a task goes, and how that compares with the baselines."""
    found = findings.metrics["tasks"][task.name]
    if found["auc"] is None:
        return f"The AUC is undefined: {found['auc_undefined']}."
    grade = next(word for least, word in GRADES if found["auc"] >= least)
    low, high = found["interval"] or (None, None)
    unit = UNITS[findings.run.features.view]
    sentences = [
        f"The model tells the classes apart {grade}: AUC {found['auc']:.3f} (95 % interval {_figure(low)} to "
        f"{_figure(high)}) over {_count(found['support'])} {unit}s."
    ]
    forest = found["baselines"].get("random_forest")
    if forest and forest["auc"] is not None and low is not None:
        side = "within that interval" if low <= forest["auc"] <= high else "better" if forest["auc"] > high else "worse"
        sentences.append(f"A random forest on what the model sees reaches {forest['auc']:.3f}, which is {side}.")
    majority = found["baselines"].get("majority")
    if majority:
        sentences.append(
            f"Its accuracy is {found['accuracy']:.1%}; always saying the train split's most frequent class would give "
            f"{majority['accuracy']:.1%}."
        )
    return " ".join(sentences)


def _warnings(findings: RunResults) -> list[str]:
    """Return what a reader must know before believing a figure."""
    split, unit = findings.metrics["split"], UNITS[findings.run.features.view]
    warnings = []
    if findings.card.content_hash != findings.run.source.content_hash:
        warnings.append(
            f"The model was trained on another dataset ({findings.run.source.name}) than it was evaluated on."
        )
    for task in findings.run.tasks:
        found = findings.metrics["tasks"][task.name]
        if found["auc"] is None:
            warnings.append(f"{task.name}: the AUC is undefined, because {found['auc_undefined']}.")
        few = {word: figures["support"] for word, figures in found["classes"].items() if 0 < figures["support"] < FEW}
        if few:
            listed = ", ".join(f"{word} ({count})" for word, count in few.items())
            warnings.append(f"{task.name}: fewer than {FEW} {unit}s of {listed} in the {split} split; read with care.")
        absent = [word for word, figures in found["classes"].items() if not figures["support"]]
        if absent and found["support"]:
            warnings.append(
                f"{task.name}: no {unit} of {', '.join(absent)} in the {split} split, so nothing is known of it."
            )
        majority = found["baselines"].get("majority")
        if majority and found["accuracy"] < majority["accuracy"]:
            warnings.append(
                f"{task.name}: the model is less accurate than always saying the train split's most frequent class."
            )
    return warnings


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of every second epoch (as in table II of MULTA), or of fewer where there are many."""
    every = 2 * -(-len(history) // (2 * MOST_EPOCHS))
    return [record for record in history if record["epoch"] % every == 0]


def _latecomers(run: Run) -> dict[str, Any] | None:
    """Return what an incremental training did to each task, None of any other."""
    path = run.root / run_directory.LATECOMERS
    return json.loads(path.read_bytes()) if path.exists() else None


def _confusion_rows(findings: RunResults, task: Task) -> list[dict[str, Any]]:
    """Return the rows of a confusion table: word, support, and per said class the count and its share of the row."""
    confusion = findings.metrics["tasks"][task.name]["confusion"]
    return [
        {
            "word": word,
            "support": sum(counts),
            "cells": [
                {"count": count, "share": count / max(sum(counts), 1), "right": said == true}
                for said, count in enumerate(counts)
            ],
        }
        for true, (word, counts) in enumerate(zip(task.vocabulary, confusion, strict=True))
    ]


def _gate_sentence(gates: dict[str, list[float]] | None) -> str:
    if gates is None:
        return "The model has a single expert that all tasks share, so there are no gates to look at."
    favourites = {task: max(range(len(weights)), key=weights.__getitem__) for task, weights in gates.items()}
    by_expert: dict[int, list[str]] = {}
    for task, expert in favourites.items():
        by_expert.setdefault(expert, []).append(task)
    leaning = "; ".join(
        f"{', '.join(tasks)} most on expert {expert + 1}" for expert, tasks in sorted(by_expert.items())
    )
    return f"Each gate shares its task's attention among the experts. On average over the split: {leaning}."
