"""Tables and figures of Rezaei and Liu's experiments beside the paper's: tables III to V, figures 5 to 8."""

from collections.abc import Sequence

import numpy as np

from flowloom.pipelines.reproduce.engine.reproduction_page import Confusion, Row, Section, Table
from flowloom.pipelines.reproduce.multitask_cnn.auxiliary_labels import divider_classes, mean_dividers
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_claims import (
    PAPER,
    PAPER_ALL_LABELS,
    PAPER_TABLE_4,
    TITLES,
    LabelledTotals,
)
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_experiments import TASKS
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_grid import (
    FEW,
    KBPS,
    LOWEST_LABELS,
    FlowSet,
    RezaeiLiuOutcomes,
    arms,
    divider_settings,
)
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.intervals import Mean

WHOLE_FLOW = 65_535
"""Largest number of packets that a dataset stores of a flow; sets with this limit store whole flows."""
DIVIDER_TITLES = {"all": "class means of all train rows", "shares": "equal shares", "crowded": "all in the upper tenth"}


def sections(sets: Sequence[FlowSet], outcomes: RezaeiLiuOutcomes, totals: LabelledTotals | None) -> list[Section]:
    """Returns the sections of the page."""
    compared = [flows for flows in sets if not flows.texts_only]
    found = []
    for flows, table, numbers in zip(compared, ("III", "V"), ((5, 6), (7, 8)), strict=False):
        found.append(_accuracy_section(flows, outcomes, table))
        found.append(_sweeps(flows, outcomes, numbers))
        found.append(_dividers(flows, outcomes))
        found.append(_why(flows, outcomes))
    found += [_texts(flows, outcomes) for flows in sets if flows.texts_only]
    return found + ([_confound(totals)] if totals is not None else [])


def _accuracy_section(flows: FlowSet, outcomes: RezaeiLiuOutcomes, table: str) -> Section:
    """Returns table III or V."""
    rows: list[Row] = []
    known = arms(flows, outcomes.scale)
    for labels in outcomes.scale.labels:
        for method, title in TITLES.items():
            arm = f"{method} labels-{labels}"
            if arm not in known:
                continue
            paper = PAPER[table].get(method, {}).get(labels, (None, None, None))
            tasks = outcomes.all_of(flows, arm)[0]["accuracy"]
            row: dict[str, str | float | Mean | None] = {"labels": str(labels), "method": title, "arm": arm}
            for place, task in ((2, "class"), (0, "bandwidth"), (1, "duration")):
                row[task] = outcomes.mean(flows, arm, task) if task in tasks else None
                row[f"paper_{task}"] = paper[place]
            if method == "cnn-rnn2":
                row |= {task: outcomes.mean(flows, f"cnn-rnn2 {task}", task) for task in ("bandwidth", "duration")}
            rows.append(row)
    for arm, title in (("single-task all", "the same CNN alone"), ("cnn-rnn2 all", "CNN+RNN-2 alone")):
        known_best = PAPER_ALL_LABELS if table == "III" and arm == "single-task all" else None
        rows.append(
            {
                "labels": "all",
                "method": title,
                "arm": arm,
                "class": outcomes.mean(flows, arm),
                "paper_class": known_best,
            }
        )
    columns = {"labels": "Labels per class", "method": "Method"}
    for task in TASKS:
        columns |= {task: f"{task.capitalize()}, here", f"paper_{task}": "paper"}
    fewest = min(
        result["labelled"] for result in outcomes.all_of(flows, f"multi-task labels-{max(outcomes.scale.labels)}")
    )
    text = [
        "Accuracy on the test rows in per cent: the mean over the repeated splits and half its 95 % interval, beside "
        "the paper's figure. Trees are also shown where they win.",
        f"With {max(outcomes.scale.labels)} labels per class, {fewest} flows of the train split have a label.",
        "As published, CNN+RNN-2 and transfer train for 30 and 20 epochs. With 50 labelled flows an epoch is one "
        "update, so they have 30 and 20 updates, and the multi-task network has many more. “Trained longer” gives them "
        "as many updates. All networks of this page keep their last weights.",
    ]  # fmt: skip
    name = f"table_{'3' if table == 'III' else '5'}_{flows.name}"
    caption = f"Table {table} of the paper" + (
        " was on ISCX VPN-nonVPN." if table == "V" else " was on all 6,589 flows."
    )
    if flows.packets < WHOLE_FLOW:
        caption += f" Here statistics cover the first {flows.packets} packets of a flow, as no more are stored."
    return Section(f"Accuracy on {flows.title}", text, {name: Table(f"Table {table}", columns, rows, caption)})


def _sweeps(flows: FlowSet, outcomes: RezaeiLiuOutcomes, numbers: tuple[int, int]) -> Section:
    """Returns figures 5 and 6, or 7 and 8."""
    few = f"multi-task labels-{FEW}"
    packets = sorted(k for k in outcomes.scale.packets if k <= flows.packets)
    by_k = {k: few if k == 60 else f"multi-task k-{k}" for k in packets}
    by_weight = {w: few if w == 1.0 else f"multi-task lambda-{w:g}" for w in sorted(outcomes.scale.weights)}
    tables, drawn = {}, []
    for number, key, heading, chosen in (
        (numbers[0], "k", "packets", by_k),
        (numbers[1], "lambda", "lambda", by_weight),
    ):
        title = f"Figure {number}: accuracy by {heading}"
        lines = {task: [outcomes.mean(flows, arm, task) for arm in chosen.values()] for task in TASKS}
        drawn.append(figures.sweep(f"{title}, {flows.title}", heading, list(chosen), lines, key == "lambda"))
        rows: list[Row] = [
            {key: f"{value:g}", **{task: lines[task][place] for task in TASKS}} for place, value in enumerate(chosen)
        ]
        columns = {key: heading.capitalize(), **{task: task.capitalize() for task in TASKS}}
        tables[f"figure_{number}_{key}_{flows.name}"] = Table(title, columns, rows)
    text = [
        f"All with {FEW} labels per class. The paper draws these figures without numbers. According to its text the "
        "class gains from 30 to 60 packets but not beyond, and its accuracy is highest near lambda 10; all tasks lose "
        "accuracy when lambda is very large.",
    ]
    return Section(f"Packets and lambda on {flows.title}", text, tables, drawn)


def _dividers(flows: FlowSet, outcomes: RezaeiLiuOutcomes) -> Section:
    """Returns table IV, or a similar table for other flows."""
    rows: list[Row] = []
    for number, dividers in enumerate(divider_settings(flows, outcomes.scale)):
        arm = f"multi-task dividers-{number}"
        found = outcomes.all_of(flows, arm)[0]["dividers"]
        row: dict[str, str | float | Mean | None] = {
            "from": DIVIDER_TITLES[dividers] if isinstance(dividers, str) else "the paper's",
            "bandwidth_at": ", ".join(f"{each / KBPS:.4g}" for each in found["bandwidth"]),
            "duration_at": ", ".join(f"{each:.3g}" for each in found["duration"]),
        }
        for place, task in ((0, "bandwidth"), (1, "duration"), (2, "class")):
            row[task] = outcomes.mean(flows, arm, task)
            row[f"paper_{task}"] = PAPER_TABLE_4[number][place] if flows.paper_dividers else None
        rows.append(row)
    columns = {"from": "Dividers", "bandwidth_at": "Bandwidth, kB/s", "duration_at": "Duration, s"}
    for task in ("bandwidth", "duration", "class"):
        columns |= {task: task.capitalize(), **({f"paper_{task}": "paper"} if flows.paper_dividers else {})}
    caption = "Dividers from the data are those of the first split. " + (
        "The paper calls its unit kbps; its code and flows show that it is kilobytes per second."
        if flows.paper_dividers else ""
    )  # fmt: skip
    table = Table("Table IV" if flows.paper_dividers else "Dividers", columns, rows, caption)
    name = "table_4_dividers" if flows.paper_dividers else f"dividers_{flows.name}"
    return Section(f"Dividers on {flows.title}", [f"All with {FEW} labels per class."], {name: table})


def _why(flows: FlowSet, outcomes: RezaeiLiuOutcomes) -> Section:
    """Returns learning curves and confusion matrices for the fewest labels."""
    labels = min(outcomes.scale.labels)
    methods = ("multi-task", "multi-task-windows", "transfer-converged", "cnn-rnn2-converged")
    curves = {}
    for method in methods:
        results = outcomes.all_of(flows, f"{method} labels-{labels}")
        curves[TITLES[method]] = [
            [100 * record["validation_accuracy"]["class"] for record in result["history"]] for result in results
        ]
    confusions = []
    for method in ("multi-task", "transfer-converged"):
        results = outcomes.all_of(flows, f"{method} labels-{labels}")
        summed = np.sum([result["confusion"] for result in results], axis=0).tolist()
        confusions.append(Confusion(f"{TITLES[method]}, all splits", flows.classes, summed))
    title = f"Class accuracy during training, {labels} labels per class, {flows.title}"
    text = [
        f"The sources of the differences with {labels} labels per class: learning curves and test rows of all splits."
    ]
    return Section(
        f"Learning curves and confusions on {flows.title}",
        text,
        {},
        [figures.validation_curves(title, curves)],
        confusions,
    )


def _texts(flows: FlowSet, outcomes: RezaeiLiuOutcomes) -> Section:
    """Returns the benefit of directions on flows that have them."""
    titles = {
        "multi-task signed": "multi-task CNN, lengths with the sign of the direction",
        "multi-task unsigned": "multi-task CNN, lengths without sign",
        "forest-statistics signed": "random forest on 108 statistics of whole flows",
        "forest-statistics unsigned": "random forest on the 36 statistics that need no direction",
    }
    rows: list[Row] = [{"method": title, "class": outcomes.mean(flows, arm)} for arm, title in titles.items()]
    table = Table("Directions", {"method": "Method", "class": "Class"}, rows, f"{LOWEST_LABELS[0]} labels per class.")
    text = ["Only these flows have directions and all of their packets."]
    return Section(f"Directions on {flows.title}", text, {f"directions_{flows.name}": table})


def _confound(totals: LabelledTotals) -> Section:
    """Returns how well bandwidth and duration alone predict the class."""
    dividers = [mean_dividers(values, totals.classes) for values in (totals.bandwidth, totals.duration)]
    bandwidth, duration = (
        divider_classes(values, at) for values, at in zip((totals.bandwidth, totals.duration), dividers, strict=True)
    )
    width = len(totals.services)
    by_bandwidth = np.zeros((width, width), np.int64)
    np.add.at(by_bandwidth, (totals.classes[bandwidth >= 0], bandwidth[bandwidth >= 0]), 1)
    together = np.zeros((width * width, width), np.int64)
    np.add.at(together, ((np.maximum(bandwidth, 0) * width + duration), totals.classes), 1)
    right = together.max(axis=1).sum() / len(totals.classes)
    rows: list[Row] = [
        {"class": service, **{f"bandwidth_{place}": float(count) for place, count in enumerate(counts)}}
        for service, counts in zip(totals.services, by_bandwidth.tolist(), strict=True)
    ]
    columns = {"class": "Service", **{f"bandwidth_{place}": f"Bandwidth class {place + 1}" for place in range(width)}}
    share = 100 * np.bincount(totals.classes).max() / len(totals.classes)
    text = [
        f"Of {len(totals.classes):,} flows, {100 * right:.1f} % can be classified correctly from their actual "
        f"bandwidth and duration classes alone; always predicting the most frequent service gives {share:.1f} %. The "
        "auxiliary labels describe the whole flow and nearly determine the class, so a gain from learning them says "
        "little about other corpora.",
    ]  # fmt: skip
    return Section(
        "Confounding of the auxiliary labels", text, {"confound": Table("Bandwidth class by service", columns, rows)}
    )
