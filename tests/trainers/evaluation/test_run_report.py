"""The run report of made-up results: leakage in its head, axes of the confusion matrix, legends, old metrics."""

import dataclasses
import re

import pytest
from made_up_pages import LONG, dataset_card, run_results

from flowloom.trainers.evaluation.figures import precision_recall, roc, sweep
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.evaluation.leakage_verdict import leakage_verdict
from flowloom.trainers.evaluation.pages import MOST_LINES, line_style, rendered
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.evaluation.run_report import render


@pytest.fixture(scope="module")
def results():
    return run_results(classes=20)


@pytest.fixture(scope="module")
def page(results):
    return render(results)


def test_the_head_says_what_leaks(page, results):
    head = page[page.index("<header>") : page.index("</header>")]
    assert (
        "58 % of test flows share a host pair with training flows, and 12 % have the packet sizes and directions of a "
        "training flow."
    ) in head
    unmeasured = render(dataclasses.replace(results, card=dataset_card(20, leakage=False)))
    assert "Leakage was not measured" in unmeasured[: unmeasured.index("</header>")]


def test_a_verdict_on_leakage_is_one_sentence_in_every_case():
    card = dataset_card()
    dropped = card.model_copy(update={"leakage": card.leakage.model_copy(update={"host_pairs": None, "hosts": None})})
    verdicts = {
        leakage_verdict(card, "validation"): "58 % of validation flows share a host pair",
        leakage_verdict(card, "train"): "These are the training rows themselves",
        leakage_verdict(card, "test", "another"): "the model was trained on another dataset",
        leakage_verdict(
            dropped, "test"
        ): "Of test flows, 12 % have the packet sizes and directions of a training flow; "
        "the dataset keeps no addresses",
    }
    assert len(verdicts) == 4
    for verdict, part in verdicts.items():
        assert part in verdict
        assert verdict.endswith(".")
        assert verdict.count(". ") == 0


def test_confusion_matrices_name_their_axes(page, results):
    assert page.count(">predicted</th>") == page.count(">actual</th>") == len(results.run.tasks)
    assert re.search(r'title="\d+ % of actual application 1 is predicted as application 1"', page)


def test_every_class_has_a_line_of_its_own_and_a_legend(page, results):
    task = results.run.tasks[0]
    assert len(task.vocabulary) == 20
    assert len({line_style(number) for number in range(MOST_LINES)}) == MOST_LINES
    legend = page[page.index('<div class="legend">') :]
    legend = legend[: legend.index("</div>")]
    assert [name for name in task.vocabulary if name in legend] == list(task.vocabulary)
    assert len(set(re.findall(r"<line [^>]*/>", legend))) == 20
    for draw in (roc, precision_recall):
        assert draw(task, results.predictions[task.name]).count("stroke-width: 1.8") == 20


def test_curves_need_two_classes(results):
    task = results.run.tasks[-1]
    given = results.predictions[task.name]
    one = Predictions(given.labels * 0, given.probabilities)
    assert roc(task, one) is None
    assert precision_recall(task, one) is None


def test_figures_take_the_colours_of_the_page_and_leave_names_alone(results):
    name = "x: #2563a8;"
    drawn = sweep("#1f2733", "labels", [1, 2], {name: [Mean(0.5, None, None, 1, None)] * 2})
    assert f">{name}<" in drawn
    assert ">#1f2733<" in drawn
    assert "stroke: var(--c0, #2563a8)" in drawn
    assert "fill: var(--muted, #5d6775)" in roc(results.run.tasks[0], results.predictions["application"])


def test_metrics_of_older_runs_give_a_page_without_the_new_figures(results):
    tasks = {
        name: {**found, "classes": {label: {key: each[key] for key in ("support", "auc", "precision", "recall", "f1")}
                                    for label, each in found["classes"].items()}}
        for name, found in results.metrics["tasks"].items()
    }  # fmt: skip
    older = render(dataclasses.replace(results, metrics={**results.metrics, "tasks": tasks}))
    assert "false positives it finds" not in older
    assert "n/a" in older
    assert LONG in older


def test_times_are_in_units_of_people(page):
    assert "in 1.23 ms on one CPU thread" in page
    assert "<b>1.5 ms</b><span>CPU time" in page


def test_pages_escape_values_and_share_one_style():
    page = rendered("flowloom.trainers.evaluation", "page.html.j2", {})
    assert "prefers-color-scheme: dark" in page
    assert page.startswith("<!doctype html>")
