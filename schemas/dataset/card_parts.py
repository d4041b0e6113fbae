"""Parts of a dataset card: shards, counts of splits and sources, accounts of captures, findings."""

from typing import Annotated, Literal

import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.dataset.dataset_paths import shard_file_path

FindingKind = Literal[
    "empty-split", "empty-class", "unlabelled-task", "class-not-in-split", "unlabelled-captures", "conflicting-labels",
    "shared-hosts", "unmatched-rows", "times-not-in-order",
]  # fmt: skip
"""Kinds of faults that the counts of a dataset show."""

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class Shard(pydantic.BaseModel):
    """One Parquet file of the dataset."""

    model_config = _STRICT

    path: Annotated[str, pydantic.AfterValidator(shard_file_path)]
    """Path in the dataset directory."""
    view: View
    """View of its rows."""
    split: str
    """Split of its rows."""
    task: str | None
    """Name of the only task with labels here (Rainbow); None if all tasks have labels (Aurora)."""
    rows: int
    """Number of rows."""
    row_groups: tuple[int, ...]
    """Rows of each row group; in the Rainbow layout each is a miniset."""
    sha256: str
    """SHA-256 of the file; empty if it is not recorded."""


class SplitCounts(pydantic.BaseModel):
    """Row counts of one split, by task and label value; null labels count as `unknown`."""

    model_config = _STRICT

    rows: int
    """All rows."""
    classes: dict[str, dict[str, int]]
    """Rows by task and label value."""
    unknown: dict[str, int]
    """Rows without a label, by task."""


class ChannelStatistics(pydantic.BaseModel):
    """Moments of one sequence column over all packets of the train split, used to normalise features."""

    model_config = _STRICT

    count: int
    """Number of values."""
    mean: float
    """Mean."""
    std: float
    """Standard deviation."""
    log1p_mean: float
    """Mean of ln(1 + max(x, 0))."""
    log1p_std: float
    """Standard deviation of ln(1 + max(x, 0))."""
    minimum: float
    """Least value."""
    maximum: float
    """Greatest value."""


class Accounting(pydantic.BaseModel):
    """Accounting of the records of all captures; `records == metered + sum(dropped)`."""

    model_config = _STRICT

    captures: int
    """Captures that could be opened."""
    records: int
    """Records of all captures."""
    metered: int
    """Packets that belong to flows."""
    dropped: dict[str, int]
    """Records without a packet, by reason."""
    rejects: int
    """Rows of `rejects.parquet`."""
    flows: int
    """Metered flows and flows of published files."""
    flows_short: int
    """Flows dropped because they have fewer packets than the definition's `min_packets`."""
    flows_unlabelled: int
    """Flows dropped because they have no label of any task, so that Rainbow has no stripe for them."""
    packet_rows: int = 0
    """Metered packets in the packets view; `packets_dropped` counts the others by reason."""
    packets_dropped: dict[str, int] = {}
    """Metered packets that are not in the packets view, by reason."""
    rows_duplicate: int = 0
    """Rows dropped by `deduplicate`: an earlier row has the same sizes and directions."""
    flows_joined: int = 0
    """Flows that occur in several source datasets, counted for each source but the first."""
    flows_absent: int = 0
    """Flows that the source datasets or steps of a user's own dropped, or that have no stripe in the Rainbow layout."""
    flows_ended_early: int = 0
    """Flows that ended for lack of resources, at the definition's `max_open_flows` (end reason 5)."""
    clock_jumps: int = 0
    """Records whose time the records behind them contradict, so that it does not count for the clock."""
    steps_back: int = 0
    """Records more than the idle timeout earlier than the record in front of them."""


class Timeline(pydantic.BaseModel):
    """Gaps and overlaps between the captures of one group, in seconds."""

    model_config = _STRICT

    group: str
    """Content-based name of the group."""
    captures: int
    """Captures of the group with records."""
    seconds: float
    """Time from the first record to the last."""
    gaps: int
    """Number of captures that begin more than `GAP_THRESHOLD_S` after the end of the previous one."""
    largest_gap_s: float
    """Longest time between two captures without a record."""
    overlaps: int
    """Number of captures that begin before the end of the previous one."""
    largest_overlap_s: float
    """Longest time that a capture begins before the end of the previous ones."""


GAP_THRESHOLD_S = 1.0
"""Shortest time between two captures of a group that counts as a gap."""


class SplitRule(pydantic.BaseModel):
    """Rule by which rows were assigned to splits, with its reason."""

    model_config = _STRICT

    by: Literal["capture", "host_pair", "time", "flow", "packet", "inputs"]
    """Unit of the assignment. `inputs`: rows keep the splits of their source datasets, whose rules differ."""
    reason: str
    """Reason for the unit, with the classes that do not reach every split."""
    seed: int
    """Seed of all choices."""
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
    """Number of flows."""
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
    """Path of the entry, relative to the manifest."""
    published: str
    """Format of the entry."""
    view: View
    """View of its rows."""
    sha256: str
    """SHA-256 over the sorted SHA-256 digests of the entry's files."""
    groups: int
    """Number of files with rows, including members of archives."""
    rows: int
    """Rows in the dataset."""
    set_aside: dict[str, int]
    """Rejected rows and files by reason; `rejects.parquet` lists them."""
    repeated: int = 0
    """Rows of a table whose features equal those of an earlier row."""


class TaskOverlap(pydantic.BaseModel):
    """Dependence between the labels of two tasks in one split."""

    model_config = _STRICT

    tasks: tuple[str, str]
    """Names of the two tasks."""
    split: str
    """Name of the split."""
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
    """Name of the task."""
    rows: int
    """Rows with a label of the task."""
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
    """Name of the task."""
    source: str
    """Name of the source: a glob, or the path of a table or file."""
    kind: Literal["path", "table", "packets", "dpi", "published", "dataset"] = "path"
    """Kind of the source."""
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
    """Glob of the entry."""
    groups: int
    """Number of capture groups."""
    flows: int
    """Flows of these groups."""


class Finding(pydantic.BaseModel):
    """Fault of a dataset that its counts show; `schemas/dataset/dataset_findings.py` finds them.

    An `error` makes the dataset unusable for its tasks: it was built because the user insisted (`--allow-empty`).
    """

    model_config = _STRICT

    kind: FindingKind
    """Kind of the fault."""
    severity: Literal["error", "warning"]
    """`error` or `warning`."""
    task: str | None = None
    """Task that it concerns; null for all."""
    split: str | None = None
    """Split that it concerns; null for all."""
    text: str
    """A sentence with a correction."""


class SourceDataset(pydantic.BaseModel):
    """Source dataset of a dataset that `flowloom weave` made."""

    model_config = _STRICT

    name: str
    """Name of the dataset."""
    content_hash: str
    """Its content hash."""
    layout: Literal["aurora", "rainbow"]
    """Its layout."""
    missing: Literal["unknown", "negative"]
    """Its meaning of an absent label."""
