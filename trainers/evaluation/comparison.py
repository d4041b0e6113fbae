"""Comparison of a model with its baselines and the ceiling of its inputs, as rows and sentences of the report."""

from collections.abc import Mapping
from typing import Any

from flowloom.trainers.evaluation.baselines import FOREST_ROWS, SLOW_WORK
from flowloom.trainers.evaluation.label_ceiling import CEILING_ROWS
from flowloom.trainers.evaluation.page_units import count, percent
from flowloom.trainers.trees.nearest_flows import FIRST_PACKETS, NEAREST_ROWS

BASELINE_NAMES = {
    "majority": "majority class",
    "extra_trees": "extra trees",
    "random_forest": "random forest",
    "boosted_trees": "boosted trees",
    "logistic": "logistic regression on histograms",
}
CEILING_NAMES = {
    "inputs": "ceiling: any function of these inputs",
    "without_gaps": "ceiling without gaps",
    "sizes_and_directions": "ceiling of sizes and directions alone",
}


def compared_rows(recipe: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of the table of one task: the model, its baselines, and the ceilings.

    Args:
      recipe: name of the model.
      figures: of the task, from metrics.json.
    """
    rows = [{"name": recipe, "figures": figures}]
    rows += [{"name": _baseline_name(name, each), "figures": each} for name, each in figures["baselines"].items()]
    ceilings = figures.get("ceiling", {})
    rows += [{"name": CEILING_NAMES[name], "figures": each} for name, each in ceilings.items()]
    return rows


def _baseline_name(name: str, found: Mapping[str, Any]) -> str:
    if name == "best_classical":
        return f"{BASELINE_NAMES[found['family']]} (best on validation)"
    if name == "nearest_flows":
        number = found["neighbours"]
        return "nearest flow" if number == 1 else f"{number} nearest flows"
    return BASELINE_NAMES[name]


def comparison(task: str, unit: str, figures: Mapping[str, Any]) -> str:
    """Returns the comparison of one task in one sentence or two.

    Args:
      task: its name.
      unit: name of a row.
      figures: of the task, from metrics.json.
    """
    own = figures["macro_f1"]
    baselines = {name: each for name, each in figures["baselines"].items() if each["macro_f1"] is not None}
    if own is None or not baselines:
        return f"{task}: there are no labelled {unit}s to compare on."
    best = max(baselines, key=lambda name: baselines[name]["macro_f1"])
    reached = baselines[best]["macro_f1"]
    side = "above" if own > reached else "below" if own < reached else "equal to"
    text = (
        f"{task}: the model's macro F1 is {own:.3f}, {side} the {reached:.3f} of the best baseline, "
        f"{_baseline_name(best, baselines[best])}."
    )
    ceilings = figures.get("ceiling", {})
    if (whole := ceilings.get("inputs")) and whole["macro_f1"] is not None:
        text += f" A perfect memory of the same inputs would reach {whole['macro_f1']:.3f}"
        narrow = ceilings.get("sizes_and_directions")
        if narrow:
            text += (
                f", and one of sizes and directions alone {narrow['macro_f1']:.3f}, as {percent(narrow['shared'])} of "
                f"the {unit}s share these with another class"
            )
        text += "."
    return text


def bounds(unit: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the limits of the baselines and ceilings in words.

    Args:
      unit: name of a row.
      tasks: figures by task, from metrics.json.
    """
    skipped = [name for name, figures in tasks.items() if figures["baselines"].get("best_classical", {}).get("skipped")]
    text = (
        f"Baselines are fitted on at most {count(FOREST_ROWS)} labelled train {unit}s, and chosen by macro F1 on at "
        f"most as many validation {unit}s."
    )
    if skipped:
        text += (
            f" Boosted trees and logistic regression were not tried for {', '.join(skipped)}, because {unit}s times "
            f"classes exceed {count(SLOW_WORK)}."
        )
    if unit == "flow":
        text += (
            f" Nearest flows compares sizes and directions of the first {FIRST_PACKETS} packets, and predicts at most "
            f"{count(NEAREST_ROWS)} flows."
        )
    return (
        f"{text} Ceilings: the best scores that {unit}s with equal inputs and different labels leave, over at most "
        f"{count(CEILING_ROWS)} {unit}s; accuracy is exact, macro F1 is the highest that was found."
    )
