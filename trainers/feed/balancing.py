"""Balancing of the train split: rows are drawn, repeated or synthesised until classes have their totals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow.compute as pc
import pydantic

from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.parquet_files import read_footer, read_table
from flowloom.trainers.feed.dataset import Dataset

UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class TrainLabels:
    """Labels of the rows of a train split.

    Attributes:
      split: must be `train`, because measurements on resampled rows do not generalise.
      codes: by task int32 [rows], positions in its vocabulary, -1 where unknown.

    Raises:
      FlowloomError: if the split is not `train`, or the tasks have different numbers of rows.
    """

    split: str
    codes: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        _only_train(self.split)
        rows = {task: len(codes) for task, codes in self.codes.items()}
        if len(set(rows.values())) > 1:
            raise FlowloomError(f"labels must have equally many rows for each task, got {rows}; read them together")

    @classmethod
    def read(cls, dataset: Dataset, view: View = "flows") -> "TrainLabels":
        """Reads the labels of a dataset's train split in the order of its row groups.

        Rows of a stripe have labels of one task alone.
        """
        found: dict[str, list[np.ndarray]] = {task.name: [] for task in dataset.tasks}
        for path in dict.fromkeys(group.path for group in dataset.row_groups("train", view=view)):
            stored, _ = read_footer(path)
            known = [task for task in found if label_column(task) in stored.names]
            labels = read_table(path, [label_column(task) for task in known])
            unknown = np.full(labels.num_rows, UNKNOWN, np.int32)
            for task, parts in found.items():
                codes = pc.fill_null(labels[label_column(task)], UNKNOWN).to_numpy() if task in known else unknown
                parts.append(codes)
        return cls("train", {task: np.concatenate([np.empty(0, np.int32), *parts]) for task, parts in found.items()})

    def of(self, task: Task) -> np.ndarray:
        """Returns the labels of one task.

        Raises:
          FlowloomError: if the task is missing.
        """
        if task.name not in self.codes:
            raise FlowloomError(f"task must be one of {', '.join(self.codes)}, got {task.name!r}")
        return self.codes[task.name]


class Balance(pydantic.BaseModel):
    """Rule that balances the classes of a task in training; it drops rows without a label of the task.

    The values of `how`:
      undersample: every class gets as many rows as the rarest class has.
      oversample: every class gets as many rows as the most frequent class has; rows are repeated.
      totals: each named class gets its total, the others keep their rows.
      equal_shares: in each class of the task `within`, all classes get equally many rows, filled up to its total.
      smote: as `totals`, but missing rows are synthesised between neighbours (tables only, `with_synthetic_rows`).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    task: str
    """Task whose classes are balanced."""
    how: Literal["undersample", "oversample", "totals", "equal_shares", "smote"]
    """Rule, as above."""
    within: str | None = None
    """Task whose classes `equal_shares` balances one by one."""
    totals: dict[str, Annotated[int, pydantic.Field(ge=0)]] = {}
    """Rows by class."""
    neighbours: int = pydantic.Field(5, ge=1, description="nearest rows of the class that smote mixes a row with")

    @pydantic.model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.how == "equal_shares") != (self.within is not None):
            raise ValueError(f"within must be set for how=equal_shares alone, got how={self.how}, within={self.within}")
        if self.within == self.task:
            raise ValueError(f"within must be another task than task, got {self.task} for both")
        if self.how in ("totals", "smote") and not self.totals:
            raise ValueError(f"totals must give rows by class for how={self.how}, got none")
        if self.how in ("undersample", "oversample") and self.totals:
            raise ValueError(f"totals must be absent for how={self.how}, got some; use how=totals")
        return self

    def draw(self, labels: "TrainLabels", tasks: Sequence[Task], seed: int) -> np.ndarray:
        """Returns the rows of an epoch: int64 positions, ascending, repeated as often as a row occurs.

        Under `smote` these are the real rows, and no row is repeated.

        Raises:
          FlowloomError: if a task is not among `tasks`, or the totals do not fit its label values or rows.
        """
        named = {task.name: task for task in tasks}
        for name in (self.task, *([self.within] if self.within else [])):
            if name not in named:
                raise FlowloomError(
                    f"balance must name trained tasks, which are {', '.join(named)}, got {name!r}"
                    f"{did_you_mean(name, named)}"
                )
        task = named[self.task]
        if self.within is not None:
            return equal_shares(labels, task, named[self.within], seed, self.totals)
        if self.how == "totals":
            return resample(labels, task, self.totals, seed)
        if self.how == "smote":
            _check_totals(task, self.totals)
            rows = _counts(labels, task)
            fewer = {name: min(total, rows.get(name, 0)) for name, total in self.totals.items()}
            return resample(labels, task, fewer, seed)
        return (undersample if self.how == "undersample" else oversample)(labels, task, seed)


def resample(labels: TrainLabels, task: Task, totals: Mapping[str, int], seed: int) -> np.ndarray:
    """Draws rows so that each class has its total.

    A class with fewer rows than its total has every row once or more; a class with more has a part of its rows.

    Args:
      labels: labels of the train split.
      task: the task to balance.
      totals: rows by class; a class without a total keeps its rows.
      seed: seed of the draws; the draws of a class do not depend on the other classes.

    Returns:
      int64 positions of labelled rows, ascending, repeated as often as they are drawn.

    Raises:
      FlowloomError: if a class does not exist, a total is negative, or a class without rows has a positive total.
    """
    codes = labels.of(task)
    _check_totals(task, totals)
    drawn = []
    for code, name in enumerate(task.vocabulary):
        members = np.flatnonzero(codes == code)
        total = totals.get(name, len(members))
        if total and not len(members):
            raise FlowloomError(f"class {name!r} of task {task.name!r} must have train rows to draw {total}, got none")
        generator = np.random.default_rng((seed, code))
        whole, rest = divmod(total, len(members)) if len(members) else (0, 0)
        drawn += [members] * whole + [generator.permutation(members)[:rest]]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def undersample(labels: TrainLabels, task: Task, seed: int) -> np.ndarray:
    """Draws equally many rows of every class that occurs, as many as the rarest has; see `resample`."""
    counts = _counts(labels, task)
    return resample(labels, task, dict.fromkeys(counts, min(counts.values(), default=0)), seed)


def oversample(labels: TrainLabels, task: Task, seed: int) -> np.ndarray:
    """Repeats rows until every class that occurs has as many as the most frequent; see `resample`."""
    counts = _counts(labels, task)
    return resample(labels, task, dict.fromkeys(counts, max(counts.values(), default=0)), seed)


def equal_shares(
    labels: TrainLabels, task: Task, within: Task, seed: int, totals: Mapping[str, int] | None = None
) -> np.ndarray:
    """Draws equally many rows of all classes of `task` in every class of `within`.

    Example: as many rows with VPN as without in each app.

    Args:
      labels: labels of the train split.
      task: the task whose classes get equal shares.
      within: the task whose classes have the totals.
      seed: seed of the draws.
      totals: rows by class of `within`. If a class of `task` has too few rows there, the others fill the total, up to
        all rows, as in MTC (section 3.2.3). A class without a total gets as many rows as equal shares allow, so none if
        a class of `task` has no row in it.

    Returns:
      int64 positions of rows with labels of both tasks, ascending, none repeated.

    Raises:
      FlowloomError: if a class does not exist, or a total is negative.
    """
    totals = totals or {}
    _check_totals(within, totals)
    codes, outer = labels.of(task), labels.of(within)
    drawn = []
    for cell, name in enumerate(within.vocabulary):
        members = [np.flatnonzero((outer == cell) & (codes == code)) for code in range(len(task.vocabulary))]
        left = totals.get(name, min(map(len, members)) * len(members))
        # smallest class first, so that the larger ones fill what it lacks
        for rank, code in enumerate(sorted(range(len(members)), key=lambda code: len(members[code]))):
            share = left // (len(members) - rank)
            rows = np.random.default_rng((seed, cell, code)).permutation(members[code])[:share]
            left -= len(rows)
            drawn.append(rows)
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def smote(
    features: np.ndarray, labels: TrainLabels, task: Task, totals: Mapping[str, int], seed: int, neighbours: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Synthesises rows between a row and one of its nearest neighbours of the same class.

    It is for feature tables alone, because a point between two packet sequences is not a packet sequence. Source:
    Chawla, Bowyer, Hall and Kegelmeyer, "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002;
    implementation: imbalanced-learn.

    Args:
      features: float [rows, columns], finite.
      labels: labels of the same rows.
      task: the task to balance.
      totals: rows by class, at least as many as the class has.
      seed: seed of the random numbers.
      neighbours: nearest rows of the class that a row is mixed with.

    Returns:
      Features [N, columns] and labels int32 [N] of the N synthetic rows.

    Raises:
      FlowloomError: if `features` are not a finite table, or a class has more rows than its total or too few for SMOTE.
    """
    from imblearn.over_sampling import SMOTE  # slow import (1 s) that training on flows does not need

    codes = labels.of(task)
    _check_totals(task, totals)
    if features.ndim != 2 or len(features) != len(codes) or not np.isfinite(features).all():
        raise FlowloomError(
            f"features must be finite and of shape [{len(codes)}, columns] for SMOTE, got shape {features.shape}"
            f"{'' if np.isfinite(features).all() else ' with infinite or NaN values'}"
        )
    counts = np.bincount(codes[codes >= 0], minlength=len(task.vocabulary))
    wanted = {}
    for name, total in totals.items():
        code = task.vocabulary.index(name)
        if total < counts[code]:
            raise FlowloomError(
                f"total of class {name!r} must be at least its {counts[code]} rows, got {total}; use resample for fewer"
            )
        if total > counts[code]:
            wanted[code] = total
            if counts[code] <= neighbours:
                raise FlowloomError(
                    f"class {name!r} of task {task.name!r} must have {neighbours + 1} train rows for SMOTE between "
                    f"{neighbours} neighbours, got {counts[code]}; lower neighbours, or repeat rows with resample"
                )
    known = np.flatnonzero(codes >= 0)
    if not wanted:
        return features[:0], codes[:0]
    mixed = SMOTE(sampling_strategy=wanted, k_neighbors=neighbours, random_state=seed)
    made, of = mixed.fit_resample(features[known], codes[known])
    return made[len(known) :], of[len(known) :].astype(np.int32)


def _counts(labels: TrainLabels, task: Task) -> dict[str, int]:
    """Returns the rows of each class that occurs."""
    codes = labels.of(task)
    counts = np.bincount(codes[codes >= 0], minlength=len(task.vocabulary)).tolist()
    return {name: count for name, count in zip(task.vocabulary, counts, strict=True) if count}


def _check_totals(task: Task, totals: Mapping[str, int]) -> None:
    for name, total in totals.items():
        if name not in task.vocabulary:
            raise FlowloomError(
                f"totals must name classes of task {task.name!r}, which are {', '.join(task.vocabulary)}, got {name!r}"
                f"{did_you_mean(name, task.vocabulary)}"
            )
        if total < 0:
            raise FlowloomError(f"totals must be at least 0, got {total} for class {name!r} of task {task.name!r}")


def _only_train(split: str) -> None:
    if split != "train":
        raise FlowloomError(f"split must be train to be resampled, got {split!r}; evaluate on unchanged rows")
