"""Balancing: rows of the train split, drawn or made so that classes get their totals; other splits stay as they are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.feed.dataset import Dataset

UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class TrainLabels:
    """Labels of the rows of a train split.

    Attributes:
      split: must be `train`: whatever is measured on resampled rows says nothing of the world.
      codes: by task int32 [rows], positions in its vocabulary, -1 where unknown.

    Raises:
      FlowloomError: if the rows are of another split, or the tasks have labels of different numbers of rows.
    """

    split: str
    codes: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _only_train(self.split)
        rows = {task: len(codes) for task, codes in self.codes.items()}
        if len(set(rows.values())) > 1:
            raise FlowloomError(f"labels must be of the same rows for each task, got {rows}; read them together")

    @classmethod
    def read(cls, dataset: Dataset, view: View = "flows") -> "TrainLabels":
        """Read the labels of a dataset's train split, in the order of its row groups; a stripe knows one task only."""
        found: dict[str, list[np.ndarray]] = {task.name: [] for task in dataset.tasks}
        for path in dict.fromkeys(group.path for group in dataset.row_groups("train", view=view)):
            with pq.ParquetFile(path) as file:
                known = [task for task in found if label_column(task) in file.schema_arrow.names]
                labels = file.read(columns=[label_column(task) for task in known])
            unknown = np.full(labels.num_rows, UNKNOWN, np.int32)
            for task, parts in found.items():
                codes = pc.fill_null(labels[label_column(task)], UNKNOWN).to_numpy() if task in known else unknown
                parts.append(codes)
        return cls("train", {task: np.concatenate([np.empty(0, np.int32), *parts]) for task, parts in found.items()})

    def of(self, task: Task) -> np.ndarray:
        """Return the labels of one task.

        Raises:
          FlowloomError: if there are none of it.
        """
        if task.name not in self.codes:
            raise FlowloomError(f"there are no labels of task {task.name!r}; tasks are {', '.join(self.codes)}")
        return self.codes[task.name]


class Balance(pydantic.BaseModel):
    """How the classes of a task are balanced in training; rows without a label of it are left out.

    `undersample`: as many of each class as the rarest has. `oversample`: rows come again until each class has as many
    as the most frequent. `totals`: so many of each named class, of the others as there are. `equal_shares`: in each
    class of the task `within` equally many of all classes, filled up to its total if it has one. `smote`: as `totals`,
    but rows that are missing are made between neighbours instead of repeated; tables only (`made_rows`).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    task: str
    how: Literal["undersample", "oversample", "totals", "equal_shares", "smote"]
    within: str | None = None
    totals: dict[str, Annotated[int, pydantic.Field(ge=0)]] = {}
    neighbours: int = pydantic.Field(5, ge=1, description="nearest rows of the class that smote mixes a row with")

    @pydantic.model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.how == "equal_shares") != (self.within is not None):
            raise ValueError(f"equal_shares and no other take within, a task; got how={self.how}, within={self.within}")
        if self.within == self.task:
            raise ValueError(f"within must be another task than task, got {self.task} for both")
        if self.how in ("totals", "smote") and not self.totals:
            raise ValueError(f"how={self.how} needs totals, rows by word")
        if self.how in ("undersample", "oversample") and self.totals:
            raise ValueError(f"{self.how} takes no totals; use how=totals")
        return self

    def draw(self, labels: "TrainLabels", tasks: Sequence[Task], seed: int) -> np.ndarray:
        """Return the rows to be shown, int64 positions, ascending, repeated where they come more than once.

        Under `smote` those that others are made from are among them, and none is repeated.

        Raises:
          FlowloomError: if a task is not among `tasks`, or the totals do not fit its words or rows.
        """
        named = {task.name: task for task in tasks}
        for name in (self.task, *([self.within] if self.within else [])):
            if name not in named:
                raise FlowloomError(
                    f"balance names the task {name!r}; the tasks that are trained are {', '.join(named)}"
                    f"{did_you_mean(name, named)}"
                )
        task = named[self.task]
        if self.within is not None:
            return equal_shares(labels, task, named[self.within], seed, self.totals)
        if self.how == "totals":
            return resample(labels, task, self.totals, seed)
        if self.how == "smote":
            _check_totals(task, self.totals)
            there = _counts(labels, task)
            fewer = {word: min(total, there.get(word, 0)) for word, total in self.totals.items()}
            return resample(labels, task, fewer, seed)
        return (undersample if self.how == "undersample" else oversample)(labels, task, seed)


def resample(labels: TrainLabels, task: Task, totals: Mapping[str, int], seed: int) -> np.ndarray:
    """Draw rows so that each class has its total: without repeating any, or all rows and then some of them again.

    Args:
      totals: rows by word of the vocabulary; a class without one keeps its rows.

    Returns:
      int64 positions of labelled rows, ascending; repeated where drawn more than once. The draws of one class do not
      depend on the other classes.

    Raises:
      FlowloomError: if a word is unknown, a total is negative, or a class without rows should get some.
    """
    codes = labels.of(task)
    _check_totals(task, totals)
    drawn = []
    for code, word in enumerate(task.vocabulary):
        members = np.flatnonzero(codes == code)
        total = totals.get(word, len(members))
        if total and not len(members):
            raise FlowloomError(f"class {word!r} of task {task.name!r} has no row in train to draw {total} from")
        generator = np.random.default_rng((seed, code))
        whole, rest = divmod(total, len(members)) if len(members) else (0, 0)
        drawn += [members] * whole + [generator.permutation(members)[:rest]]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def undersample(labels: TrainLabels, task: Task, seed: int) -> np.ndarray:
    """Draw as many rows of every class that occurs as its rarest has; see `resample`."""
    counts = _counts(labels, task)
    return resample(labels, task, dict.fromkeys(counts, min(counts.values(), default=0)), seed)


def oversample(labels: TrainLabels, task: Task, seed: int) -> np.ndarray:
    """Repeat rows until every class that occurs has as many as its most frequent; see `resample`."""
    counts = _counts(labels, task)
    return resample(labels, task, dict.fromkeys(counts, max(counts.values(), default=0)), seed)


def equal_shares(
    labels: TrainLabels, task: Task, within: Task, seed: int, totals: Mapping[str, int] | None = None
) -> np.ndarray:
    """Draw rows so that every class of `within` has equally many of all classes of `task`: VPN and plain in each app.

    Args:
      totals: rows by word of `within`: what one class of `task` is short of comes from the others, and all rows are
        there if they are fewer, as in MTC (section 3.2.3). A class without a total has as many as equal shares allow,
        so none if a class of `task` has none in it.

    Returns:
      int64 positions of rows labelled in both tasks, ascending, none repeated.

    Raises:
      FlowloomError: if a word is unknown, or a total is negative.
    """
    totals = totals or {}
    _check_totals(within, totals)
    codes, outer = labels.of(task), labels.of(within)
    drawn = []
    for cell, word in enumerate(within.vocabulary):
        members = [np.flatnonzero((outer == cell) & (codes == code)) for code in range(len(task.vocabulary))]
        left = totals.get(word, min(map(len, members)) * len(members))
        # the shortest first, so that the others know what it leaves to them
        for rank, code in enumerate(sorted(range(len(members)), key=lambda code: len(members[code]))):
            share = left // (len(members) - rank)
            rows = np.random.default_rng((seed, cell, code)).permutation(members[code])[:share]
            left -= len(rows)
            drawn.append(rows)
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def smote(
    features: np.ndarray, labels: TrainLabels, task: Task, totals: Mapping[str, int], seed: int, neighbours: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Make rows between a row and one of its nearest neighbours of the same class, until each class has its total.

    For tables of features only: between two sequences of packets lies no sequence of packets. Source: Chawla, Bowyer,
    Hall and Kegelmeyer, "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002; by imbalanced-learn.

    Args:
      features: [rows, columns], finite, of the same rows as the labels.
      totals: rows by word of the vocabulary; each at least what there is.

    Returns:
      Features [made, columns] and labels int32 [made] of the rows that were made; none is a row of the input.

    Raises:
      FlowloomError: if features are no finite table, a total is less than what there is, or a class has too few rows.
    """
    from imblearn.over_sampling import SMOTE  # takes a second, which trainings of flows need not wait for

    codes = labels.of(task)
    _check_totals(task, totals)
    if features.ndim != 2 or len(features) != len(codes) or not np.isfinite(features).all():
        raise FlowloomError(
            f"SMOTE needs finite features of shape [{len(codes)}, columns], got {features.shape}"
            f"{'' if np.isfinite(features).all() else ' with values that are not'}; sequences cannot be mixed"
        )
    counts = np.bincount(codes[codes >= 0], minlength=len(task.vocabulary))
    wanted = {}
    for word, total in totals.items():
        code = task.vocabulary.index(word)
        if total < counts[code]:
            raise FlowloomError(f"class {word!r} has {counts[code]} rows, more than {total}; draw fewer with resample")
        if total > counts[code]:
            wanted[code] = total
            if counts[code] <= neighbours:
                raise FlowloomError(
                    f"class {word!r} of task {task.name!r} has {counts[code]} rows in train, and SMOTE between "
                    f"{neighbours} neighbours needs {neighbours + 1}; lower neighbours, or repeat rows with resample"
                )
    known = np.flatnonzero(codes >= 0)
    if not wanted:
        return features[:0], codes[:0]
    mixed = SMOTE(sampling_strategy=wanted, k_neighbors=neighbours, random_state=seed)
    made, of = mixed.fit_resample(features[known], codes[known])
    return made[len(known) :], of[len(known) :].astype(np.int32)


def _counts(labels: TrainLabels, task: Task) -> dict[str, int]:
    """Return the rows of each class that occurs."""
    codes = labels.of(task)
    counts = np.bincount(codes[codes >= 0], minlength=len(task.vocabulary)).tolist()
    return {word: count for word, count in zip(task.vocabulary, counts, strict=True) if count}


def _check_totals(task: Task, totals: Mapping[str, int]) -> None:
    for word, total in totals.items():
        if word not in task.vocabulary:
            raise FlowloomError(
                f"totals must be of classes of task {task.name!r}, which are {', '.join(task.vocabulary)}; got {word!r}"
                f"{did_you_mean(word, task.vocabulary)}"
            )
        if total < 0:
            raise FlowloomError(f"totals must be at least 0, got {total} for class {word!r} of task {task.name!r}")


def _only_train(split: str) -> None:
    if split != "train":
        raise FlowloomError(f"only the train split may be resampled, got {split!r}; measure on rows as they are")
