"""Retraining: a challenger that begins where the champion is, and what both say of the same rows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from flowloom.schemas.models.feature_profile import FeatureProfile
from flowloom.schemas.models.retrain_state import Figures, PromotionRule, Verdict
from flowloom.trainers.conversion.growth import grown
from flowloom.trainers.evaluation import metrics
from flowloom.trainers.evaluation.predictions import Predictions, compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.profile_counts import profile_dataset, read_profile
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.loop import EVALUATION_BATCH, Progress
from flowloom.trainers.training.train import RunSummary, Start, check_tasks, train_from

SHAPING = (
    "feed.k", "feed.channels", "feed.scaling", "feed.signed", "model.kind", "model.architecture", "model.experts",
    "model.task_experts", "model.selected_experts", "model.gate_entropy", "model.units", "model.gate_input",
    "model.tower", "model.convolutions",
)  # fmt: skip
"""Settings of a recipe that cannot change while training continues from a trained model."""

CHECKPOINT_S = math.inf
"""A run that dies is begun anew: its dataset may have grown before the next."""

StartKind = Literal["fresh", "warm", "grown"]


def train_challenger(
    recipe: Recipe, dataset: Path, run: Path, champion: Path | None, progress: Callable[[Progress], None]
) -> tuple[RunSummary, StartKind, str]:
    """Train on a dataset, from the champion on where that is possible; return how it began, and why.

    With new tasks a mixture of LSTM experts grows by an expert, gate, tower and head for each, which alone are trained:
    what it says of the tasks before stays the same to the bit. What the model sees of a flow, its normalisation
    included, is the champion's.

    Args:
      recipe: one that `check_recipe` lets pass.
      champion: its run; None without one.
    """
    opened = Dataset.open(dataset)
    check_tasks(recipe, opened)
    if champion is None:
        return train_from(recipe, opened, run, CHECKPOINT_S, progress), "fresh", "there was no champion"
    before = Run.open(champion)
    if differing := [key for key in SHAPING if recipe.setting(key) != before.recipe.setting(key)]:
        return (
            train_from(recipe, opened, run, CHECKPOINT_S, progress),
            "fresh",
            f"the recipe differs from the champion's in {', '.join(differing)}",
        )
    model = before.load_model()
    known = [task.name for task in before.tasks]
    late = [task for task in opened.tasks if task.name not in known]
    if not late:
        start = Start(model, before.features, tuple(known))
        return train_from(recipe, opened, run, CHECKPOINT_S, progress, start), "warm", "the champion has all tasks"
    names = ", ".join(task.name for task in late)
    if not isinstance(model, LMMoE):
        summary = train_from(recipe, opened, run, CHECKPOINT_S, progress)
        return summary, "fresh", f"model {recipe.model.kind} cannot grow by a task, and {names} came"
    for task in late:
        model = grown(model, task.name, len(task.vocabulary))
    counts = opened.card.splits["train"].classes
    labelled = any(any(counts[task.name].values()) for task in late)
    isolated = recipe.changed({"schedule.paradigm": "isolated", "feed.balance": None, "feed.only_labelled": labelled})
    start = Start(model, before.features, tuple(task.name for task in late))
    reason = f"{names} came; the other tasks stay as they are to the bit"
    return train_from(isolated, opened, run, CHECKPOINT_S, progress, start), "grown", reason


def compare(champion: Path | None, challenger: Path, datasets: Sequence[Path]) -> dict[str, Figures]:
    """Return what two runs say of the test rows of datasets, by task; no task may be in two of them."""
    runs = {"champion": champion, "challenger": challenger}
    opened = {name: Run.open(path) for name, path in runs.items() if path is not None}
    models = {name: run.load_model() for name, run in opened.items()}
    forward: dict[str, Callable[..., Any]] = {}
    figures: dict[str, Figures] = {}
    for path in datasets:
        whole = Dataset.open(path)
        said: dict[str, dict[str, Predictions]] = {name: {} for name in runs}
        for name, run in opened.items():
            dataset = whole.restricted([task.name for task in run.tasks])
            if dataset.tasks and any(group.rows for group in dataset.row_groups("test")):
                feed = Feed(dataset, "test", run.features, EVALUATION_BATCH)
                # one graph for all datasets: they differ in their rows alone
                forward.setdefault(name, compiled(models[name], feed))
                said[name] = predict(forward[name], feed)
        for task in (task.name for task in whole.tasks):
            found = {name: predictions[task] for name, predictions in said.items() if task in predictions}
            figures[task] = Figures(
                rows=max((len(each.labels) for each in found.values()), default=0),
                **{name: metrics.auc(found[name]) if name in found else None for name in runs},
            )
    return figures


def judge(rule: PromotionRule, frozen: dict[str, Figures], *, first: bool) -> Verdict:
    """Decide by the frozen test rows whether a challenger becomes champion.

    It is held against the best that any champion of the line had on them, task by task: many small steps down would
    else add up to a large one.
    """
    if first:
        return Verdict(promoted=True, reasons=("it is the first",))
    drops = {
        task: each.best - each.challenger
        for task, each in frozen.items()
        if each.best is not None and each.challenger is not None
    }
    if not drops:
        return Verdict(promoted=False, reasons=("no task has frozen test rows of two classes to be judged by",))
    mean = sum(drops.values()) / len(drops)
    against = []
    if mean > rule.margin:
        against.append(f"mean AUC is {mean:.4f} below the best, more than {rule.margin:g}")
    against += [
        f"{task} is {drop:.4f} below the best, more than {rule.max_drop:g}"
        for task, drop in drops.items()
        if drop > rule.max_drop
    ]
    if against:
        return Verdict(promoted=False, reasons=tuple(against))
    lowest = max(drops, key=lambda task: drops[task])
    kept = f"mean AUC is {_beside(mean)} the best, that of the lowest task, {lowest}, {_beside(drops[lowest])} it"
    return Verdict(promoted=True, reasons=(kept,))


def _beside(drop: float) -> str:
    return f"{abs(drop):.4f} {'below' if drop > 0 else 'above'}" if drop else "as high as"


def profiles(champion: Path, newest: Path) -> tuple[FeatureProfile, FeatureProfile] | None:
    """Return the profile of the rows that a champion was trained on, and that of new rows; None without the first."""
    trained = read_profile(champion)
    if trained is None:
        return None
    features = Run.open(champion).features
    return trained, profile_dataset(Dataset.open(newest), features.columns, trained.k)
