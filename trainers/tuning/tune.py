"""Size tuning on a dataset: trains each trial of a search once, and then a run of the found size.

`RUN/tuning` holds tuning.json, a report, and a file per trial, so that an interrupted search continues and a search for
another target reuses its trials.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.atomic_files import write_json, write_text
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed, unsealed
from flowloom.schemas.folder_lock import locked_folder
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.evaluation import figures
from flowloom.trainers.evaluation.pages import rendered
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes import run_directory
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.loop import Training
from flowloom.trainers.training.train import TrainOptions, check_tasks, train
from flowloom.trainers.training.trainable import require_trainable
from flowloom.trainers.tuning.search import Search, Trial, Tuning, tune

BASIS, FOUND, PAGE, TRIALS = "basis.json", "tuning.json", "report.html", "trials"
"""Files of `RUN/tuning`: recipe and dataset of the trials; the result; its report; the folder of the trials."""


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """Options of `tune_sizes`."""

    dataset: Path
    run: Path
    target_auc: float
    """Least validation ROC AUC of every task with its own LSTM."""
    max_drop: float
    """Largest loss of ROC AUC of a task in the LMMoE against `target_auc`."""
    recipe: str = "multa-mean"
    """`multa-mean` has gates on the mean packet; flattened gates have more weights than small experts."""
    overrides: tuple[str, ...] = ()
    """`key=value` texts that replace settings of the recipe."""
    start_units: int = 8
    largest_units: int = 64
    granularity: int = 4
    repeats: int = 1
    """Seeds of each trial; their median ROC AUC decides."""
    patience: int = 2
    """Doublings without a rise of ROC AUC before the largest size is tried (`Search.second_look`)."""
    second_look: bool = True
    """Whether the largest size is tried before a target counts as out of reach."""
    quick: bool = False
    """Trains each trial for one epoch, which shows that the command works, not how accurate a size is."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise FlowloomError(f"repeats must be >= 1, got {self.repeats}")
        for text in self.overrides:
            if text.partition("=")[0] in ("units", "experts", "model.units", "model.experts"):
                raise FlowloomError(
                    f"overrides must not set units or experts, which tuning finds, got {text!r}; remove it"
                )

    @property
    def settings(self) -> tuple[str, ...]:
        """The `key=value` texts that all trials share."""
        return (*self.overrides, "epochs=1") if self.quick else self.overrides


def tune_sizes(options: TuneOptions, progress: Callable[[Progress], None] = ignore_progress) -> dict[str, Any]:
    """Finds the smallest LMMoE that meets a target (`search.tune`), and trains a run of it.

    Only the train and the validation split are read. A multiclass task counts by its macro one-vs-rest ROC AUC.

    Args:
      options: dataset, run and target; `feed.tasks` among the overrides orders the search.
      progress: called before each training.

    Returns:
      the content of tuning.json: the size, whether it meets the target, the single LSTMs, all trials with ROC AUC and
      cost, and the Pareto frontier of the models of all tasks.

    Raises:
      FlowloomError: if dataset, recipe or bounds are invalid, the run directory holds a finished run or trials of
        another recipe or dataset, or the ROC AUC of a task is not defined on the validation split.
    """
    recipe, dataset = Recipe.named(options.recipe, options.settings), Dataset.open(options.dataset)
    seeds = tuple(recipe.seed + n for n in range(options.repeats))
    search = Search(
        options.target_auc,
        options.max_drop,
        options.start_units,
        options.granularity,
        options.largest_units,
        patience=options.patience,
        second_look=options.second_look,
        seeds=seeds,
    )
    check_tasks(recipe, dataset)
    if recipe.model.kind != "lmmoe" or recipe.schedule.paradigm == "incremental":
        raise FlowloomError(
            "tuning needs model.kind=lmmoe and a paradigm that trains all tasks together, got "
            f"model.kind={recipe.model.kind} and schedule.paradigm={recipe.schedule.paradigm}; choose another recipe"
        )
    if (options.run / run_directory.FINISHED).exists():
        raise FlowloomError(f"{options.run} holds a finished run; choose another directory")
    dataset = dataset.restricted(recipe.feed.tasks or [task.name for task in dataset.tasks])
    require_trainable(dataset, recipe.view)
    root = options.run / run_directory.TUNING
    with locked_folder(options.run):
        trials = StoredTrials(root, recipe, dataset, progress)
        found = tune(recipe.feed.tasks or [task.name for task in dataset.tasks], trials, search)
        document = _document(search, found, trials)
        write_json(root / FOUND, document)
        write_text(root / PAGE, render(document, dataset.card.name, recipe.name))
    settings = (*options.settings, f"experts={found.experts}", f"units={found.units}")
    text = f"found {_described(found.experts, found.units)}; training {options.run}"
    progress(Progress(text, trials.trained, stays=True))
    train(TrainOptions(options.dataset, options.run, options.recipe, settings))
    return document


class StoredTrials:
    """The oracle of a search: trains a trial unless its result is in a file, and stores the result.

    Args:
      root: the folder of the tuning, made if missing.
      recipe: all settings of the trials but size, tasks and seed.
      dataset: of the tasks that are tuned for.
      progress: called before each training.

    Raises:
      FlowloomError: if the folder holds trials of another recipe or dataset.
    """

    def __init__(self, root: Path, recipe: Recipe, dataset: Dataset, progress: Callable[[Progress], None]) -> None:
        self._root, self._recipe, self._dataset, self._progress = root, recipe, dataset, progress
        self.trained = 0
        """Number of trials trained so far, without those read from files."""
        self._features = FeatureSpec.of(
            dataset.card, recipe.feed.k, recipe.feed.channels, recipe.feed.scaling, recipe.feed.signed
        )
        basis = {"recipe": recipe.model_dump(mode="json"), "dataset": dataset.card.content_hash}
        if (root / BASIS).exists():
            found = _stored(root / BASIS)
            if (Recipe.model_validate(found["recipe"]), found["dataset"]) != (recipe, dataset.card.content_hash):
                raise FlowloomError(
                    f"{root} must hold trials of the same recipe and dataset, got others; choose another directory"
                )
            return
        (root / TRIALS).mkdir(parents=True, exist_ok=True)
        write_json(root / BASIS, sealed(basis))

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Returns the validation ROC AUC of each task of a trial, at its best epoch."""
        return self.found(trial)["auc"]

    def found(self, trial: Trial) -> dict[str, Any]:
        """Returns `auc`, `parameters`, `macs` and `epochs` of a trial."""
        of = trial.tasks[0] if len(trial.tasks) == 1 else "all"
        path = self._root / TRIALS / f"{trial.experts}x{trial.units}-{of}-seed-{trial.seed}.json"
        if path.exists():
            return _stored(path)
        text = f"training {_described(trial.experts, trial.units)} on {', '.join(trial.tasks)}"
        self._progress(Progress(text, self.trained, stays=True))
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
                f"the validation split of {self._dataset.root} must hold flows of two classes of each task, got fewer "
                f"of {', '.join(undefined)}; build the dataset with a larger validation share"
            )
        cost = {"parameters": training.model.count_params(), "macs": training.model.macs}
        write_json(path, sealed({"auc": auc, **cost, "epochs": len(history)}))
        self.trained += 1
        return _stored(path)


def _stored(path: Path) -> dict[str, Any]:
    """Returns a stored document of the search."""
    remedy = "remove it to train its trials again"
    try:
        return unsealed(json.loads(path.read_bytes()), path, remedy)
    except FlowloomError:
        raise
    except ValueError as error:
        raise FlowloomError(f"{path} is not JSON ({error}); {remedy}") from None


def _described(experts: int, units: int) -> str:
    return f"{experts} expert{'s' if experts > 1 else ''} of {units} units"


def _document(search: Search, tuning: Tuning, trials: StoredTrials) -> dict[str, Any]:
    """Returns the content of tuning.json."""
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
        "trainings": len(tuning.trials),
        "saved": tuning.exhaustive - len(tuning.trials),
        "trials": [{**dataclasses.asdict(trial), **trials.found(trial)} for trial in tuning.trials],
        "models": frontier(_models(tasks, tuning.trials, trials)),
    }


def _models(tasks: tuple[str, ...], trained: Sequence[Trial], trials: StoredTrials) -> list[dict[str, Any]]:
    """Returns the trained models of all tasks: LMMoEs, and single LSTMs of one size with one per task."""
    models = []
    for trial in trained:
        if trial.tasks == tasks:
            models.append(_model("lmmoe", trial, [trials.found(trial)]))
        elif trial.tasks == tasks[:1]:
            beside = [dataclasses.replace(trial, tasks=(task,)) for task in tasks]
            if all(each in trained for each in beside):
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
    """Returns models by number of parameters; `frontier` marks those with a higher worst AUC than all smaller ones."""
    ordered = sorted(models, key=lambda model: (model["parameters"], -model["worst_auc"]))
    best = 0.0
    marked = []
    for model in ordered:
        marked.append({**model, "frontier": model["worst_auc"] > best})
        best = max(best, model["worst_auc"])
    return marked


def render(found: Mapping[str, Any], dataset: str, recipe: str) -> str:
    """Returns tuning.json as one HTML page with inline styles and figures."""
    return rendered(
        __package__,
        "tuning.html.j2",
        {"auc": "{:.4f}".format},
        found=found,
        dataset=dataset,
        recipe=recipe,
        summary=summary(found),
        walk=figures.size_walk(found),
    )


def summary(found: Mapping[str, Any]) -> str:
    """Returns the outcome in a few sentences."""
    singles = {cost: sum(single[cost] for single in found["singles"].values()) for cost in ("parameters", "macs")}
    ratio = found["parameters"] / singles["parameters"]
    sentences = [
        f"{_described(found['experts'], found['units'])} serve {len(found['auc'])} tasks with "
        f"{found['parameters']:,} parameters, {ratio:.2f} times as many as one network per task; the worst ROC AUC is "
        f"{min(found['auc'].values()):.4f}."
    ]
    if unmet := [task for task, single in found["singles"].items() if not single["met"]]:
        sentences.append(f"No tried size brings {', '.join(unmet)} to a ROC AUC of {found['target_auc']} alone.")
    elif not found["met"]:
        sentences.append(f"One expert per task still loses more than {found['max_drop']} of ROC AUC.")
    sentences.append(f"The search took {found['trainings']} trainings, {found['saved']} fewer than a full grid.")
    return " ".join(sentences)
