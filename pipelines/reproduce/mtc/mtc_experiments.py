"""Experiments of Wang, Gao and Lei (MTC), each a function of its settings."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import sklearn.metrics
import sklearn.preprocessing
import threadpoolctl

from flowloom.pipelines.reproduce.engine.experiments import Experiment, Settings
from flowloom.pipelines.reproduce.engine.options import Repeat
from flowloom.pipelines.reproduce.engine.repeated_splits import RowSplit, derived_seed
from flowloom.pipelines.reproduce.engine.row_trials import LabelledRows, RowFitPlan, RowTrials
from flowloom.pipelines.reproduce.mtc.dense_ablation import ByteDense
from flowloom.pipelines.reproduce.mtc.nearest_rows import bands, nearest_rows
from flowloom.pipelines.reproduce.mtc.row_table import RowTable
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.evaluation.baselines import boosted_trees, random_forest
from flowloom.trainers.evaluation.predictions import Predictions
from flowloom.trainers.feed.balancing import TrainLabels, resample, smote
from flowloom.trainers.feed.feature_selection import selected_columns
from flowloom.trainers.models.byte_cnn import ByteCNN
from flowloom.trainers.models.byte_transformer import ByteTransformer
from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.models.tokens import token_shape
from flowloom.trainers.recipes.named_recipes import MTC_LITE, MTC_LITE_TABLES

PROTOCOL = 4
"""Version of the experiments; raise it when a change makes stored results invalid."""

Method = Literal[
    "mtc-lite", "mtc-lite-2task", "mtc-lite-sum", "mtc", "transformer", "cnn", "dense", "forest", "boosted-trees",
    "byte", "neighbour",
]  # fmt: skip
"""`mtc-lite` is ours, `mtc` has the paper's layers; `-2task` lacks the auxiliary head, `-sum` sums the probabilities of
another head. `dense` is the wide readout of `mtc-lite` for all tasks. `byte` predicts the most frequent class of the
train rows with the same value of one byte, `neighbour` the class of the train row that differs in the fewest bytes."""

TREES = {"forest": random_forest, "boosted-trees": boosted_trees}
FEATURES = 49
"""Number of features of CICIDS2017 that are kept (section 3.2.1)."""
QUANTILES = 1000
"""Quantiles of the train rows that scale a feature to the share of rows below it."""
MOMENTS = 12
"""Number of evenly spaced measurements of a training on the validation rows, by default."""
BOTH = ("macro_f1", "macro_recall")
"""The figures of the paper's tables."""
LINK_TYPE = 23
"""Position of the byte of a pcap header that reveals the tunnel of an ISCX session."""


@dataclasses.dataclass(frozen=True)
class RowSet:
    """Rows of one dataset, with the settings of their splits and balance.

    Attributes:
      transformer_tasks: tasks of MTC's Transformer branch.
      limit: largest number of rows of a class of the first task.
      auxiliary: the task that follows from the first one.
      auxiliary_classes: the class of the auxiliary task for each class of the first one.
      totals: rows of each class of the first task on the train split, reached by sampling or SMOTE; of tables only.
      distinct: whether only the first of several equal rows is kept.
    """

    name: str
    directory: str
    title: str
    content: str
    view: View
    tasks: tuple[Task, ...]
    transformer_tasks: tuple[str, ...]
    limit: int
    auxiliary: str = ""
    auxiliary_classes: tuple[int, ...] = ()
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    distinct: bool = True


@dataclasses.dataclass(frozen=True)
class MTCSetting:
    """Settings of an experiment: all inputs of its result."""

    dataset: str
    """A name of `MTCExperiments.sets`."""
    content: str
    """The content hash of that dataset."""
    limit: int
    method: Method
    repeat: int
    seed: int
    updates: int = 0
    """Gradient steps of a network."""
    rate: float = 1e-3
    """The highest learning rate."""
    moments: int = MOMENTS
    """Number of measurements on the validation rows."""
    watched: bool = False
    """Whether the test rows are measured as well; they choose nothing."""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Weights of the losses by task, 1 where absent."""
    repetitions: tuple[int, ...] | None = None
    """Encoder layers of MTC's blocks; None: the default of the method."""
    dropout: float = 0.07
    together: Literal["flow", "row"] = "flow"
    """Whether packets of one flow stay in one split."""
    tested: tuple[str, ...] = ()
    """Tasks for which trees are fitted; empty: all."""
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """As in `RowSet`."""
    protocol: int = PROTOCOL

    def experiment(self, name: str) -> Experiment:
        """Returns the experiment of these settings; experiments with the same network share its graph."""
        network = f"{self.dataset} {self.method} {self.repetitions} {self.dropout} {self.rate}" if self.updates else ""
        repeat = Repeat(self.seed, self.repeat).name
        return Experiment(f"{self.dataset}__{name}__{repeat}", dataclasses.asdict(self), network)


@dataclasses.dataclass(frozen=True)
class MTCExperiments:
    """Computes experiments on sets of rows {name: rows}."""

    sets: Mapping[str, RowSet]

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Returns figures on the test rows by task, and the history of the training.

        The test rows choose nothing: features, quantiles and balance come from the train rows, and the validation rows
        choose the weights.
        """
        setting = MTCSetting(**settings)
        rows = _prepared(self.sets[setting.dataset], setting)
        begun = time.process_time()
        if setting.method == "byte":
            found = _one_byte(rows, setting)
        elif setting.method == "neighbour":
            found = _neighbour(rows)
        elif setting.method in TREES:
            found = _trees(rows, setting)
        else:
            found = _network(self.sets[setting.dataset], rows, setting)
        seconds = time.process_time() - begun
        return {"rows": [len(part.values) for part in rows.parts], "cpu_s": round(seconds, 1), **found}


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Rows of the splits as input of models; the train rows are balanced."""

    tasks: tuple[Task, ...]
    train: LabelledRows
    validation: LabelledRows
    test: LabelledRows

    @property
    def parts(self) -> tuple[LabelledRows, ...]:
        return (self.train, self.validation, self.test)


def _prepared(rows: RowSet, setting: MTCSetting) -> _Prepared:
    table = _table(rows.directory, rows.view, rows.distinct, setting.limit, setting.seed)
    split = table.split(setting.repeat, setting.seed, setting.together)
    if table.names:
        return _balanced(table, split, setting)
    whole = LabelledRows(table.values, table.labels)
    return _Prepared(table.tasks, *(whole.take(part) for part in (split.train, split.validation, split.test)))


def _balanced(table: RowTable, split: RowSplit, setting: MTCSetting) -> _Prepared:
    """Returns features prepared as in the paper, but from the train rows alone (sections 3.2.1 and 3.2.3)."""
    seed = derived_seed(setting.seed, setting.repeat, 2)
    kept = selected_columns(table.values[split.train], FEATURES)
    quantiles = min(QUANTILES, len(split.train))
    scaler = sklearn.preprocessing.QuantileTransformer(n_quantiles=quantiles, random_state=seed)
    scaler.fit(table.values[split.train][:, kept])
    values = scaler.transform(table.values[:, kept]).astype(np.float32)
    parts = [LabelledRows(values, table.labels).take(part) for part in (split.train, split.validation, split.test)]
    first, train = table.tasks[0], parts[0]
    if setting.totals:
        counts = np.bincount(train.labels[first.name], minlength=len(first.vocabulary))
        fewer = {word: min(total, counts[first.index(word)]) for word, total in setting.totals.items()}
        drawn = resample(TrainLabels("train", train.labels), first, fewer, seed)
        train = train.take(drawn)
        made, codes = smote(train.values, TrainLabels("train", train.labels), first, setting.totals, seed)
        train = LabelledRows(
            np.concatenate([train.values, made]),
            {task: np.concatenate([column, _of_made(table, task, codes)]) for task, column in train.labels.items()},
        )
    return _Prepared(table.tasks, train, *parts[1:])


def _of_made(table: RowTable, task: str, codes: np.ndarray) -> np.ndarray:
    """Returns the labels of synthetic rows: those that all rows of their class of the first task have."""
    first = table.labels[table.tasks[0].name]
    classes, place = np.unique(first, return_index=True)
    return table.labels[task][place][np.searchsorted(classes, codes)]


def _trees(rows: _Prepared, setting: MTCSetting) -> dict[str, Any]:
    seed = derived_seed(setting.seed, setting.repeat, 1)
    figures = {}
    # with more threads, several processes would wait for each other
    with threadpoolctl.threadpool_limits(1):
        for task in rows.tasks:
            if not setting.tested or task.name in setting.tested:
                train, test = (_known(part, task) for part in (rows.train, rows.test))
                figures[task.name] = _figures(task, TREES[setting.method](task, train, test, seed))
    return {"tasks": figures}


def _one_byte(rows: _Prepared, setting: MTCSetting) -> dict[str, Any]:
    """Predicts the most frequent class of the train rows with the same link type."""
    figures = {}
    for task in rows.tasks:
        if not setting.tested or task.name in setting.tested:
            counts = np.zeros((256, len(task.vocabulary)), np.int64)
            np.add.at(counts, (rows.train.values[:, LINK_TYPE], rows.train.labels[task.name]), 1)
            counts[counts.sum(axis=1) == 0] = counts.sum(axis=0)
            shares = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
            predicted = shares[rows.test.values[:, LINK_TYPE]]
            figures[task.name] = _figures(task, Predictions(rows.test.labels[task.name], predicted))
    return {"tasks": figures}


def _neighbour(rows: _Prepared) -> dict[str, Any]:
    """Predicts the class of the nearest train row, and counts right predictions by its distance."""
    figures, by_distance = {}, {}
    with threadpoolctl.threadpool_limits(1):
        for task in rows.tasks:
            (known, classes), (unseen, labels) = (_known(part, task) for part in (rows.train, rows.test))
            places, differing = nearest_rows(known, unseen)
            one_hot = np.eye(len(task.vocabulary), dtype=np.float32)[classes[places]]
            figures[task.name] = _figures(task, Predictions(labels, one_hot))
            by_distance[task.name] = [dataclasses.asdict(band) for band in bands(differing, classes[places] == labels)]
    return {"tasks": figures, "bands": by_distance}


def _known(rows: LabelledRows, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and labels of the rows whose label of a task is known."""
    known = np.flatnonzero(rows.labels[task.name] >= 0)
    return rows.values[known], rows.labels[task.name][known]


def _network(of: RowSet, rows: _Prepared, setting: MTCSetting) -> dict[str, Any]:
    omitted = (of.auxiliary,) if setting.method == "mtc-lite-2task" else ()
    tasks = tuple(task for task in rows.tasks if task.name not in omitted)
    length = rows.train.values.shape[1]
    follows = (of.auxiliary, of.auxiliary_classes)
    trials = _trials(setting.method, of.view, length, tasks, of.transformer_tasks, follows, setting.repetitions,
                     setting.dropout, setting.rate)  # fmt: skip
    moments = [round(setting.updates * moment / setting.moments) for moment in range(1, setting.moments + 1)]

    def on_test_rows() -> dict[str, Any]:
        figures = _tested(of, tasks, rows, trials)
        return {"test": {key: {task: each[key] for task, each in figures.items()} for key in BOTH}}

    plan = RowFitPlan(
        seed=derived_seed(setting.seed, setting.repeat, 1),
        updates=setting.updates,
        measured=moments,
        loss_weights=setting.weights,
        watch=on_test_rows if setting.watched else dict,
        keep="best",
    )
    fit = trials.fit(rows.train, rows.validation, plan)
    return {
        "parameters": trials.parameters,
        "macs": trials.macs,
        "update": fit.kept,
        "history": fit.history,
        "tasks": _tested(of, tasks, rows, trials),
    }


def _tested(of: RowSet, tasks: Sequence[Task], rows: _Prepared, trials: RowTrials) -> dict[str, dict[str, Any]]:
    """Returns figures by task, and `<task>-sum` of the auxiliary task from sums of the first task's probabilities."""
    predicted = trials.predict(rows.test)
    figures = {
        task.name: _figures(task, Predictions(rows.test.labels[task.name], predicted[task.name])) for task in tasks
    }
    if of.auxiliary:
        (auxiliary,) = (task for task in rows.tasks if task.name == of.auxiliary)
        one_hot = np.eye(len(auxiliary.vocabulary), dtype=np.float32)[list(of.auxiliary_classes)]
        summed = predicted[rows.tasks[0].name] @ one_hot
        figures[f"{of.auxiliary}-sum"] = _figures(auxiliary, Predictions(rows.test.labels[of.auxiliary], summed))
    return figures


def _figures(task: Task, predictions: Predictions) -> dict[str, Any]:
    """Returns macro means over the classes present, figures of each class, and the confusion [actual, predicted]."""
    known = predictions.labels >= 0
    labels, predicted = predictions.labels[known], predictions.probabilities[known].argmax(axis=1)
    codes = np.arange(len(task.vocabulary))
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=codes)
    hits, actual, claimed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, f1 = hits / np.maximum(actual, 1), 2 * hits / np.maximum(actual + claimed, 1)
    present = actual > 0
    return {
        "macro_f1": float(f1[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "classes": {
            label: {"support": int(actual[code]), "f1": float(f1[code]), "recall": float(recall[code])}
            for code, label in enumerate(task.vocabulary)
        },
        "confusion": confusion.tolist(),
    }


@functools.lru_cache(maxsize=4)
def _table(path: str, view: View, distinct: bool, limit: int, seed: int) -> RowTable:
    return RowTable.read(path, view, distinct).limited(limit, seed)


@functools.lru_cache(maxsize=1)
def _trials(
    method: str, view: View, length: int, tasks: tuple[Task, ...], transformer_tasks: tuple[str, ...],
    follows: tuple[str, tuple[int, ...]], repetitions: tuple[int, ...] | None, dropout: float, rate: float,
) -> RowTrials:  # fmt: skip
    """Returns the trials of a network; one is cached, as experiments with the same network follow each other."""
    build = network(method, view, length, tasks, transformer_tasks, follows, repetitions, dropout)
    return RowTrials(build, tasks, rate)


def network(
    method: str,
    view: View,
    length: int,
    tasks: Sequence[Task],
    transformer_tasks: Sequence[str],
    follows: tuple[str, Sequence[int]] = ("", ()),
    repetitions: Sequence[int] | None = None,
    dropout: float = 0.07,
) -> Callable[[], Any]:
    """Returns a function that makes the network of a method.

    Args:
      follows: the auxiliary task and its class for each class of the first task; for `mtc-lite-sum`.
    """
    classes = {task.name: len(task.vocabulary) for task in tasks}
    source: Literal["bytes", "features"] = "bytes" if view == "packets" else "features"
    lite = MTC_LITE if source == "bytes" else MTC_LITE_TABLES
    if method == "transformer":
        return lambda: ByteTransformer(length, classes, source)
    if method == "cnn":
        return lambda: ByteCNN(length, classes, source)
    if method == "dense":
        return lambda: ByteDense(length, classes, source, lite["masked"])
    sums: dict[str, Any] = {}
    if method == "mtc-lite-sum":
        sums = {follows[0]: {"of": tasks[0].name, "classes": list(follows[1])}}
    # the paper's steps of one byte are too slow for so many trainings; a step has 14 of 784 bytes here
    form: dict[str, Any] = {"stem": _half(token_shape(length)[1]) if source == "bytes" else 1}
    if method.startswith("mtc-lite"):
        form = {**lite, "stem": token_shape(length)[1]}
    elif method != "mtc":
        raise ValueError(f"method must be a network, got {method!r}")
    if repetitions is not None:
        form["repetitions"] = tuple(repetitions)
    return lambda: MTC(length, classes, transformer_tasks, source, dropout=dropout, sums=sums, **form)


def _half(d: int) -> int:
    """Returns half of d, or the next divisor below."""
    return max(divisor for divisor in range(1, d // 2 + 1) if d % divisor == 0)
