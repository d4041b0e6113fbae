"""Dataset card: contents and origin of a dataset directory. Builds write it last; without it there is no dataset."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import Deduplicate, Identity
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import (
    Accounting,
    ByteRule,
    ChannelStatistics,
    Finding,
    LabelCoverage,
    Leakage,
    PublishedAccount,
    Shard,
    SourceDataset,
    SplitCounts,
    SplitRule,
    TaskOverlap,
    Timeline,
    UnlabelledCaptures,
)
from flowloom.schemas.dataset.dataset_paths import dataset_path
from flowloom.schemas.dataset.label_table_account import LabelTableAccount
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed_text, unsealed

FORMAT_VERSION = 1

CARD = "dataset.json"
CAPTURES_TABLE = "captures.parquet"
REJECTS_TABLE = "rejects.parquet"
TF_SCHEMA = "schema.pbtxt"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


def _without_open_tasks(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    for task in tasks:
        if task.is_open:
            raise ValueError(f"task {task.name!r} of a dataset must have a vocabulary, got none")
    return tasks


def shard_path(view: str, task: str | None, split: str, shard: int, shards: int) -> str:
    """Returns a shard's path inside the dataset directory; `task` names its stripe (Rainbow) or is None (Aurora)."""
    stripe = f"task={task}/" if task else ""
    return f"{view}/{stripe}split={split}/part-{shard:05d}-of-{shards:05d}.parquet"


def shard_place(path: str) -> tuple[int, int]:
    """Returns a shard's number, and the number of shards of its stripe and split, from its path.

    Raises:
      FlowloomError: if `shard_path` did not make the path.
    """
    place = re.search(r"part-(\d+)-of-(\d+)\.parquet$", path)
    if place is None:
        raise FlowloomError(
            f"shard path must end in part-<number>-of-<shards>.parquet, got {path!r}; build the dataset again"
        )
    return int(place[1]), int(place[2])


class DatasetCard(pydantic.BaseModel):
    """Card of a dataset: the facts needed to read it and to judge it."""

    model_config = _STRICT

    format_version: int = FORMAT_VERSION
    """Version of the format of datasets."""
    tool_version: str
    """Version of Flowloom that made the dataset."""
    flow_ids: int = 1
    """Version of the rule of flow ids (`schemas.arrow.rows.FLOW_IDS`); cards without it have the first."""
    flow_columns: int = 1
    """Version of the columns of flows (`schemas.arrow.rows.FLOW_COLUMNS`); cards without it have the first."""
    name: str
    """Name of the dataset."""
    content_hash: str
    """SHA-256 over all rows of all views in a canonical order."""
    corpus_digest: str
    """SHA-256 over the sorted SHA-256 digests of the captures and published entries."""
    definition: FlowDefinition
    """Rules that turned packets into flows."""
    views: tuple[View, ...]
    """Kinds of rows: flows, packets, tables."""
    packet_bytes: int | None = None
    """Bytes of a row of the packets view."""
    features: tuple[str, ...] = ()
    """Columns of the tables view."""
    tasks: Annotated[tuple[Task, ...], pydantic.AfterValidator(_without_open_tasks)]
    """Tasks with their vocabularies; measured ones have the dividers that were found."""
    layout: Literal["aurora", "rainbow"]
    """Aurora ("fused"): all labels in each row. Rainbow ("striped"): shards of its own for each task."""
    missing: Literal["unknown", "negative"]
    """Meaning of an absent label."""
    on_conflict: dict[str, Literal["first", "error", "unknown"]] = {}
    """By task, treatment of flows for which sources differ."""
    identity: Identity
    """Treatment of addresses: kept, pseudonyms, or dropped."""
    key_id: str | None = None
    """First 16 hexadecimal digits of the SHA-256 of the key, with `identity: pseudonym`."""
    deduplicate: Deduplicate = "none"
    """Rows kept among those with equal sizes and directions."""
    split_rule: SplitRule
    """Rule by which rows were assigned to splits."""
    splits: dict[str, SplitCounts]
    """Counts of the first view. In the Rainbow layout a flow counts once in each stripe."""
    view_splits: dict[str, dict[str, SplitCounts]] = {}
    """Counts of each further view."""
    coverage: tuple[LabelCoverage, ...]
    """One for each task and label source."""
    label_tables: tuple[LabelTableAccount, ...] = ()
    """Rows of label tables by the flows that they match; empty in datasets of older versions."""
    unlabelled: tuple[UnlabelledCaptures, ...] = ()
    """Captures that no source labels; empty where absent labels are negative."""
    findings: tuple[Finding, ...] = ()
    """Faults that the counts showed when the card was written; empty in datasets of older versions."""
    timelines: tuple[Timeline, ...] = ()
    """One for each group of more than one capture."""
    accounting: Accounting
    """Records and flows of all captures."""
    published: tuple[PublishedAccount, ...] = ()
    """One for each entry of published files."""
    normalisation: dict[str, ChannelStatistics]
    """Moments by sequence column, over the train split."""
    overlap: tuple[TaskOverlap, ...] = ()
    """One per pair of tasks and split, over the rows of the first view; empty in the Rainbow layout."""
    byte_rules: tuple[ByteRule, ...] = ()
    """One per task, if there is a packets view."""
    leakage: Leakage | None = None
    """None if it was not measured."""
    shards: tuple[Shard, ...]
    """All Parquet files, by path."""
    files: dict[Annotated[str, pydantic.AfterValidator(dataset_path)], str] = {}
    """SHA-256 of each other file but the card; empty in datasets of version 0.1."""
    sources: tuple[SourceDataset, ...] = ()
    """Source datasets in order of precedence; empty for a dataset built from captures."""


def read_card(dataset: str | os.PathLike[str]) -> DatasetCard:
    """Returns the card of a dataset directory.

    Raises:
      FlowloomError: if the card is missing, of another format version, or damaged.
    """
    root = Path(dataset)
    where = root / CARD
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
    except OSError:
        state = "the directory exists but was not finished" if root.is_dir() else "there is no such directory"
        raise FlowloomError(
            f"{root} is not a dataset: {CARD} is missing ({state}); make one with `flowloom build`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise FlowloomError(f"{where} is not JSON ({error}); build the dataset again") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise FlowloomError(
            f"{where}: format_version must be {FORMAT_VERSION}, got {version or 'none'}; "
            "build the dataset again with this version, or use the version that made it"
        )
    document = unsealed(document, where, "restore the card from a copy, or build the dataset again")
    try:
        return DatasetCard.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place, problem = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise FlowloomError(
            f"{where} is damaged at {place}: {problem} ({error.error_count()} problems); build the dataset again"
        ) from None


def save_card(card: DatasetCard, dataset: str | os.PathLike[str]) -> str:
    """Writes the card of a dataset directory, with a digest of its content, and returns its path."""
    path = os.path.join(dataset, CARD)
    write_text(path, sealed_text(card.model_dump_json(), indent=2))
    return path
