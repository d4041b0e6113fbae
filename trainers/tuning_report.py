"""The page of a size tuning: what was looked for, what was walked, what it costs; one HTML file, for people."""

import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2

from flowloom.trainers import figures

TEMPLATE = "tuning.html.j2"


def render(found: Mapping[str, Any], dataset: str, recipe: str) -> str:
    """Return tuning.json as one HTML page with inline styles and figures."""
    template = importlib.resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"auc": "{:.4f}".format, "count": "{:,}".format}
    return environment.from_string(template).render(
        found=found, dataset=dataset, recipe=recipe, summary=summary(found), walk=figures.size_walk(found)
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
