"""The dataset card: what a dataset directory holds and how it came to be. Written last: no card, no dataset."""

import json
import os
import re
from pathlib import Path
from typing import Literal

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import Deduplicate, Identity
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError

FORMAT_VERSION = 1

CARD = "dataset.json"
CAPTURES_TABLE = "captures.parquet"
REJECTS_TABLE = "rejects.parquet"
TF_SCHEMA = "schema.pbtxt"

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


def shard_path(view: str, task: str | None, split: str, shard: int, shards: int) -> str:
    """Return a shard's path inside the dataset directory; `task` is its stripe under Rainbow, None under Aurora."""
    stripe = f"task={task}/" if task else ""
    return f"{view}/{stripe}split={split}/part-{shard:05d}-of-{shards:05d}.parquet"


def shard_place(path: str) -> tuple[int, int]:
    """Return a shard's number and how many its stripe and split have, from its path.

    Raises:
      FlowloomError: if the path is none of `shard_path`.
    """
    place = re.search(r"part-(\d+)-of-(\d+)\.parquet$", path)
    if place is None:
        raise FlowloomError(f"shard {path!r} is not named part-<number>-of-<shards>.parquet; build the dataset again")
    return int(place[1]), int(place[2])


class Shard(pydantic.BaseModel):
    """One Parquet file of the dataset."""

    model_config = _STRICT

    path: str
    view: View
    split: str
    task: str | None
    """The one task whose labels it carries (Rainbow), or None: all of them (Aurora)."""
    rows: int
    row_groups: tuple[int, ...]
    """Rows of each row group; under Rainbow each is a miniset."""
    sha256: str


class SplitCounts(pydantic.BaseModel):
    """Rows of one split, and per task how many of them bear each word; `null` labels are under `unknown`."""

    model_config = _STRICT

    rows: int
    classes: dict[str, dict[str, int]]
    unknown: dict[str, int]


class ChannelStatistics(pydantic.BaseModel):
    """Moments of one sequence column over all packets of the train split; what a trainer normalises with."""

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
    """Where the records of all captures went; `records == metered + sum(dropped)`."""

    model_config = _STRICT

    captures: int
    records: int
    metered: int
    dropped: dict[str, int]
    rejects: int
    flows: int
    """Flows metered, and those out of published files."""
    flows_short: int
    """Flows left out because they had fewer than the definition's `min_packets`."""
    flows_unlabelled: int
    """Flows left out because no task knows a label of theirs (Rainbow has no stripe for them)."""
    packet_rows: int = 0
    """Metered packets that are rows of the packets view; the others are under `packets_dropped`."""
    packets_dropped: dict[str, int] = {}
    rows_duplicate: int = 0
    """Rows left out because of `deduplicate`: an earlier one has the same sizes and directions."""
    flows_joined: int = 0
    """Flows that several of the datasets that this one was woven from have; once for each of them but the first."""
    flows_absent: int = 0
    """Flows that the datasets that this one was woven from had left out, or that Rainbow has no stripe for."""


class Timeline(pydantic.BaseModel):
    """How the captures of one group follow each other; times in seconds."""

    model_config = _STRICT

    group: str
    captures: int
    seconds: float
    gaps: int
    """Neighbours where the next begins more than `GAP_THRESHOLD_S` after the one before ends."""
    largest_gap_s: float
    overlaps: int
    """Neighbours where the next begins before the one before ends."""
    largest_overlap_s: float


GAP_THRESHOLD_S = 1.0
"""Silence between two captures of a group from which on it counts as a gap."""


class SplitRule(pydantic.BaseModel):
    """How rows were divided, and why so."""

    model_config = _STRICT

    by: Literal["capture", "host_pair", "time", "flow", "packet", "inputs"]
    """`inputs`: each row keeps the split that it had in the dataset it was woven from, whose rules differ."""
    reason: str
    seed: int
    shares: tuple[float, float, float]
    """What was asked for; by inputs, what the rows are."""
    cuts_ns: tuple[int, int] | None = None
    """By time: the starts, ns since the epoch, from which on flows validate and test."""


class Overlap(pydantic.BaseModel):
    """How far things of one kind come again, inside of a split and across; all by split.

    A flow counts once, also where it is in several stripes.
    """

    model_config = _STRICT

    distinct: dict[str, int]
    distinct_in_train: dict[str, int]
    """How many of them are in the train split too; of validation and test."""
    flows: dict[str, int]
    flows_repeated: dict[str, int]
    """Flows with a thing that another flow of the same split has already."""
    flows_in_train: dict[str, int]
    """Flows with a thing that a flow of the train split has too; of validation and test."""


class Leakage(pydantic.BaseModel):
    """What a model could know again from training instead of telling it."""

    model_config = _STRICT

    sequences: Overlap
    """Sizes and directions of the first k packets."""
    timed_sequences: Overlap
    """The same with gaps."""
    conflicts: dict[str, int]
    """By task: labelled flows whose sizes and directions occur with another label of it too."""
    host_pairs: Overlap | None
    """The two addresses of a flow in either order; None with `identity: drop`."""
    hosts: Overlap | None
    """Single addresses; a flow counts for both of its own. None with `identity: drop`."""


class PublishedAccount(pydantic.BaseModel):
    """What became of the rows of one entry of published files."""

    model_config = _STRICT

    path: str
    published: str
    """Its format."""
    view: View
    sha256: str
    """Over the sorted SHA-256 digests of its stored files."""
    groups: int
    """Files that rows came out of, members of archives among them."""
    rows: int
    set_aside: dict[str, int]
    """Rows, or files as a whole, that are none of the dataset's, by reason; `rejects.parquet` has each of them."""
    repeated: int = 0
    """Of a table: rows whose features another row before it has."""


class TaskOverlap(pydantic.BaseModel):
    """How far two tasks have labels in common, in one split."""

    model_config = _STRICT

    tasks: tuple[str, str]
    split: str
    counts: tuple[tuple[int, ...], ...]
    """Rows by the label of the first task, then by that of the second; rows without one of them do not count."""
    cramers_v: float | None
    """From 0, independent, to 1, one determined by the other; None where a task has fewer than two classes."""
    determined: float | None
    """Share of the rows whose label of the first task the commonest one of their label of the second is."""
    commonest: float | None
    """The same without looking: the share of the commonest label of the first task."""


class ByteRule(pydantic.BaseModel):
    """How often a single byte of the packets view tells a label on the train split."""

    model_config = _STRICT

    task: str
    rows: int
    position: int
    """Of the byte, from 0, whose value tells most."""
    right: float
    """Share of the rows that have the commonest label of the rows of their value at this position."""
    commonest: float
    """Share of the commonest label."""
    leaking: tuple[int, ...]
    """Positions that determine the label nearly alone: no sign of traffic, but of how the set was made."""


class LabelCoverage(pydantic.BaseModel):
    """What one label source knew of one task."""

    model_config = _STRICT

    task: str
    source: str
    kind: Literal["path", "table", "packets", "dpi", "published", "dataset"] = "path"
    flows: int = 0
    """Flows of the captures that the source is about."""
    labelled: int
    """Flows it has a word for, `defaulted` among them."""
    conflicts: int
    """Flows it has another word for than a source before it."""
    ambiguous: int = 0
    """Flows of which it says several words, or, by the rule of a packet table, none."""
    defaulted: int = 0
    """Flows that no row of it matches and its `default` labels."""
    unknown_words: int = 0
    """Flows for which it has only a word that the task does not know."""
    confidence: dict[int, int] = {}
    """By DPI, labelled flows by nDPI's confidence in their words; empty for sources that do not tell theirs."""


class WovenSource(pydantic.BaseModel):
    """A dataset that another one was woven from."""

    model_config = _STRICT

    name: str
    content_hash: str
    layout: Literal["aurora", "rainbow"]
    missing: Literal["unknown", "negative"]


class DatasetCard(pydantic.BaseModel):
    """Everything a reader needs to use a dataset, and everything a reviewer asks of it."""

    model_config = _STRICT

    format_version: int = FORMAT_VERSION
    tool_version: str
    name: str
    content_hash: str
    """SHA-256 over all rows of all views in a canonical order."""
    corpus_digest: str
    """SHA-256 over the sorted SHA-256 digests of the captures and published entries."""
    definition: FlowDefinition
    views: tuple[View, ...]
    packet_bytes: int | None = None
    """Length of a row of the packets view."""
    features: tuple[str, ...] = ()
    """Columns of the tables view."""
    tasks: tuple[Task, ...]
    layout: Literal["aurora", "rainbow"]
    missing: Literal["unknown", "negative"]
    on_conflict: dict[str, Literal["first", "error", "unknown"]] = {}
    identity: Identity
    key_id: str | None = None
    """First 16 hexadecimal digits of the SHA-256 of the key, with `identity: pseudonym`."""
    deduplicate: Deduplicate = "none"
    split_rule: SplitRule
    splits: dict[str, SplitCounts]
    """Of the first view. Under Rainbow `rows` counts stripe rows: a flow with labels of two tasks counts in both."""
    view_splits: dict[str, dict[str, SplitCounts]] = {}
    """The same of each further view."""
    coverage: tuple[LabelCoverage, ...]
    timelines: tuple[Timeline, ...] = ()
    """One for each group of more than one capture."""
    accounting: Accounting
    published: tuple[PublishedAccount, ...] = ()
    normalisation: dict[str, ChannelStatistics]
    overlap: tuple[TaskOverlap, ...] = ()
    """Of each two tasks by split, over the rows of the first view; Rainbow's stripes know one task each."""
    byte_rules: tuple[ByteRule, ...] = ()
    """By task, with a packets view."""
    leakage: Leakage | None = None
    """None where it was not measured."""
    shards: tuple[Shard, ...]
    sources: tuple[WovenSource, ...] = ()
    """The datasets it was woven from, in order of precedence; none of a dataset that was built from captures."""


def read_card(dataset: str | os.PathLike[str]) -> DatasetCard:
    """Read the card of a dataset directory.

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
            f"{root} is no dataset: {CARD} is missing ({state}); make one with `flowloom build`"
        ) from None
    except ValueError as error:
        raise FlowloomError(f"{where} is not JSON ({error}); build the dataset again") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise FlowloomError(
            f"{where} has format version {version!r}, this Flowloom reads {FORMAT_VERSION}; "
            "build the dataset again with this version, or use the version that made it"
        )
    try:
        return DatasetCard.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FlowloomError(
            f"{where} is damaged at {place}: {first['msg']} ({error.error_count()} problems); build the dataset again"
        ) from None
