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
from flowloom.schemas.dataset.dataset_paths import dataset_path, shard_file_path
from flowloom.schemas.dataset.label_table_account import LabelTableAccount
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed_text, unsealed

FORMAT_VERSION = 1

CARD = "dataset.json"
CAPTURES_TABLE = "captures.parquet"
REJECTS_TABLE = "rejects.parquet"
TF_SCHEMA = "schema.pbtxt"

FindingKind = Literal[
    "empty-split", "empty-class", "unlabelled-task", "class-not-in-split", "unlabelled-captures", "conflicting-labels",
    "shared-hosts", "unmatched-rows",
]  # fmt: skip
"""Kinds of faults that the counts of a dataset show."""

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


class Shard(pydantic.BaseModel):
    """One Parquet file of the dataset."""

    model_config = _STRICT

    path: Annotated[str, pydantic.AfterValidator(shard_file_path)]
    view: View
    split: str
    task: str | None
    """Name of the only task with labels here (Rainbow); None if all tasks have labels (Aurora)."""
    rows: int
    row_groups: tuple[int, ...]
    """Rows of each row group; in the Rainbow layout each is a miniset."""
    sha256: str
    """SHA-256 of the file; empty if it is not recorded."""


class SplitCounts(pydantic.BaseModel):
    """Row counts of one split, by task and label value; null labels count as `unknown`."""

    model_config = _STRICT

    rows: int
    classes: dict[str, dict[str, int]]
    unknown: dict[str, int]


class ChannelStatistics(pydantic.BaseModel):
    """Moments of one sequence column over all packets of the train split, used to normalise features."""

    model_config = _STRICT

    count: int
    mean: float
    std: float
    log1p_mean: float
    """Mean of ln(1 + max(x, 0))."""
    log1p_std: float
    minimum: float
    maximum: float


class Accounting(pydantic.BaseModel):
    """Accounting of the records of all captures; `records == metered + sum(dropped)`."""

    model_config = _STRICT

    captures: int
    records: int
    metered: int
    dropped: dict[str, int]
    rejects: int
    flows: int
    """Metered flows and flows of published files."""
    flows_short: int
    """Flows dropped because they have fewer packets than the definition's `min_packets`."""
    flows_unlabelled: int
    """Flows dropped because they have no label of any task, so that Rainbow has no stripe for them."""
    packet_rows: int = 0
    """Metered packets in the packets view; `packets_dropped` counts the others by reason."""
    packets_dropped: dict[str, int] = {}
    rows_duplicate: int = 0
    """Rows dropped by `deduplicate`: an earlier row has the same sizes and directions."""
    flows_joined: int = 0
    """Flows that occur in several source datasets, counted for each source but the first."""
    flows_absent: int = 0
    """Flows that the source datasets dropped, or that have no stripe in the Rainbow layout."""
    flows_ended_early: int = 0
    """Flows that ended for lack of resources, at the definition's `max_open_flows` (end reason 5)."""


class Timeline(pydantic.BaseModel):
    """Gaps and overlaps between the captures of one group, in seconds."""

    model_config = _STRICT

    group: str
    captures: int
    seconds: float
    gaps: int
    """Number of captures that begin more than `GAP_THRESHOLD_S` after the end of the previous one."""
    largest_gap_s: float
    overlaps: int
    """Number of captures that begin before the end of the previous one."""
    largest_overlap_s: float


GAP_THRESHOLD_S = 1.0
"""Shortest time between two captures of a group that counts as a gap."""


class SplitRule(pydantic.BaseModel):
    """Rule by which rows were assigned to splits, with its reason."""

    model_config = _STRICT

    by: Literal["capture", "host_pair", "time", "flow", "packet", "inputs"]
    """Unit of the assignment. `inputs`: rows keep the splits of their source datasets, whose rules differ."""
    reason: str
    seed: int
    shares: tuple[float, float, float]
    """Requested shares; with `inputs` the actual shares of rows."""
    cuts_ns: tuple[int, int] | None = None
    """With `time`: earliest start times of validation and test flows, ns since the epoch."""


class Overlap(pydantic.BaseModel):
    """Repetition of items of one kind (sequences, hosts) within and across splits; all counts are by split.

    A flow in several stripes counts once.
    """

    model_config = _STRICT

    distinct: dict[str, int]
    """Number of distinct items."""
    distinct_in_train: dict[str, int]
    """Distinct items of validation and test that also occur in the train split."""
    flows: dict[str, int]
    flows_repeated: dict[str, int]
    """Flows whose item an earlier flow of the same split has."""
    flows_in_train: dict[str, int]
    """Flows of validation and test whose item a flow of the train split has."""


class Leakage(pydantic.BaseModel):
    """Repetitions between splits that a model could memorise instead of learn."""

    model_config = _STRICT

    sequences: Overlap
    """Sizes and directions of the first k packets."""
    timed_sequences: Overlap
    """Sizes, directions and gaps of the first k packets."""
    conflicts: dict[str, int]
    """By task, labelled flows whose sizes and directions also occur with a different label."""
    host_pairs: Overlap | None
    """The two addresses of a flow in either order; None with `identity: drop`."""
    hosts: Overlap | None
    """Single addresses; a flow counts for both of its addresses. None with `identity: drop`."""


class PublishedAccount(pydantic.BaseModel):
    """Accounting of the rows of one entry of published files."""

    model_config = _STRICT

    path: str
    published: str
    """Format of the entry."""
    view: View
    sha256: str
    """SHA-256 over the sorted SHA-256 digests of the entry's files."""
    groups: int
    """Number of files with rows, including members of archives."""
    rows: int
    set_aside: dict[str, int]
    """Rejected rows and files by reason; `rejects.parquet` lists them."""
    repeated: int = 0
    """Rows of a table whose features equal those of an earlier row."""


class TaskOverlap(pydantic.BaseModel):
    """Dependence between the labels of two tasks in one split."""

    model_config = _STRICT

    tasks: tuple[str, str]
    split: str
    counts: tuple[tuple[int, ...], ...]
    """Rows by label [classes of the first task, classes of the second]; rows without both labels do not count."""
    cramers_v: float | None
    """Cramer's V, from 0 (independent) to 1 (one determines the other); None if a task has fewer than two classes."""
    determined: float | None
    """Accuracy of predicting the first task's label as the commonest one of the second task's label."""
    commonest: float | None
    """Accuracy of always predicting the first task's commonest label."""


class ByteRule(pydantic.BaseModel):
    """Accuracy of predicting a task's label from a single byte of the packets view, on the train split."""

    model_config = _STRICT

    task: str
    rows: int
    position: int
    """Position of the best byte, from 0."""
    right: float
    """Accuracy of predicting the commonest label of the byte's value."""
    commonest: float
    """Share of the commonest label, the accuracy without the byte."""
    leaking: tuple[int, ...]
    """Positions that determine the label nearly alone: a sign of how the data set was made, not of traffic."""


class LabelCoverage(pydantic.BaseModel):
    """Flows that one label source labelled for one task."""

    model_config = _STRICT

    task: str
    source: str
    kind: Literal["path", "table", "packets", "dpi", "published", "dataset"] = "path"
    flows: int = 0
    """Flows of the source's captures."""
    labelled: int
    """Flows with a label of the source, including `defaulted`."""
    conflicts: int
    """Flows with a different label from an earlier source."""
    ambiguous: int = 0
    """Flows with several labels of the source, or to which the rule of a packet table gives none."""
    defaulted: int = 0
    """Flows that match no row and get the source's `default`."""
    unknown_words: int = 0
    """Flows whose only label of the source is not in the task's vocabulary."""
    unmatched: int = 0
    """Flows for which the source has no row; those of label tables, packet tables and DPI."""
    confidence: dict[int, int] = {}
    """Labelled flows by nDPI's confidence; empty for sources without a confidence."""


class UnlabelledCaptures(pydantic.BaseModel):
    """Captures of an entry of the manifest that no label source labels."""

    model_config = _STRICT

    source: str
    groups: int
    """Number of capture groups."""
    flows: int


class Finding(pydantic.BaseModel):
    """Fault of a dataset that its counts show; `schemas/dataset/dataset_findings.py` finds them.

    An `error` makes the dataset unusable for its tasks: it was built because the user insisted (`--allow-empty`).
    """

    model_config = _STRICT

    kind: FindingKind
    severity: Literal["error", "warning"]
    task: str | None = None
    split: str | None = None
    text: str
    """A sentence with a correction."""


class SourceDataset(pydantic.BaseModel):
    """Source dataset of a dataset that `flowloom weave` made."""

    model_config = _STRICT

    name: str
    content_hash: str
    layout: Literal["aurora", "rainbow"]
    missing: Literal["unknown", "negative"]


class DatasetCard(pydantic.BaseModel):
    """Card of a dataset: the facts needed to read it and to judge it."""

    model_config = _STRICT

    format_version: int = FORMAT_VERSION
    tool_version: str
    flow_ids: int = 1
    """Version of the rule of flow ids (`schemas.arrow.rows.FLOW_IDS`); cards without it have the first."""
    name: str
    content_hash: str
    """SHA-256 over all rows of all views in a canonical order."""
    corpus_digest: str
    """SHA-256 over the sorted SHA-256 digests of the captures and published entries."""
    definition: FlowDefinition
    views: tuple[View, ...]
    packet_bytes: int | None = None
    """Bytes of a row of the packets view."""
    features: tuple[str, ...] = ()
    """Columns of the tables view."""
    tasks: Annotated[tuple[Task, ...], pydantic.AfterValidator(_without_open_tasks)]
    layout: Literal["aurora", "rainbow"]
    missing: Literal["unknown", "negative"]
    on_conflict: dict[str, Literal["first", "error", "unknown"]] = {}
    identity: Identity
    key_id: str | None = None
    """First 16 hexadecimal digits of the SHA-256 of the key, with `identity: pseudonym`."""
    deduplicate: Deduplicate = "none"
    split_rule: SplitRule
    splits: dict[str, SplitCounts]
    """Counts of the first view. In the Rainbow layout a flow counts once in each stripe."""
    view_splits: dict[str, dict[str, SplitCounts]] = {}
    """Counts of each further view."""
    coverage: tuple[LabelCoverage, ...]
    label_tables: tuple[LabelTableAccount, ...] = ()
    """Rows of label tables by the flows that they match; empty in datasets of older versions."""
    unlabelled: tuple[UnlabelledCaptures, ...] = ()
    """Captures that no source labels; empty where absent labels are negative."""
    findings: tuple[Finding, ...] = ()
    """Faults that the counts showed when the card was written; empty in datasets of older versions."""
    timelines: tuple[Timeline, ...] = ()
    """One for each group of more than one capture."""
    accounting: Accounting
    published: tuple[PublishedAccount, ...] = ()
    normalisation: dict[str, ChannelStatistics]
    overlap: tuple[TaskOverlap, ...] = ()
    """One per pair of tasks and split, over the rows of the first view; empty in the Rainbow layout."""
    byte_rules: tuple[ByteRule, ...] = ()
    """One per task, if there is a packets view."""
    leakage: Leakage | None = None
    """None if it was not measured."""
    shards: tuple[Shard, ...]
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
