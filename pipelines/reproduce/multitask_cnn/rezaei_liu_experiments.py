"""Experiments of Rezaei and Liu (Multitask Learning for Network Traffic Classification), as functions of settings."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import sklearn.metrics
import threadpoolctl

from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
from flowloom.pipelines.reproduce.engine.flow_trials import Examples, FlowFitPlan, FlowTrials
from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.repeated_fit import Fit
from flowloom.pipelines.reproduce.engine.repeated_splits import RowSplit, derived_seed, repeated_split
from flowloom.pipelines.reproduce.multitask_cnn import auxiliary_labels
from flowloom.pipelines.reproduce.multitask_cnn.flow_statistics import SIDES, flow_statistics
from flowloom.pipelines.reproduce.multitask_cnn.flow_table import FlowTable
from flowloom.pipelines.reproduce.multitask_cnn.masked_input import MaskedInput
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.baselines import Rows, boosted_trees, random_forest
from flowloom.trainers.feed.few_labels import few_labels
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe

PROTOCOL = 3
"""Version of the experiments; raise it when a change makes stored results invalid."""

TASKS = ("class", "bandwidth", "duration")
AUXILIARY = TASKS[1:]

Method = Literal[
    "multi-task", "multi-task-windows", "multi-task-masked-input", "multi-task-code", "transfer", "cnn-rnn2",
    "single-task", "forest-statistics", "forest", "boosted-trees",
]  # fmt: skip
Budget = Literal["paper", "converged"]
"""Length of a training on few labels. `paper`: 20 epochs (transfer) or 30 (one task alone), which are few updates with
few labels. `converged`: as many updates as the multi-task network. If all rows have labels, both have the same number
of updates. The last weights are kept in either case: the validation rows have more labels than a network with few
labels may know."""
DividersFrom = Literal["labelled", "all", "shares", "crowded"]
"""Dividers of the auxiliary classes: from class means over the labelled or over all train rows, from equal shares of
the train rows, or all in their upper tenth."""

TREES = ("forest-statistics", "forest", "boosted-trees")
PAPER_EPOCHS = {"transfer": 20, "cnn-rnn2": 30, "single-task": 30}


@dataclasses.dataclass(frozen=True)
class RezaeiLiuSetting:
    """Settings of an experiment: all inputs of its result."""

    dataset: str
    """A name of `RezaeiLiuExperiments.datasets`."""
    content: str
    """The content hash of that dataset."""
    method: Method
    repeat: int
    seed: int
    updates: int
    """Gradient steps of a network on all train rows."""
    labels: int | None = None
    """Labels per class on the train split; None: all."""
    k: int = 60
    weight: float | None = 1.0
    """The paper's lambda; None: its starting rule, the number of train rows over that of labelled ones."""
    dividers: DividersFrom | tuple[tuple[float, ...], tuple[float, ...]] = "labelled"
    """Source of the dividers, or the dividers of bandwidth in bit/s and of duration in s."""
    budget: Budget = "paper"
    signed: bool = False
    trained: str = "class"
    """The task of a network with a single one."""
    protocol: int = PROTOCOL

    def experiment(self, name: str, together: str = "") -> Experiment:
        """Returns the experiment of these settings."""
        repeat = Repeat(self.seed, self.repeat).name
        return Experiment(f"{self.dataset}__{name}__{repeat}", dataclasses.asdict(self), together)


@dataclasses.dataclass(frozen=True)
class RezaeiLiuExperiments:
    """Computes experiments on datasets: {name: (directory, class task)}."""

    datasets: Mapping[str, tuple[str, str]]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns accuracies on the test rows, the confusion matrix of the class task, and the training history.

        Neither test rows nor validation rows choose anything: labels and dividers come from the train rows, and the
        last weights are kept.
        """
        setting = RezaeiLiuSetting(**settings)
        path, task = self.datasets[setting.dataset]
        trial = _Trial(setting, path, task)
        return trial.trees() if setting.method in TREES else trial.network()


class _Trial:
    """State of one running experiment."""

    def __init__(self, setting: RezaeiLiuSetting, path: str, task: str) -> None:
        table = _table(path, task)
        self.setting, self.table, self.place = setting, table, (path, task)
        self.split: RowSplit = repeated_split(table.flow_ids, table.labels, setting.repeat, setting.seed)
        self.seed = derived_seed(setting.seed, setting.repeat, 1)
        self.classes = len(table.task.vocabulary)
        train = self.split.train
        self.kept = table.labels[train] >= 0
        if setting.labels is not None:
            ids = table.flow_ids.take(train)
            self.kept = few_labels(ids, table.labels[train], setting.labels, derived_seed(setting.seed, setting.repeat))

    def trees(self) -> dict[str, Any]:
        """Fits trees on the labelled rows."""
        setting, table = self.setting, self.table
        if setting.method == "forest-statistics":
            features = _statistics(*self.place, SIDES if setting.signed else SIDES[2:])
        else:
            everything = self._examples({}, np.arange(len(table.labels)))
            flat = everything.sequence.reshape(len(everything.length), -1)
            features = np.hstack([flat, everything.length[:, None].astype(np.float32)])
        train, test = self.split.train[self.kept], self._test
        fit = boosted_trees if setting.method == "boosted-trees" else random_forest
        rows: list[Rows] = [(features[part], table.labels[part]) for part in (train, test)]
        # with more threads, several processes would wait for each other
        with threadpoolctl.threadpool_limits(1):
            predicted = fit(table.task, rows[0], rows[1], self.seed).probabilities.argmax(axis=1)
        return {"labelled": len(train), **self._scores({"class": predicted}, {"class": table.labels[test]})}

    def network(self) -> dict[str, Any]:
        """Trains a network on the rows with labels of its tasks."""
        setting = self.setting
        labels, dividers = self._labels(setting.dividers)
        if setting.method == "transfer":
            fitted = self._transferred(labels)
        elif setting.method in PAPER_EPOCHS:
            fitted = self._alone(labels)
        else:
            fitted = self._together(labels)
        predicted = {task: each.argmax(axis=1) for task, each in fitted.probabilities.items()}
        return {
            "labelled": int(self.kept.sum()),
            "dividers": dividers,
            "parameters": fitted.parameters,
            "epoch": fitted.fit.kept,
            "history": [_rounded(record) for record in fitted.fit.history],
            **self._scores(predicted, {task: labels[task][self._test] for task in predicted}),
        }

    def _together(self, labels: dict[str, np.ndarray]) -> "_Fitted":
        """Trains all tasks at once."""
        setting = self.setting
        trials = _trials(setting.method, setting.k, self.classes, TASKS)
        reach = recipe_of(setting.method).feed.furthest_start
        train = self._train(labels, reach)
        if setting.method == "multi-task-masked-input":
            actual = {**train.labels, "class": self.table.labels[self.split.train]}
            train = dataclasses.replace(train, labels=actual, weights={"class": train.weight("class")})
        weight = len(self.kept) / max(int(self.kept.sum()), 1) if setting.weight is None else setting.weight
        plan = FlowFitPlan(
            seed=self.seed,
            epochs=self._updates_in_epochs(train),
            loss_weights={"class": weight},
            furthest_start=reach,
        )
        fit = trials.fit(train, self._examples(labels, self.split.validation), plan)
        return self._fitted(trials, fit, labels)

    def _alone(self, labels: dict[str, np.ndarray]) -> "_Fitted":
        """Trains one task on the rows with a label of it."""
        setting = self.setting
        tasks = (setting.trained,)
        trials = _trials(setting.method, setting.k, self.classes, tasks)
        train = self._train(labels).only(tasks, labelled=True)
        validation = self._examples(labels, self.split.validation).only(tasks)
        return self._fitted(trials, self._fit_few(trials, train, validation), labels)

    def _transferred(self, labels: dict[str, np.ndarray]) -> "_Fitted":
        """Trains the auxiliary tasks first, then the class task on their convolutions.

        The first training does not depend on the number of labels: its dividers come from all train rows.
        """
        setting = self.setting
        first = dataclasses.replace(setting, labels=None, dividers="all", budget="paper")
        learned = _pretrained(first, *self.place)
        trials = _trials("transfer", setting.k, self.classes, ("class",))
        train = self._train(labels).only(("class",), labelled=True)
        validation = self._examples(labels, self.split.validation).only(("class",))
        return self._fitted(trials, self._fit_few(trials, train, validation, learned), labels)

    def pretrain(self) -> list[np.ndarray]:
        """Returns the shared weights of a network of the auxiliary tasks."""
        labels, _ = self._labels(self.setting.dividers)
        trials = _trials("multi-task", self.setting.k, self.classes, AUXILIARY)
        train = self._train(labels).only(AUXILIARY)
        validation = self._examples(labels, self.split.validation).only(AUXILIARY)
        plan = FlowFitPlan(seed=self.seed, epochs=self._updates_in_epochs(train))
        return trials.fit(train, validation, plan).shared

    def _fit_few(
        self, trials: FlowTrials, train: Examples, validation: Examples, adopt: Sequence[np.ndarray] = ()
    ) -> Fit:
        """Trains on rows that may be few, for as long as the budget allows."""
        setting = self.setting
        published = setting.budget == "paper" and len(train.length) < len(self.split.train)
        epochs = PAPER_EPOCHS[setting.method] if published else self._updates_in_epochs(train)
        return trials.fit(train, validation, FlowFitPlan(seed=self.seed, epochs=epochs, adopt=adopt))

    def _updates_in_epochs(self, train: Examples) -> int:
        steps = -(-len(train.length) // recipe_of(self.setting.method).feed.batch_size)
        return -(-self.setting.updates // steps)

    def _labels(self, dividers: Any) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
        """Returns the labels of all rows that the network may use, and the dividers of the auxiliary tasks.

        On the train split, labels of the class task that are not kept are -1.
        """
        table, train = self.table, self.split.train
        known = table.labels.copy()
        known[train[~self.kept]] = -1
        found = {"class": known}
        at: dict[str, list[float]] = {}
        for place, name in enumerate(AUXILIARY):
            values = table.quantities[name]
            if not isinstance(dividers, str):
                at[name] = list(dividers[place])
            elif dividers in ("labelled", "all"):
                reference = known if dividers == "labelled" else table.labels
                at[name] = list(auxiliary_labels.mean_dividers(values[train], reference[train]))
            else:
                lowest = 0.0 if dividers == "shares" else 0.9
                shares = np.linspace(lowest, 1.0, self.classes + 1)[1:-1].tolist()
                at[name] = list(auxiliary_labels.share_dividers(values[train], shares))
            found[name] = auxiliary_labels.divider_classes(values, at[name])
        return found, at

    @property
    def _test(self) -> np.ndarray:
        """Test rows with a known class."""
        return self.split.test[self.table.labels[self.split.test] >= 0]

    def _train(self, labels: dict[str, np.ndarray], reach: int = 0) -> Examples:
        return self._examples(labels, self.split.train, reach)

    def _examples(self, labels: dict[str, np.ndarray], rows: np.ndarray, reach: int = 0) -> Examples:
        """Returns rows with their first k + `reach` packets."""
        setting = self.setting
        recipe = recipe_of(setting.method)
        features = self.table.features(
            setting.k + reach, recipe.feed.channels, recipe.feed.scaling, setting.signed, self.split.train
        )
        sequence, length = features.render(self.table.flows, rows)
        return Examples(sequence, length, {task: column[rows] for task, column in labels.items()})

    def _fitted(self, trials: FlowTrials, fit: Fit, labels: dict[str, np.ndarray]) -> "_Fitted":
        return _Fitted(trials.parameters, fit, trials.predict(self._examples(labels, self._test)))

    def _scores(self, predicted: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns accuracies by task, and macro F1 and confusion [actual, predicted] of the class task."""
        accuracy = {}
        for task, codes in predicted.items():
            known = labels[task] >= 0
            accuracy[task] = float((codes == labels[task])[known].mean())
        found: dict[str, Any] = {"accuracy": accuracy, "tested": len(self._test)}
        if "class" in predicted:
            actual, every = labels["class"], np.arange(self.classes)
            found["macro_f1"] = float(
                sklearn.metrics.f1_score(
                    actual, predicted["class"], labels=np.unique(actual), average="macro", zero_division=0.0
                )
            )
            found["confusion"] = sklearn.metrics.confusion_matrix(actual, predicted["class"], labels=every).tolist()
        return found


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """Number of parameters, training, and probabilities on the test rows by task of a trained network."""

    parameters: int
    fit: Fit
    probabilities: dict[str, np.ndarray]


_RECIPES: dict[str, tuple[str, ...]] = {
    "multi-task": ("multitask-cnn",),
    "multi-task-windows": ("multitask-cnn-windows",),
    "multi-task-masked-input": ("multitask-cnn",),
    "multi-task-code": ("multitask-cnn", "scaling=code_compat"),
    "transfer": ("transfer-cnn",),
    "cnn-rnn2": ("cnn-rnn2",),
    "single-task": ("multitask-cnn",),
    "forest": ("multitask-cnn",),
    "boosted-trees": ("multitask-cnn",),
}
"""Recipe and settings of each method: features of flows, network and training."""


def recipe_of(method: str) -> Recipe:
    """Returns the recipe of a method."""
    name, *overrides = _RECIPES[method]
    return Recipe.named(name, overrides)


@functools.lru_cache(maxsize=8)
def _table(path: str, task: str) -> FlowTable:
    return FlowTable.read(path, task)


@functools.lru_cache(maxsize=8)
def _statistics(table_path: str, task: str, sides: tuple[str, ...]) -> np.ndarray:
    return flow_statistics(_table(table_path, task).flows, sides)


@functools.lru_cache(maxsize=32)
def _trials(method: str, k: int, classes: int, tasks: tuple[str, ...]) -> FlowTrials:
    """Returns the trials of a network of some tasks, all with `classes` classes."""
    recipe = recipe_of(method)
    labels = tuple(str(code) for code in range(classes))
    shape = FeatureSpec(k=k, channels=recipe.feed.channels, scaling="linear")
    named = [Task(name=task, kind="multiclass", vocabulary=labels) for task in tasks]
    return FlowTrials(recipe, shape, named, MaskedInput if method == "multi-task-masked-input" else None)


@functools.lru_cache(maxsize=2)
def _pretrained(setting: RezaeiLiuSetting, path: str, task: str) -> list[np.ndarray]:
    return _Trial(setting, path, task).pretrain()


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an epoch's record rounded to four decimals, as many as a curve shows."""
    measured = {name: values for name, values in record.items() if name != "epoch"}
    rounded = {
        name: {task: None if value is None else round(value, 4) for task, value in values.items()}
        for name, values in measured.items()
    }
    return {"epoch": record["epoch"], **rounded}
