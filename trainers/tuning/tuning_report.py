"""The page of a size tuning: what was looked for, what was walked, what it costs; one HTML file, for people."""

from collections.abc import Mapping
from typing import Any

from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.pages import rendered

TEMPLATE = "tuning.html.j2"


def render(found: Mapping[str, Any], dataset: str, recipe: str) -> str:
    """Return tuning.json as one HTML page with inline styles and figures."""
    filters = {"auc": "{:.4f}".format, "count": "{:,}".format}
    walk = figures.size_walk(found)
    return rendered(
        __package__, TEMPLATE, filters, found=found, dataset=dataset, recipe=recipe, summary=summary(found), walk=walk
    )


def summary(found: Mapping[str, Any]) -> str:
    """Return the outcome in a few sentences."""
    experts = f"{found['experts']} expert{'s' if found['experts'] > 1 else ''}"
    singles = {cost: sum(single[cost] for single in found["singles"].values()) for cost in ("parameters", "macs")}
    ratio = found["parameters"] / singles["parameters"]
    sentences = [
        f"{experts} of {found['units']} units serve {len(found['auc'])} tasks with {found['parameters']:,} parameters, "
        f"{ratio:.2f} times those of an LSTM for each task; the worst AUC is {min(found['auc'].values()):.4f}."
    ]
    if unmet := [task for task, single in found["singles"].items() if not single["met"]]:
        sentences.append(f"No size that was tried brings {', '.join(unmet)} to {found['target_auc']} alone.")
    elif not found["met"]:
        sentences.append(f"Even as many experts as tasks lose more than {found['max_drop']}.")
    sentences.append(f"This took {found['trainings']} trainings, {found['saved']} fewer than trying everything.")
    return " ".join(sentences)
