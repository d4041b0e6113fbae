"""Size tuning on a dataset: trainings by recipe, each of them once, and a run of the size that was found.

`RUN/tuning` holds a file per training, so that an interrupted search continues and another target uses what is there,
tuning.json and a page of the way.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.loop import Training
from flowloom.trainers.training.train import TrainOptions, check_tasks, train
from flowloom.trainers.tuning.search import Search, Trial, Tuning, tune
from flowloom.trainers.tuning.tuning_report import render

BASIS, FOUND, PAGE, TRIALS = "basis.json", "tuning.json", "report.html", "trials"
"""Files of `RUN/tuning`: what was trained on what; the result; the same for people; the folder of the trainings."""


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """What `tune_sizes` needs."""

    dataset: Path
    run: Path
    target_auc: float
    """What every task must reach on the validation split with an LSTM of its own."""
    max_drop: float
    """By how much it may be below that in the LMMoE."""
    recipe: str = "multa-mean"
    """With gates on the mean packet, as flattened ones would outweigh small experts."""
    overrides: tuple[str, ...] = ()
    """`key=value` words that replace settings of the recipe."""
    start_units: int = 8
    largest_units: int = 64
    granularity: int = 4
    repeats: int = 1
    """Trainings of everything, of which the median decides."""
    quick: bool = False
    """Trainings of one epoch: shows the road, not the accuracy."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise FlowloomError(f"repeats must be >= 1, got {self.repeats}")
        for word in self.overrides:
            if word.partition("=")[0] in ("units", "experts", "model.units", "model.experts"):
                raise FlowloomError(f"tuning finds units and experts itself; leave out {word!r}")

    @property
    def words(self) -> tuple[str, ...]:
        """The settings that all trainings share."""
        return (*self.overrides, "epochs=1") if self.quick else self.overrides


def tune_sizes(options: TuneOptions, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Find the size of an LMMoE (`tuning.tune`), train a run of it, and return what was found.

    Only the train and the validation split are read. A multiclass task counts by its macro one-vs-rest AUC.

    Args:
      options: on what, towards what; `tasks=` among the overrides says in which order tasks are searched.
      progress: called with what begins.

    Returns:
      What tuning.json holds: the size, whether it meets the target, what single LSTMs need, all trainings with AUC and
      cost, and which of the models of all tasks no other one beats.

    Raises:
      FlowloomError: if dataset, recipe or bounds are invalid, the run directory holds a finished run or trainings of
        another recipe or dataset, or the AUC of a task is not defined on the validation split.
    """
    recipe, dataset = Recipe.named(options.recipe, options.words), Dataset.open(options.dataset)
    seeds = tuple(recipe.seed + n for n in range(options.repeats))
    search = Search(
        options.target_auc,
        options.max_drop,
        options.start_units,
        options.granularity,
        options.largest_units,
        seeds=seeds,
    )
    check_tasks(recipe, dataset)
    if recipe.model.kind != "lmmoe" or recipe.schedule.paradigm == "incremental":
        raise FlowloomError(
            f"tuning is of an LMMoE whose tasks are trained together, got model={recipe.model.kind} and "
            f"paradigm={recipe.schedule.paradigm}; choose another recipe"
        )
    if (options.run / run_directory.FINISHED).exists():
        raise FlowloomError(f"{options.run} holds a finished run; tune into another directory")
    dataset = dataset.restricted(recipe.feed.tasks or [task.name for task in dataset.tasks])
    root = options.run / run_directory.TUNING
    trials = RememberedTrials(root, recipe, dataset, progress)
    found = tune(recipe.feed.tasks or [task.name for task in dataset.tasks], trials, search)
    document = _document(search, found, trials)
    run_directory.write_json(root / FOUND, document)
    run_directory.write_text(root / PAGE, render(document, dataset.card.name, recipe.name))
    words = (*options.words, f"experts={found.experts}", f"units={found.units}")
    progress(f"{_described(found.experts, found.units)} it is; training {options.run}")
    train(TrainOptions(options.dataset, options.run, options.recipe, words))
    return document


class RememberedTrials:
    """The oracle of a search: trains a trial unless it was trained before, and remembers it in a file.

    Args:
      root: the folder of the tuning, made if missing.
      recipe: how everything but size, tasks and seed is trained.
      dataset: of the tasks that are tuned for.
      progress: called with what is trained.

    Raises:
      FlowloomError: if the folder holds trainings of another recipe or dataset.
    """

    def __init__(self, root: Path, recipe: Recipe, dataset: Dataset, progress: Callable[[str], None]) -> None:
        self._root, self._recipe, self._dataset, self._progress = root, recipe, dataset, progress
        self._features = FeatureSpec.of(
            dataset.card, recipe.feed.k, recipe.feed.channels, recipe.feed.scaling, recipe.feed.signed
        )
        basis = {"recipe": recipe.model_dump(mode="json"), "dataset": dataset.card.content_hash}
        if (root / BASIS).exists():
            found = json.loads((root / BASIS).read_bytes())
            if (Recipe.model_validate(found["recipe"]), found["dataset"]) != (recipe, dataset.card.content_hash):
                raise FlowloomError(
                    f"{root} holds trainings by another recipe or on another dataset; tune into another directory"
                )
            return
        (root / TRIALS).mkdir(parents=True, exist_ok=True)
        run_directory.write_json(root / BASIS, basis)

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Return the validation AUC of each task of a trial, at its best epoch."""
        return self.found(trial)["auc"]

    def found(self, trial: Trial) -> dict[str, Any]:
        """Return what a trial came to: `auc`, `parameters`, `macs` and `epochs`."""
        of = trial.tasks[0] if len(trial.tasks) == 1 else "all"
        path = self._root / TRIALS / f"{trial.experts}x{trial.units}-{of}-seed-{trial.seed}.json"
        if path.exists():
            return json.loads(path.read_bytes())
        self._progress(f"training {_described(trial.experts, trial.units)} on {', '.join(trial.tasks)}")
        changes = {
            "model.experts": trial.experts, "model.units": trial.units, "feed.tasks": trial.tasks, "seed": trial.seed
        }  # fmt: skip
        dataset = self._dataset.restricted(trial.tasks)
        training = Training(self._recipe.changed(changes), dataset, self._features)
        history: list[dict[str, Any]] = []
        for _ in training.epochs(history):
            pass
        auc = history[training.kept_epoch(history) - 1]["validation_auc"]
        if undefined := [task for task, value in auc.items() if value is None]:
            raise FlowloomError(
                f"the AUC of {', '.join(undefined)} is not defined on the validation split of {self._dataset.root}, "
                "which lacks flows of two classes; build the dataset with a larger share for it"
            )
        cost = {"parameters": training.model.count_params(), "macs": training.model.macs}
        run_directory.write_json(path, {"auc": auc, **cost, "epochs": len(history)})
        return json.loads(path.read_bytes())


def _described(experts: int, units: int) -> str:
    return f"{experts} expert{'s' if experts > 1 else ''} of {units} units"


def _document(search: Search, tuning: Tuning, trials: RememberedTrials) -> dict[str, Any]:
    """Return tuning.json."""
    tasks = tuple(tuning.singles)
    seed = search.seeds[0]
    costs = {task: trials.found(Trial(1, single.units, (task,), seed)) for task, single in tuning.singles.items()}
    singles = {
        task: {**dataclasses.asdict(single), "parameters": costs[task]["parameters"], "macs": costs[task]["macs"]}
        for task, single in tuning.singles.items()
    }
    whole = trials.found(Trial(tuning.experts, tuning.units, tasks, seed))
    return {
        "target_auc": search.target_auc,
        "max_drop": search.max_drop,
        "split": "validation",
        "seeds": list(search.seeds),
        "units": tuning.units,
        "experts": tuning.experts,
        "met": tuning.met and all(single.met for single in tuning.singles.values()),
        "auc": tuning.auc,
        "parameters": whole["parameters"],
        "macs": whole["macs"],
        "singles": singles,
        "trainings": len(tuning.walked),
        "saved": tuning.exhaustive - len(tuning.walked),
        "trials": [{**dataclasses.asdict(trial), **trials.found(trial)} for trial in tuning.walked],
        "models": frontier(_models(tasks, tuning.walked, trials)),
    }


def _models(tasks: tuple[str, ...], walked: Sequence[Trial], trials: RememberedTrials) -> list[dict[str, Any]]:
    """Return every model of all tasks that the walk has trained: LMMoEs, and single LSTMs of one size side by side."""
    models = []
    for trial in walked:
        if trial.tasks == tasks:
            models.append(_model("lmmoe", trial, [trials.found(trial)]))
        elif trial.tasks == tasks[:1]:
            beside = [dataclasses.replace(trial, tasks=(task,)) for task in tasks]
            if all(each in walked for each in beside):
                models.append(_model("single LSTMs", trial, list(map(trials.found, beside))))
    return models


def _model(kind: str, trial: Trial, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    aucs = [value for part in parts for value in part["auc"].values()]
    return {
        "model": kind,
        "experts": trial.experts,
        "units": trial.units,
        "seed": trial.seed,
        "worst_auc": min(aucs),
        "mean_auc": sum(aucs) / len(aucs),
        "parameters": sum(part["parameters"] for part in parts),
        "macs": sum(part["macs"] for part in parts),
    }


def frontier(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return models by their parameters, each with `frontier`: no model of as many or fewer has a higher worst AUC."""
    ordered = sorted(models, key=lambda model: (model["parameters"], -model["worst_auc"]))
    best = 0.0
    marked = []
    for model in ordered:
        marked.append({**model, "frontier": model["worst_auc"] > best})
        best = max(best, model["worst_auc"])
    return marked
