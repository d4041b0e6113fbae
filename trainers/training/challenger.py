"""Retraining: trains a challenger from the champion, and compares both on the same rows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import keras

from flowloom.schemas.models.feature_profile import PROFILE, FeatureProfile
from flowloom.schemas.models.retrain_state import Figures, PromotionRule, Verdict
from flowloom.schemas.progress import Progress
from flowloom.trainers.conversion.growth import grown
from flowloom.trainers.evaluation import metrics
from flowloom.trainers.evaluation.predictions import Predictions, compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.profile_counts import profile_dataset, read_profile
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.loop import EVALUATION_BATCH
from flowloom.trainers.training.train import RunSummary, Start, check_tasks, train_from

SHAPING = (
    "feed.k", "feed.channels", "feed.scaling", "feed.signed", "model.kind", "model.architecture", "model.experts",
    "model.task_experts", "model.selected_experts", "model.gate_entropy", "model.units", "model.gate_input",
    "model.tower", "model.convolutions", "model.input", "model.expert_kind", "model.embedding", "model.width",
    "model.layers", "model.mixing", "model.pooling", "model.first_packets", "model.readout_width", "model.dropout",
)  # fmt: skip
"""Settings of a recipe that cannot change while training continues from a trained model."""

CHECKPOINT_S = math.inf
"""No checkpoints inside an epoch: an interrupted run starts anew, as its dataset may grow in between."""

StartKind = Literal["fresh", "warm", "grown"]


def train_challenger(
    recipe: Recipe, dataset: Path, run: Path, champion: Path | None, progress: Callable[[Progress], None]
) -> tuple[RunSummary, StartKind, str]:
    """Trains a challenger on a dataset, from the champion's weights where possible.

    For each new task a mixture of experts grows by an expert, a gate, a tower and a head. Only these are trained,
    so that the scores of earlier tasks stay the same to the bit. The challenger reads the features of the champion,
    with the same normalisation.

    Args:
      recipe: one that `check_recipe` accepts.
      champion: run of the champion; None if there is none.

    Returns:
      the summary of the run, the kind of its start, and the reason for it.
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
    if recipe.model.is_trees:
        summary = train_from(recipe, opened, run, CHECKPOINT_S, progress)
        return summary, "fresh", f"model.kind={recipe.model.kind} is fitted as a whole"
    model = cast(MultiTaskModel, before.load_model())
    known = [task.name for task in before.tasks]
    late = [task for task in opened.tasks if task.name not in known]
    if not late:
        start = Start(model, before.features, tuple(known))
        return train_from(recipe, opened, run, CHECKPOINT_S, progress, start), "warm", "the champion has all tasks"
    names = ", ".join(task.name for task in late)
    if not isinstance(model, LMMoE):
        summary = train_from(recipe, opened, run, CHECKPOINT_S, progress)
        return summary, "fresh", f"model.kind={recipe.model.kind} cannot grow by the new tasks {names}"
    keras.utils.set_random_seed(recipe.seed)  # growth draws first weights
    for task in late:
        model = grown(model, task.name, len(task.vocabulary))
    counts = opened.card.splits["train"].classes
    labelled = any(any(counts[task.name].values()) for task in late)
    isolated = recipe.changed({"schedule.paradigm": "isolated", "feed.balance": None, "feed.only_labelled": labelled})
    start = Start(model, before.features, tuple(task.name for task in late))
    reason = f"the model grew by the new tasks {names}; the other tasks stay the same to the bit"
    return train_from(isolated, opened, run, CHECKPOINT_S, progress, start), "grown", reason


def compare(champion: Path | None, challenger: Path, datasets: Sequence[Path]) -> dict[str, Figures]:
    """Returns the ROC AUC of two runs on test rows by task; no task may be in two datasets."""
    runs = {"champion": champion, "challenger": challenger}
    opened = {name: Run.open(path) for name, path in runs.items() if path is not None}
    models = {name: run.load_model() for name, run in opened.items()}
    forward: dict[str, Callable[..., Any]] = {}
    figures: dict[str, Figures] = {}
    for path in datasets:
        whole = Dataset.open(path)
        predicted: dict[str, dict[str, Predictions]] = {name: {} for name in runs}
        for name, run in opened.items():
            dataset = whole.restricted([task.name for task in run.tasks])
            if dataset.tasks and any(group.rows for group in dataset.row_groups("test")):
                feed = Feed(dataset, "test", run.features, EVALUATION_BATCH)
                # one graph for all datasets, as only their rows differ
                forward.setdefault(name, compiled(models[name], feed))
                predicted[name] = predict(forward[name], feed)
        for task in (task.name for task in whole.tasks):
            found = {name: predictions[task] for name, predictions in predicted.items() if task in predictions}
            figures[task] = Figures(
                rows=max((len(each.labels) for each in found.values()), default=0),
                **{name: metrics.auc(found[name]) if name in found else None for name in runs},
            )
    return figures


def judge(rule: PromotionRule, frozen: dict[str, Figures], *, first: bool) -> Verdict:
    """Decides by the frozen test rows whether a challenger becomes champion.

    Each task is compared with the best AUC of all champions so far. A comparison with the last champion alone would let
    many small losses add up to a large one.
    """
    if first:
        return Verdict(promoted=True, reasons=("it is the first",))
    drops = {
        task: each.best - each.challenger
        for task, each in frozen.items()
        if each.best is not None and each.challenger is not None
    }
    if not drops:
        return Verdict(promoted=False, reasons=("no task has frozen test rows of two classes",))
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
    reason = (
        f"mean AUC is {_against_best(mean)}; {lowest}, the task with the largest drop, is "
        f"{_against_best(drops[lowest])}"
    )
    return Verdict(promoted=True, reasons=(reason,))


def _against_best(drop: float) -> str:
    return f"{abs(drop):.4f} {'below' if drop > 0 else 'above'} the best" if drop else "equal to the best"


def profiles(champion: Path, newest: Path) -> tuple[FeatureProfile, FeatureProfile] | None:
    """Returns the profiles of a champion's train rows and of new rows; None if the champion has no profile."""
    run = Run.open(champion)
    trained = read_profile(champion, run.sha256(PROFILE))
    if trained is None:
        return None
    return trained, profile_dataset(Dataset.open(newest), run.features.columns, trained.k)
