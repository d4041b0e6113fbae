"""The experiments of MULTA (Guo et al., Cost-efficient Multi-task Network Traffic Analysis) as cells of a grid."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import sklearn.metrics
import threadpoolctl

from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
from flowloom.pipelines.reproduce.engine.flow_trials import Examples, FlowFitPlan, FlowTrials
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.baselines import random_forest
from flowloom.trainers.evaluation.predictions import compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.early_stopping import best_epoch, mean, score, total_loss
from flowloom.trainers.training.loop import Training

PROTOCOL = 2
"""Goes up when a change makes cells that are stored another thing."""
LATECOMER_PROTOCOL = 3
"""Likewise of latecomers, which `Training` trains."""
MOMENTS = 20
"""Times that a training of many epochs is measured at least; one of fewer after each."""

CHANNELS = ("size", "gap", "direction")
"""What networks and forests see of a packet: all that CertTA tells; header fields make the corpus' attacks trivial."""
K = 20
TOWER = (4,)
"""Of single LSTMs and tuned MULTAs: as small as the experts, or towers would be most of the parameters."""
LEARNING_RATE = 1e-2
EVALUATION_ROWS = 1024
MOST_ROWS = 200_000
"""Of a split; of larger ones so many are drawn."""

Method = Literal["network", "forest", "latecomers"]
Paradigm = Literal["rainbow", "rainbow_mixed", "aurora"]
Latecomer = Literal["repair", "replay", "isolate"]
"""`repair` is sequential until its last phase."""


@dataclasses.dataclass(frozen=True)
class MULTASetting:
    """Everything that the result of a cell depends on."""

    dataset: str
    """A name of `Experiments.datasets`."""
    content: str
    """The content hash of that dataset."""
    method: Method
    tasks: tuple[str, ...]
    """What the network answers; of latecomers in the order in which they arrive."""
    seed: int
    """Of the weights and of the order of the rows."""
    experts: int = 1
    units: int = 8
    gate_input: Literal["flatten", "mean"] = "mean"
    tower: tuple[int, ...] = TOWER
    paradigm: Paradigm = "rainbow_mixed"
    updates: int = 0
    """Gradient steps; the weights of the best mean validation AUC are kept."""
    epochs: int = 0
    """Passes over the rows, instead of `updates`; of latecomers those of each arrival."""
    latecomer: Latecomer = "repair"
    repair_epochs: int = 0
    protocol: int = PROTOCOL

    def experiment(self, name: str) -> Experiment:
        """Return the cell of these settings; those that differ by the seed alone share a network's graphs."""
        return Experiment(
            f"{self.dataset}__{name}__seed-{self.seed}", dataclasses.asdict(self), f"{self.dataset} {name}"
        )

    @property
    def recipe(self) -> Recipe:
        """How the network is made and trained."""
        changes: dict[str, Any] = {
            "k": K, "channels": CHANNELS, "learning_rate": LEARNING_RATE, "seed": self.seed, "experts": self.experts,
            "units": self.units, "gate_input": self.gate_input, "tower": self.tower, "paradigm": self.paradigm,
        }  # fmt: skip
        if self.method == "latecomers":
            changes |= {
                "paradigm": "incremental", "arrivals": self.tasks, "latecomer": self.latecomer,
                "phase_epochs": self.epochs, "repair_epochs": max(self.repair_epochs, 1),
            }  # fmt: skip
        return Recipe.model_validate({"name": "multa", **changes})


@dataclasses.dataclass(frozen=True)
class MULTAExperiments:
    """Computes cells on datasets: {name: directory}."""

    datasets: Mapping[str, str]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Return the AUC of each task on the validation and the test rows, and how the training went.

        Test rows choose nothing: sizes, epochs and targets come from the validation rows.
        """
        setting = MULTASetting(**{**settings, "tasks": tuple(settings["tasks"]), "tower": tuple(settings["tower"])})
        path = self.datasets[setting.dataset]
        methods = {"network": _network, "forest": _forest, "latecomers": _latecomers}
        return methods[setting.method](setting, path)


def _network(setting: MULTASetting, path: str) -> dict[str, Any]:
    """Train one network from new weights."""
    rows = examples(path)
    trials = _trials(dataclasses.replace(setting, seed=0, updates=0, epochs=0), path)
    train, validation, test = (part.only(setting.tasks, labelled=True) for part in rows)

    def watch() -> dict[str, Any]:
        return {"validation_auc": _aucs(trials, validation), "test_auc": _aucs(trials, test)}

    epochs = setting.epochs or -(-setting.updates // -(-len(train.length) // setting.recipe.feed.batch_size))
    every = max(epochs // MOMENTS, 1)
    plan = FlowFitPlan(seed=setting.seed, epochs=epochs, watch=watch, measured_every=every)
    history = trials.fit(train, validation, plan).history
    for record in history:
        record["validation_total_loss"] = total_loss(record["validation_loss"], {})
        record["score"] = score(record, "auc")
    chosen = best_epoch(history)
    (kept,) = (record for record in history if record["epoch"] == chosen)
    return {
        "parameters": trials.parameters,
        "macs": trials.macs,
        "epoch": chosen,
        "validation": kept["validation_auc"],
        "test": kept["test_auc"],
        "history": [
            _rounded({split: record[f"{split}_auc"] for split in ("validation", "test")}) for record in history
        ],
    }


def _forest(setting: MULTASetting, path: str) -> dict[str, Any]:
    """Fit a random forest for each task."""
    found: dict[str, Any] = {"validation": {}, "test": {}}
    for task in _tasks(path, setting.tasks):
        parts = [part.only((task.name,), labelled=True) for part in examples(path)]
        columns = [np.hstack([part.sequence.reshape(len(part.length), -1), part.length[:, None]]) for part in parts]
        labels = [part.labels[task.name] for part in parts]
        # threads of several processes would wait for each other
        with threadpoolctl.threadpool_limits(1):
            test = np.concatenate(columns[1:]), np.concatenate(labels[1:])
            said = random_forest(task, (columns[0], labels[0]), test, setting.seed).probabilities[:, 1]
        for split, known, scores in zip(
            ("validation", "test"), labels[1:], np.split(said, [len(labels[1])]), strict=True
        ):  # fmt: skip
            found[split][task.name] = float(sklearn.metrics.roc_auc_score(known, scores))
    return found


def _latecomers(setting: MULTASetting, path: str) -> dict[str, Any]:
    """Train tasks as they arrive (section IV-C), with the AUC of all of them on the test rows after every epoch.

    `unchanged` says whether the scores of every task on the test rows are, to the bit, those that it had when its own
    phase was over.
    """
    recipe = setting.recipe
    dataset = Dataset.open(path).restricted(setting.tasks)
    features = FeatureSpec.of(dataset.card, recipe.feed.k, recipe.feed.channels, recipe.feed.scaling)
    training = Training(recipe, dataset, features)
    assert training.arrivals is not None  # the paradigm is incremental
    feed = Feed(dataset, "test", features, EVALUATION_ROWS)
    forward = compiled(training.model, feed)
    history: list[dict[str, Any]] = []
    tested, digests = [], []
    for record in training.epochs(history):
        predictions = predict(forward, feed)
        tested.append(
            {
                task: float(sklearn.metrics.roc_auc_score(each.labels, each.probabilities[:, 1]))
                for task, each in predictions.items()
            }
        )
        if record["epoch"] == training.arrivals.phase(record["epoch"]).last_epoch:
            digests.append(
                {task: hashlib.sha256(said.probabilities.tobytes()).hexdigest() for task, said in predictions.items()}
            )
    arrived = dict(zip(setting.tasks, digests, strict=False))
    return {
        "parameters": training.model.count_params(),
        "phases": [dataclasses.asdict(phase) for phase in training.arrivals.phases],
        "history": [_rounded({"test": aucs}) for aucs in tested],
        "unchanged": {task: arrived[task][task] == digests[-1][task] for task in setting.tasks},
    }


def _aucs(trials: FlowTrials, examples: Examples) -> dict[str, float]:
    """Return the AUC of each task over its labelled rows."""
    found = {}
    for task, said in trials.predict(examples).items():
        known = examples.labels[task] >= 0
        found[task] = float(sklearn.metrics.roc_auc_score(examples.labels[task][known], said[known, 1]))
    return found


@functools.lru_cache(maxsize=4)
def examples(path: str) -> tuple[Examples, Examples, Examples]:
    """Return the rows of train, validation and test, with the labels of all tasks."""
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, K, CHANNELS, "standard")
    found = []
    for split in ("train", "validation", "test"):
        feed = Feed(dataset, split, features, EVALUATION_ROWS)
        windows = feed.windows(0)
        kept = min(MOST_ROWS / max(sum(window.rows for window in windows), 1), 1.0)
        parts = [_drawn(feed.tensors(0, number), kept, number) for number in range(len(windows))]
        sequence, length, known = (np.concatenate(column) for column in zip(*parts, strict=True))
        labels = {task.name: known[:, column] for column, task in enumerate(dataset.tasks)}
        found.append(Examples(sequence, length, labels))
    return found[0], found[1], found[2]


def _drawn(columns: Sequence[np.ndarray], share: float, seed: int) -> list[np.ndarray]:
    """Return a share of rows, in their order."""
    if share == 1:
        return list(columns)
    rows = len(columns[0])
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[: round(rows * share)])
    return [column[chosen] for column in columns]


@functools.lru_cache(maxsize=2)
def _trials(setting: MULTASetting, path: str) -> FlowTrials:
    """Return what trains a network of some size and tasks."""
    features = FeatureSpec.of(Dataset.open(path).card, K, CHANNELS, "standard")
    return FlowTrials(setting.recipe, features, _tasks(path, setting.tasks))


def _tasks(path: str, names: Sequence[str]) -> list[Task]:
    return [task for task in Dataset.open(path).tasks if task.name in names]


def _rounded(record: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return a record that is read by people and drawn."""
    return {name: {task: round(value, 5) for task, value in each.items()} for name, each in record.items()}


def words(path: str, experts: int, units: int, updates: int, seed: int) -> tuple[str, ...]:
    """Return the overrides by which `flowloom train --recipe multa` trains as a cell of a tuned size does."""
    rows = sum(group.rows for group in Dataset.open(path).row_groups("train"))
    batch = Recipe.named("multa").feed.batch_size
    epochs = -(-updates // -(-rows // batch))
    settings: dict[str, Any] = {
        "k": K, "channels": list(CHANNELS), "learning_rate": LEARNING_RATE, "tower": list(TOWER), "gate_input": "mean",
        "paradigm": "rainbow_mixed", "experts": experts, "units": units, "epochs": epochs, "patience": epochs,
        "seed": seed,
    }  # fmt: skip
    return tuple(f"{name}={json.dumps(value)}" for name, value in settings.items())


def mean_auc(aucs: Mapping[str, float]) -> float:
    """Return the mean over tasks."""
    found = mean(aucs.values())
    assert found is not None  # there is a task
    return found
