"""What scheduled retraining remembers between runs, by which rule it promotes, and what a run reports."""

import os
from pathlib import Path
from typing import Literal

import pydantic

from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.score_card import ModelSkew

STATE = "state.json"
VERSIONS = "versions"
READINGS = "readings"
DATASET, NEWEST, FROZEN, RUN = "dataset", "newest", "frozen", "run"
"""Folders of a version: its dataset, the rows that the one before had not, test rows put aside for good, and
the challenger."""
REPORT_JSON, REPORT_PAGE = "report.json", "report.html"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class Stamp(pydantic.BaseModel):
    """What a local file's metadata said when its bytes were digested: while it says so, they are taken for the same."""

    model_config = _STRICT

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class SeenCapture(pydantic.BaseModel):
    """A capture of the corpus, known by its bytes, wherever it lies now, and kept when it is gone."""

    model_config = _STRICT

    uri: str
    """Where it was last."""
    size: int
    sha256: str
    fingerprint: str
    first_ns: int | None
    stamp: Stamp | None
    """None of files that are not local."""
    group: str = ""
    """The timeline that it is of; part of the ids of its flows."""


class PromotionRule(pydantic.BaseModel):
    """When a challenger becomes champion, by ROC-AUC on the frozen test rows."""

    model_config = _STRICT

    margin: float = pydantic.Field(0.005, ge=0, le=1, description="how far the mean over tasks may fall")
    max_drop: float = pydantic.Field(0.02, ge=0, le=1, description="how far a single task may fall")

    def __str__(self) -> str:
        return (
            f"mean AUC over tasks on the frozen test rows at most {self.margin:g}, and no task more than "
            f"{self.max_drop:g}, below the best that a champion of this line had"
        )


class Figures(pydantic.BaseModel):
    """ROC-AUC of one task on the same rows; None where it is undefined or the model does not have the task."""

    model_config = _STRICT

    rows: int
    """Labelled ones."""
    champion: float | None
    challenger: float | None
    best: float | None = None
    """The highest that a champion of this line had on these rows."""


class Verdict(pydantic.BaseModel):
    """Whether a challenger becomes champion, and why."""

    model_config = _STRICT

    promoted: bool
    reasons: tuple[str, ...]


class Version(pydantic.BaseModel):
    """One run that found something new: a dataset, a challenger trained on it, and what became of it."""

    model_config = _STRICT

    number: int
    finished: str
    """ISO 8601, UTC."""
    content_hash: str
    """Of the dataset."""
    captures: int
    new_captures: tuple[str, ...]
    gone_captures: int = 0
    """Captures that are no longer where they were, and whose flows stay."""
    rows: dict[str, int]
    """By split."""
    new_rows: dict[str, int]
    tasks: tuple[str, ...]
    new_tasks: tuple[str, ...]
    frozen_tasks: tuple[str, ...]
    """Tasks whose test rows were put aside in this version: the first in which they are of two classes."""
    recipe: str
    start: Literal["fresh", "warm", "grown"]
    """What the challenger's training began with: new weights, the champion's, or the champion's and a new task's."""
    start_reason: str
    champion: int | None
    """The version that it was held against."""
    frozen: dict[str, Figures]
    newest: dict[str, Figures]
    drift: ModelSkew | None
    """Of the new train rows against those that the champion was trained on."""
    rule: PromotionRule
    verdict: Verdict


class Promotion(pydantic.BaseModel):
    """A change of the champion."""

    model_config = _STRICT

    at: str
    """ISO 8601, UTC."""
    champion: int
    rollback: bool = False


class RetrainState(pydantic.BaseModel):
    """All that is true of a state; what lies in its folder and is not named here was left by a run that died."""

    model_config = _STRICT

    state_version: Literal[1] = 1
    manifest: CorpusManifest | None = None
    key_id: str | None = None
    inputs: str = ""
    """Digest of all that the newest dataset was built of; a run that finds the same has nothing to do."""
    seen: tuple[SeenCapture, ...] = ()
    versions: tuple[Version, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @property
    def line(self) -> tuple[int, ...]:
        """The champions that led to the present one, which is the last: those rolled back from are not among them."""
        line: list[int] = []
        for promotion in self.promotions:
            if promotion.rollback:
                line = line[: line.index(promotion.champion)]
            line.append(promotion.champion)
        return tuple(line)

    @property
    def champion(self) -> int | None:
        """The version that is in use."""
        return self.line[-1] if self.promotions else None

    def version(self, number: int) -> Version:
        """Return a version by its number."""
        return self.versions[number - 1]


def read_state(folder: str | os.PathLike[str]) -> RetrainState:
    """Return the state that a folder holds; an empty one if it holds nothing yet.

    Raises:
      FlowloomError: if the folder holds something else, or the state is of another version or damaged.
    """
    root = Path(folder)
    try:
        return RetrainState.model_validate_json((root / STATE).read_bytes())
    except FileNotFoundError:
        ours = {STATE, VERSIONS, READINGS}
        if root.is_dir() and any(not path.name.startswith(".") and path.name not in ours for path in root.iterdir()):
            raise FlowloomError(
                f"{root} is not empty and holds no state of retraining: {STATE} is missing; name another folder"
            ) from None
        return RetrainState()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FlowloomError(
            f"{root / STATE} cannot be read at {place}: {first['msg']}; put back a copy of it, or begin another state"
        ) from None


def write_state(state: RetrainState, folder: str | os.PathLike[str]) -> None:
    """Replace a folder's state at once: after a crash it is the old one or the new one, and what it names is there."""
    root = Path(folder)
    partial = root / f".{STATE}"
    os.sync()  # what is named must be on the disk before the name is
    with open(partial, "w", encoding="utf-8") as file:
        file.write(state.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, root / STATE)
    folder_descriptor = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)
