"""State of scheduled retraining: seen captures, versions with their results, and the promotion rule."""

import json
import os
from pathlib import Path
from typing import Literal

import pydantic

from flowloom.schemas.arrow.rows import FLOW_IDS
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed_text, unsealed
from flowloom.schemas.models.score_card import ModelSkew

STATE = "state.json"
VERSIONS = "versions"
METER_CACHE = "readings"
DATASET, NEWEST, FROZEN, RUN = "dataset", "newest", "frozen", "run"
"""Folders of a version: its dataset, the rows that the previous version does not have, the frozen test rows, and the
challenger."""
REPORT_JSON, REPORT_PAGE = "report.json", "report.html"
_RESTORE = "restore a copy of it, or begin another state"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class Stamp(pydantic.BaseModel):
    """Metadata of a local file when its bytes were digested; unchanged metadata means unchanged bytes."""

    model_config = _STRICT

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class SeenCapture(pydantic.BaseModel):
    """Capture of the corpus, identified by its bytes; it stays in the state after its file is deleted."""

    model_config = _STRICT

    uri: str
    """Last known location."""
    size: int
    digest: str = pydantic.Field(validation_alias=pydantic.AliasChoices("digest", "sha256"))
    """Digest of its stored bytes; SHA-256 in a state of version 0.1, which is read but not continued."""
    fingerprint: str
    first_ns: int | None
    stamp: Stamp | None
    """None for files that are not local."""
    group: str = ""
    """Capture group, which is part of the ids of its flows."""


class PromotionRule(pydantic.BaseModel):
    """Rule that promotes a challenger to champion, by ROC AUC on the frozen test rows."""

    model_config = _STRICT

    margin: float = pydantic.Field(0.005, ge=0, le=1, description="how far the mean over tasks may fall")
    max_drop: float = pydantic.Field(0.02, ge=0, le=1, description="how far a single task may fall")

    def __str__(self) -> str:
        return (
            f"mean AUC over tasks on the frozen test rows at most {self.margin:g}, and no task more than "
            f"{self.max_drop:g}, below the best that a champion of this line had"
        )


class Figures(pydantic.BaseModel):
    """ROC AUC of one task on the same rows; None if undefined or if a model lacks the task."""

    model_config = _STRICT

    rows: int
    """Number of labelled rows."""
    champion: float | None
    challenger: float | None
    best: float | None = None
    """Highest ROC AUC of this line's champions on these rows."""


class Verdict(pydantic.BaseModel):
    """Decision on a challenger, with its reasons."""

    model_config = _STRICT

    promoted: bool
    reasons: tuple[str, ...]


class Version(pydantic.BaseModel):
    """Run that found new captures: a dataset, a challenger trained on it, and the verdict."""

    model_config = _STRICT

    number: int
    finished: str
    """ISO 8601, UTC."""
    content_hash: str
    """Content hash of the version's dataset."""
    captures: int
    new_captures: tuple[str, ...]
    gone_captures: int = 0
    """Captures whose files are gone; their flows stay in the dataset."""
    rows: dict[str, int]
    """Rows by split."""
    new_rows: dict[str, int]
    tasks: tuple[str, ...]
    new_tasks: tuple[str, ...]
    frozen_tasks: tuple[str, ...]
    """Tasks whose test rows were frozen in this version, the first in which these rows have two classes."""
    recipe: str
    start: Literal["fresh", "warm", "grown"]
    """Initial weights of the challenger: new, the champion's, or the champion's plus a new task's."""
    start_reason: str
    champion: int | None
    """Version that the challenger was compared with."""
    frozen: dict[str, Figures]
    newest: dict[str, Figures]
    drift: ModelSkew | None
    """Skew of the new train rows relative to the rows that the champion was trained on."""
    rule: PromotionRule
    verdict: Verdict


class Promotion(pydantic.BaseModel):
    """Change of the champion."""

    model_config = _STRICT

    at: str
    """ISO 8601, UTC."""
    champion: int
    rollback: bool = False


class RetrainState(pydantic.BaseModel):
    """State of a folder; other files in the folder are left from a run that died."""

    model_config = _STRICT

    state_version: Literal[1] = 1
    manifest: CorpusManifest | None = None
    key_id: str | None = None
    flow_ids: int = 1
    """Version of the rule of flow ids, by which rows keep their splits; states without it have the first."""
    inputs: str = ""
    """Digest of the newest dataset's inputs; a run with the same digest has nothing to do."""
    seen: tuple[SeenCapture, ...] = ()
    versions: tuple[Version, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @property
    def line(self) -> tuple[int, ...]:
        """The champions up to the present one, which is last, without those that a rollback removed."""
        line: list[int] = []
        for promotion in self.promotions:
            if promotion.rollback:
                line = line[: line.index(promotion.champion)]
            line.append(promotion.champion)
        return tuple(line)

    @property
    def champion(self) -> int | None:
        """Number of the version in use, None before the first promotion."""
        return self.line[-1] if self.promotions else None

    def version(self, number: int) -> Version:
        """Returns a version by its number."""
        return self.versions[number - 1]


def read_state(folder: str | os.PathLike[str]) -> RetrainState:
    """Returns the state in a folder, an empty state if the folder has none yet.

    Raises:
      FlowloomError: if the folder has other contents, or the state has another version or is damaged.
    """
    root = Path(folder)
    try:
        document = json.loads((root / STATE).read_bytes())
    except FileNotFoundError:
        ours = {STATE, VERSIONS, METER_CACHE}
        if root.is_dir() and any(not path.name.startswith(".") and path.name not in ours for path in root.iterdir()):
            raise FlowloomError(
                f"{root} must be empty or have {STATE}, the state of retraining, got other files; name another folder"
            ) from None
        return RetrainState(flow_ids=FLOW_IDS)
    except ValueError as error:
        raise FlowloomError(f"{root / STATE} is not JSON ({error}); {_RESTORE}") from None
    document = unsealed(document, root / STATE, _RESTORE)
    try:
        return RetrainState.model_validate_json(json.dumps(document))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FlowloomError(f"{root / STATE} cannot be read at {place}: {first['msg']}; {_RESTORE}") from None


def write_state(state: RetrainState, folder: str | os.PathLike[str]) -> None:
    """Replaces a folder's state atomically; files that the state names are on disk first."""
    root = Path(folder)
    partial = root / f".{STATE}"
    os.sync()  # files that the state names must be on disk before the state is
    with open(partial, "w", encoding="utf-8") as file:
        file.write(sealed_text(state.model_dump_json(), indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, root / STATE)
    folder_descriptor = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)
