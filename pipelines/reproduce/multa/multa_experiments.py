"""Experiments of MULTA (Guo et al., Cost-efficient Multi-task Network Traffic Analysis), as functions of settings."""

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

PROTOCOL = 3
"""Version of the experiments; raise it when a change makes stored results invalid."""
LATECOMER_PROTOCOL = 4
"""Version of the experiments on latecomers, which `Training` trains."""
MOMENTS = 20
"""Least number of measurements of a long training; a shorter one is measured after each epoch."""

CHANNELS = ("size", "gap", "direction")
"""Features of a packet for networks and forests: those of CertTA. Header fields make the corpus' attacks trivial."""
K = 20
TOWER = (4,)
"""Tower of single LSTMs and tuned MULTAs: as small as the experts, or it would have most of the parameters."""
LEARNING_RATE = 1e-2
EVALUATION_ROWS = 1024
MOST_ROWS = 200_000
"""Largest number of rows of a split; larger splits are sampled."""

Method = Literal["network", "forest", "latecomers"]
Paradigm = Literal["rainbow", "rainbow_mixed", "aurora"]
Latecomer = Literal["repair", "replay", "isolate"]
"""`repair` is sequential until its last phase."""


@dataclasses.dataclass(frozen=True)
class MULTASetting:
    """Settings of an experiment: all inputs of its result."""

    dataset: str
    """A name of `MULTAExperiments.datasets`."""
    content: str
    """The content hash of that dataset."""
    method: Method
    tasks: tuple[str, ...]
    """Tasks of the network; those of latecomers in order of arrival."""
    seed: int
    """Seed of the weights and of the order of the rows."""
    experts: int = 1
    units: int = 8
    gate_input: Literal["flatten", "mean"] = "mean"
    tower: tuple[int, ...] = TOWER
    paradigm: Paradigm = "rainbow_mixed"
    updates: int = 0
    """Gradient steps; the weights of the best mean validation AUC are kept."""
    epochs: int = 0
    """Passes over the rows, instead of `updates`; for latecomers the passes after each arrival."""
    latecomer: Latecomer = "repair"
    repair_epochs: int = 0
    protocol: int = PROTOCOL

    def experiment(self, name: str) -> Experiment:
        """Returns the experiment of these settings; experiments that differ only in the seed share their graphs."""
        return Experiment(
            f"{self.dataset}__{name}__seed-{self.seed}", dataclasses.asdict(self), f"{self.dataset} {name}"
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe of network and training."""
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
    """Computes experiments on datasets: {name: directory}."""

    datasets: Mapping[str, str]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns the AUC of each task on the validation and test rows, and the training history.

        The test rows choose nothing: sizes, epochs and targets come from the validation rows.
        """
        setting = MULTASetting(**{**settings, "tasks": tuple(settings["tasks"]), "tower": tuple(settings["tower"])})
        path = self.datasets[setting.dataset]
        methods = {"network": _network, "forest": _forest, "latecomers": _latecomers}
        return methods[setting.method](setting, path)


def _network(setting: MULTASetting, path: str) -> dict[str, Any]:
    """Trains one network from new weights."""
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
    """Fits a random forest for each task."""
    found: dict[str, Any] = {"validation": {}, "test": {}}
    for task in _tasks(path, setting.tasks):
        parts = [part.only((task.name,), labelled=True) for part in examples(path)]
        columns = [np.hstack([part.sequence.reshape(len(part.length), -1), part.length[:, None]]) for part in parts]
        labels = [part.labels[task.name] for part in parts]
        # with more threads, several processes would wait for each other
        with threadpoolctl.threadpool_limits(1):
            test = np.concatenate(columns[1:]), np.concatenate(labels[1:])
            scored = random_forest(task, (columns[0], labels[0]), test, setting.seed).probabilities[:, 1]
        for split, known, scores in zip(
            ("validation", "test"), labels[1:], np.split(scored, [len(labels[1])]), strict=True
        ):  # fmt: skip
            found[split][task.name] = float(sklearn.metrics.roc_auc_score(known, scores))
    return found


def _latecomers(setting: MULTASetting, path: str) -> dict[str, Any]:
    """Trains tasks as they arrive (section IV-C), and measures all of them on the test rows after every epoch.

    `unchanged` tells for each task whether its scores on the test rows are, to the bit, those at the end of its own
    phase.
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
                {task: hashlib.sha256(each.probabilities.tobytes()).hexdigest() for task, each in predictions.items()}
            )
    arrived = dict(zip(setting.tasks, digests, strict=False))
    return {
        "parameters": training.model.count_params(),
        "phases": [dataclasses.asdict(phase) for phase in training.arrivals.phases],
        "history": [_rounded({"test": aucs}) for aucs in tested],
        "unchanged": {task: arrived[task][task] == digests[-1][task] for task in setting.tasks},
    }


def _aucs(trials: FlowTrials, examples: Examples) -> dict[str, float]:
    """Returns the AUC of each task on its labelled rows."""
    found = {}
    for task, probabilities in trials.predict(examples).items():
        known = examples.labels[task] >= 0
        found[task] = float(sklearn.metrics.roc_auc_score(examples.labels[task][known], probabilities[known, 1]))
    return found


@functools.lru_cache(maxsize=4)
def examples(path: str) -> tuple[Examples, Examples, Examples]:
    """Returns the rows of train, validation and test, with the labels of all tasks."""
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
    """Returns a random share of the rows, in their order."""
    if share == 1:
        return list(columns)
    rows = len(columns[0])
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[: round(rows * share)])
    return [column[chosen] for column in columns]


@functools.lru_cache(maxsize=2)
def _trials(setting: MULTASetting, path: str) -> FlowTrials:
    """Returns the trials of a network of some size and tasks."""
    features = FeatureSpec.of(Dataset.open(path).card, K, CHANNELS, "standard")
    return FlowTrials(setting.recipe, features, _tasks(path, setting.tasks))


def _tasks(path: str, names: Sequence[str]) -> list[Task]:
    return [task for task in Dataset.open(path).tasks if task.name in names]


def _rounded(record: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Returns a record with rounded values, for tables and figures."""
    return {name: {task: round(value, 5) for task, value in each.items()} for name, each in record.items()}


def tuned_overrides(path: str, experts: int, units: int, updates: int, seed: int) -> tuple[str, ...]:
    """Returns the overrides with which `flowloom train --recipe multa` trains like an experiment of a tuned size."""
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
    """Returns the mean over tasks."""
    found = mean(aucs.values())
    assert found is not None  # there is a task
    return found
