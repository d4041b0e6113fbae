"""The card: what all workers counted, checked against each other and put together once."""

import collections
import dataclasses
import hashlib
import importlib.metadata
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.accounting import CAPTURES, DROPPED_COLUMNS, REJECTS, DropReason, PacketDrop
from flowloom.schemas.card import (
    CAPTURES_TABLE,
    CARD,
    GAP_THRESHOLD_S,
    REJECTS_TABLE,
    Accounting,
    ByteRule,
    ChannelStatistics,
    DatasetCard,
    LabelCoverage,
    PublishedAccount,
    SplitCounts,
    TaskOverlap,
    Timeline,
)
from flowloom.schemas.manifest import SPLITS, CorpusManifest
from flowloom.schemas.published import PublishedSource
from flowloom.schemas.rows import View
from flowloom.schemas.tasks import Task
from flowloom.schemas.tensorflow_metadata import tensorflow_schema
from flowloom.schemas.views import StoredViews, schema_file
from flowloom.transforms.columns import batch, text_column
from flowloom.transforms.dividers import DividedTasks
from flowloom.transforms.groups import relative_uri
from flowloom.transforms.header_leak import byte_rule
from flowloom.transforms.label_joins import Counts, SourceKey
from flowloom.transforms.label_sources import Kind, source_kind
from flowloom.transforms.labels import GroupLabels, SourceCounts
from flowloom.transforms.layouts import AURORA, LaidOut
from flowloom.transforms.leakage import PartCounts, leakage_of
from flowloom.transforms.metering import CaptureDigest, GroupAccount
from flowloom.transforms.overlap import task_overlap
from flowloom.transforms.packet_bytes import no_drops
from flowloom.transforms.packet_joins import PacketCounts
from flowloom.transforms.parquet import write_table
from flowloom.transforms.published_rows import PublishedFindings
from flowloom.transforms.shards import ShelvedShard, WrittenShard, shards_hash, unshelve
from flowloom.transforms.splits import Division
from flowloom.transforms.staging import write_text
from flowloom.transforms.sums import sum_by_key

FAILURE = "failure.txt"
"""Written in the place of a card when the counts do not agree or there is nothing to put on it."""

_SHOWN_REJECTS = 3
_FLOWS = StoredViews()


@dataclasses.dataclass
class Findings:
    """What was decided before a build's workers started, and everything that they hand over.

    Attributes:
      digests: SHA-256 by uri of those captures whose account has none.
      rejects: reject rows from before and beside metering.
      unlabelled: flows that no task knows a label of.
      rows: rows that went into each stripe of each view and were not dropped as duplicates.
      sources: what each source of labels of single flows said, and those by path beside it.
      tasks: those of the manifest, measured ones with the dividers that were found; None where nothing was.
      fault: why tasks could not be divided.
    """

    labels: Sequence[GroupLabels]
    division: Division
    accounts: list[GroupAccount] = dataclasses.field(default_factory=list)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    rejects: list[pa.RecordBatch] = dataclasses.field(default_factory=list)
    unlabelled: int = 0
    rows: collections.Counter[tuple[View, str]] = dataclasses.field(default_factory=collections.Counter)
    shards: list[WrittenShard] = dataclasses.field(default_factory=list)
    sources: dict[SourceKey, Counts] = dataclasses.field(default_factory=dict)
    duplicates: int = 0
    tasks: tuple[Task, ...] | None = None
    fault: str | None = None
    published: tuple[PublishedAccount, ...] = ()
    packet_rows: int = 0
    packets_dropped: np.ndarray = dataclasses.field(default_factory=no_drops)
    leakage: list[PartCounts] = dataclasses.field(default_factory=list)

    def add_sources(self, said: Mapping[SourceKey, Counts]) -> None:
        """Count more of what sources said."""
        self.sources = sum_by_key([self.sources, said])

    def published_rows(self, view: View) -> int:
        """Return how many rows of a view are out of published files."""
        return sum(entry.rows for entry in self.published if entry.view == view)


def captures_table(accounts: Iterable[GroupAccount], digests: Mapping[str, str], folder: str) -> pa.Table:
    """Return all captures in order of their uri, relative to the manifest's folder."""
    rows: dict[str, dict[str, Any]] = {}
    for row in (row for account in accounts for row in account.captures.to_pylist()):
        row["sha256"] = row["sha256"] or digests.get(row["uri"], "")
        known = rows.setdefault(row["uri"], row)
        if known is not row:
            _add_range(known, row)
    table = pa.Table.from_batches([batch(list(rows.values()), CAPTURES)])
    return _relative(table, folder).sort_by("uri")


def _add_range(capture: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add the account of another range of a capture to its row."""
    for name in ("records", "metered", "rejects", *DROPPED_COLUMNS):
        capture[name] += part[name]
    capture["link_types"] = sorted({*capture["link_types"], *part["link_types"]})
    for name, choose in (("first_ns", min), ("last_ns", max)):
        times = [time for time in (capture[name], part[name]) if time is not None]
        capture[name] = choose(times, default=None)


def rejects_table(accounts: Iterable[GroupAccount], rejects: Iterable[pa.RecordBatch], folder: str) -> pa.Table:
    """Return all rejects in order of uri, offset and reason."""
    table = pa.Table.from_batches([*(account.rejects for account in accounts), *rejects], REJECTS)
    return _relative(table, folder).sort_by([(name, "ascending") for name in REJECTS.names])


def timelines(captures: pa.Table) -> tuple[Timeline, ...]:
    """Return how the captures of each group of more than one follow each other, by group."""
    by_group: dict[str, list[tuple[int, int]]] = {}
    for row in captures.select(["group", "first_ns", "last_ns"]).to_pylist():
        if row["first_ns"] is not None:
            by_group.setdefault(row["group"], []).append((row["first_ns"], row["last_ns"]))
    found = []
    for group, spans in sorted(by_group.items()):
        if len(spans) < 2:
            continue
        spans.sort()
        ends = itertools.accumulate((last for _, last in spans), max)
        silences = [(first - end) / 1e9 for (first, _), end in zip(spans[1:], ends, strict=False)]
        found.append(
            Timeline(
                group=group,
                captures=len(spans),
                seconds=(max(last for _, last in spans) - spans[0][0]) / 1e9,
                gaps=sum(silence > GAP_THRESHOLD_S for silence in silences),
                largest_gap_s=max(0.0, *silences),
                overlaps=sum(silence < 0 for silence in silences),
                largest_overlap_s=max(0.0, *(-silence for silence in silences)),
            )
        )
    return tuple(found)


def count_coverage(
    labels: Iterable[GroupLabels],
    flows: Mapping[str, int],
    manifest: CorpusManifest,
    sources: Mapping[SourceKey, Counts] | None = None,
) -> tuple[LabelCoverage, ...]:
    """Count per task and source what it knew of the flows, by entry of the manifest.

    Args:
      flows: by group, for what holds for all flows of a group.
      sources: what was counted flow by flow.
    """
    kinds: dict[SourceKey, Kind | Literal["path", "published"]] = {}
    for entry in manifest.captures:
        kinds |= {(task, entry.name): "path" for task in sorted(entry.labels)}
        kinds |= {(spec.task, spec.name): source_kind(spec) for spec in entry.window_specs}
        if isinstance(entry, PublishedSource):
            worded = (task.name for task in manifest.claimed_tasks if entry.told(task.name))
            kinds |= {(task, entry.source_name(task)): "published" for task in worded}
    counted = {key: (sources or {}).get(key, Counts()) for key in kinds}
    for label in labels:
        rows = flows.get(label.group, 0)
        for claim in label.claims:
            counted[claim.task, claim.source] += Counts(rows, rows, 0 if claim.upheld else rows)
    return tuple(
        LabelCoverage(task=task, source=source, kind=kinds[task, source], **vars(counts))
        for (task, source), counts in counted.items()
    )


def find_conflicts(coverage: Iterable[LabelCoverage], manifest: CorpusManifest) -> list[str]:
    """Return a sentence for every task that must have no conflicts (`on_conflict: error`) and has some."""
    faults = []
    for task, rule in manifest.on_conflict.items():
        found = [entry for entry in coverage if entry.task == task and entry.conflicts + entry.ambiguous]
        if rule == "error" and found:
            said = "; ".join(
                f"{entry.source}: {entry.conflicts:,} flows against a source before it, {entry.ambiguous:,} in itself"
                for entry in found
            )
            faults.append(
                f"labels of task {task!r} must agree (on_conflict: error), got several words of one flow from {said}; "
                "mend the sources, or write on_conflict: first or unknown"
            )
    return faults


def count_splits(shards: Sequence[WrittenShard], tasks: Sequence[Task], view: View) -> dict[str, SplitCounts]:
    """Add up rows and labels of all shards of a view by split."""
    of_view = [shard for shard in shards if shard.shard.view == view]
    by_split = {split: [shard for shard in of_view if shard.shard.split == split] for split in SPLITS}
    counted = {}
    for split, written in by_split.items():
        classes: dict[str, dict[str, int]] = {}
        unknown: dict[str, int] = {}
        for task in tasks:
            counts = [shard.labels[task.name] for shard in written if task.name in shard.labels]
            *known, null = [sum(column) for column in zip(*counts, strict=True)] or [0] * (len(task.vocabulary) + 1)
            classes[task.name] = dict(zip(task.vocabulary, known, strict=True))
            unknown[task.name] = null
        counted[split] = SplitCounts(rows=sum(shard.shard.rows for shard in written), classes=classes, unknown=unknown)
    return counted


def account(captures: pa.Table, rejects: pa.Table, findings: Findings) -> Accounting:
    """Add up where all records and flows went."""
    short = sum(group.flows_short for group in findings.accounts)
    return Accounting(
        **count_captures(captures, rejects),
        flows=sum(group.flows for group in findings.accounts) + short + findings.published_rows("flows"),
        flows_short=short,
        flows_unlabelled=findings.unlabelled,
        packet_rows=findings.packet_rows,
        packets_dropped={
            reason.label: int(findings.packets_dropped[reason])
            for reason in PacketDrop
            if findings.packets_dropped[reason]
        },
        rows_duplicate=findings.duplicates,
    )


def count_captures(captures: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """Return the counts of an `Accounting` that the tables of captures and rejects tell."""
    dropped = {reason.label: _sum(captures[reason.column]) for reason in DropReason}
    return {
        "captures": captures.num_rows,
        "records": _sum(captures["records"]),
        "metered": _sum(captures["metered"]),
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "rejects": rejects.num_rows,
    }


def normalisation(shards: Iterable[WrittenShard]) -> dict[str, ChannelStatistics]:
    """Return the statistics of each channel over the train split; channels without a value are left out."""
    merged = sum_by_key(shard.moments for shard in shards)
    return {name: moments.statistics() for name, moments in merged.items() if moments.count}


def count_overlap(shards: Iterable[WrittenShard], view: View) -> tuple[TaskOverlap, ...]:
    """Return how far each two tasks have labels in common over the rows of a view, by split."""
    of_view = [shard for shard in shards if shard.shard.view == view]
    found = []
    for split in SPLITS:
        merged = sum_by_key(shard.pairs for shard in of_view if shard.shard.split == split)
        found += [task_overlap(pair, split, counts) for pair, counts in merged.items()]
    return tuple(found)


def find_byte_rules(shards: Iterable[WrittenShard]) -> tuple[ByteRule, ...]:
    """Return by task how much a single byte tells on the train split."""
    rules = (byte_rule(task, counts) for task, counts in sum_by_key(shard.leaks for shard in shards).items())
    return tuple(rule for rule in rules if rule is not None)


def find_faults(
    accounting: Accounting, findings: Findings, captures: pa.Table, rejects: pa.Table, manifest: CorpusManifest
) -> list[str]:
    """Return a sentence for everything that must agree and does not; an empty list is a dataset that closes."""
    if not sum(findings.rows.values()):
        first = rejects.slice(0, _SHOWN_REJECTS).to_pylist()
        more = rejects.num_rows - len(first)
        why = "; ".join(f"{row['uri']}: {row['reason']}, {row['detail']}" for row in first)
        why = f". Rejects: {why}" + (f"; and {more} more" if more else "") if first else ""
        counts = (
            f"{accounting.captures} captures were read with {accounting.records} records, {accounting.metered} of them "
            f"IP packets, {accounting.flows} flows, {accounting.flows_short} too short, "
            f"{accounting.flows_unlabelled} without a label"
        )
        published = "".join(f", {entry.path}: {entry.rows} rows" for entry in findings.published)
        return [f"no flow could be built from corpus {manifest.name!r}: {counts}{published}{why}"]
    faults = [findings.fault] if findings.fault else []
    for row in captures.to_pylist():
        dropped = sum(row[reason.column] for reason in DropReason)
        if row["records"] != row["metered"] + dropped:
            faults.append(
                f"accounting of {row['uri']} does not close: {row['records']} records, but {row['metered']} metered "
                f"and {dropped} dropped"
            )
        if not row["sha256"]:
            faults.append(f"{row['uri']} could be read once but not again for its digest; see that no one moves it")
    written: dict[tuple[View, str], int] = {}
    for shard in findings.shards:
        stripe = shard.shard.view, shard.shard.task or AURORA
        written[stripe] = written.get(stripe, 0) + shard.shard.rows
    laid_out = {stripe: rows for stripe, rows in findings.rows.items() if rows}
    if written != laid_out:
        faults.append(f"shards hold other rows than were laid out: {written} written, {laid_out} laid out")
    left_out = accounting.flows_short + accounting.rows_duplicate
    rows = findings.rows["flows", AURORA]
    if "flows" in manifest.views and manifest.layout == "aurora" and rows != accounting.flows - left_out:
        faults.append(
            f"rows differ from flows: {rows} rows, {accounting.flows} flows metered of which "
            f"{accounting.flows_short} too short and {accounting.rows_duplicate} duplicates"
        )
    packets = accounting.packet_rows + sum(accounting.packets_dropped.values())
    if "packets" in manifest.views and packets != accounting.metered:
        faults.append(
            f"accounting of packets does not close: {accounting.metered} metered, but {accounting.packet_rows} rows "
            f"and {packets - accounting.packet_rows} dropped"
        )
    read = {
        "packets": findings.published_rows("packets") + accounting.packet_rows,
        "tables": findings.published_rows("tables"),
    }
    for view in manifest.views:
        rows = findings.rows.get((view, AURORA), 0)
        if manifest.layout == "aurora" and rows != read.get(view, rows):
            faults.append(f"rows of {view} differ: {rows} rows, {read[view]} read")
    return faults


def write_card(
    findings: Findings,
    manifest: CorpusManifest,
    folder: str,
    staging: str,
    key_id: str | None = None,
    stored: StoredViews = _FLOWS,
) -> str:
    """Write everything beside a dataset's shards, the card last; or what is wrong with them, and no card.

    Args:
      folder: the manifest's folder.
      staging: where the shards are.
      key_id: of the key that identities are concealed with.
      stored: the columns of the views.

    Returns:
      The path of the file that was written last.
    """
    captures = captures_table(findings.accounts, findings.digests, folder)
    rejects = rejects_table(findings.accounts, findings.rejects, folder)
    accounting = account(captures, rejects, findings)
    flows: dict[str, int] = {}
    for part in findings.accounts:
        flows[part.group] = flows.get(part.group, 0) + part.flows
    coverage = count_coverage(findings.labels, flows, manifest, findings.sources)
    faults = find_faults(accounting, findings, captures, rejects, manifest) or find_conflicts(coverage, manifest)
    if faults:
        write_text(f"{staging}/{FAILURE}", "; ".join(faults))
        return f"{staging}/{FAILURE}"
    tasks = findings.tasks or manifest.tasks
    shards = sorted(findings.shards, key=lambda shard: shard.shard.path)
    measured = manifest.leakage == "measure"
    card = DatasetCard(
        tool_version=importlib.metadata.version("flowloom"),
        name=manifest.name,
        content_hash=shards_hash(shards, tasks),
        corpus_digest=corpus_digest(captures, findings.published),
        definition=manifest.definition,
        views=manifest.views,
        packet_bytes=stored.packet_bytes if "packets" in manifest.views else None,
        features=stored.features,
        tasks=tasks,
        layout=manifest.layout,
        missing=manifest.missing,
        deduplicate=manifest.deduplicate,
        on_conflict=manifest.on_conflict,
        identity=manifest.identity,
        key_id=key_id,
        split_rule=findings.division.rule,
        splits=count_splits(shards, tasks, manifest.views[0]),
        view_splits={view: count_splits(shards, tasks, view) for view in manifest.views[1:]},
        coverage=coverage,
        timelines=timelines(captures),
        accounting=accounting,
        published=findings.published,
        normalisation=normalisation(shards),
        overlap=count_overlap(shards, manifest.views[0]),
        byte_rules=find_byte_rules(shards),
        leakage=leakage_of(findings.leakage, [task.name for task in tasks], manifest.identity) if measured else None,
        shards=tuple(shard.shard for shard in shards),
    )
    return store_card(card, captures, rejects, staging)


def store_card(card: DatasetCard, captures: pa.Table, rejects: pa.Table, staging: str) -> str:
    """Write everything beside a dataset's shards, the card last, and return its path."""
    for name, table in ((CAPTURES_TABLE, captures), (REJECTS_TABLE, rejects)):
        write_table(f"{staging}/{name}", table)
    stored = StoredViews.of(card)
    for view in card.views:
        schema = tensorflow_schema(stored.schema(view, card.tasks), card.tasks, card.definition.k)
        write_text(f"{staging}/{schema_file(view)}", schema)
    write_text(f"{staging}/{CARD}", card.model_dump_json(indent=2) + "\n")
    return f"{staging}/{CARD}"


def corpus_digest(captures: pa.Table, published: Iterable[PublishedAccount] = ()) -> str:
    """Return the SHA-256 in hex over the sorted digests of all captures and entries of published files."""
    digests = sorted([*captures["sha256"].to_pylist(), *(entry.sha256 for entry in published)])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _relative(table: pa.Table, folder: str) -> pa.Table:
    uris = text_column([relative_uri(uri, folder) for uri in table["uri"].to_pylist()])
    return table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), uris)


def _sum(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0


Finding: TypeAlias = (
    GroupAccount
    | CaptureDigest
    | SourceCounts
    | Division
    | DividedTasks
    | LaidOut
    | ShelvedShard
    | PacketCounts
    | PublishedFindings
    | PartCounts
    | pa.RecordBatch
)
"""What a worker hands over; a batch is one of reject rows."""


def gather(labels: Sequence[GroupLabels], division: Division, handed_over: Iterable[Finding]) -> Findings:
    """Put together what was decided before the workers started and what they hand over, in any order."""
    findings = Findings(labels, division)
    for found in handed_over:
        match found:
            case GroupAccount():
                findings.accounts.append(found)
            case CaptureDigest():
                findings.digests[found.uri] = found.sha256
            case SourceCounts():
                findings.add_sources(found.said)
            case PacketCounts():
                findings.packet_rows += found.rows
                findings.packets_dropped = findings.packets_dropped + np.array(found.dropped)
            case PublishedFindings():
                findings.published = found.accounts
                findings.add_sources(found.said)
                findings.rejects.append(found.rejects)
            case PartCounts():
                findings.leakage.append(found)
            case Division():
                findings.division = found
            case DividedTasks():
                findings.tasks, findings.fault = found.tasks, found.fault
            case LaidOut():
                findings.rows.update({(found.view, stripe): rows for stripe, rows in found.rows.items()})
                findings.unlabelled += found.unlabelled if found.view == "flows" else 0
                findings.duplicates += found.duplicates
            case ShelvedShard():
                findings.shards.append(unshelve(found))
            case _:
                findings.rejects.append(found)
    return findings


@dataclasses.dataclass
class WriteCard(beam.PTransform):
    """`gather` and `write_card` over the findings of all steps before it."""

    manifest: CorpusManifest
    folder: str
    staging: str
    key_id: str | None
    labels: Sequence[GroupLabels]
    division: Division
    rejects: pa.RecordBatch
    stored: StoredViews = _FLOWS

    def expand(self, findings: Any) -> Any:
        """Return the path of the card from PCollections of `Finding`s."""
        # elements come whatever becomes of the captures, so that a corpus without any gets its message too
        once = findings[0].pipeline | "Once" >> beam.Create([self.rejects])
        return (
            (*findings, once)
            | beam.Flatten()
            | "Together" >> beam.GroupBy(lambda _: 0)
            | "Write"
            >> beam.Map(
                _written, self.labels, self.division, self.manifest, self.folder, self.staging, self.key_id, self.stored
            )
        )


def _written(element: tuple[int, Iterable[Finding]], labels: Any, division: Division, *rest: Any) -> str:
    return write_card(gather(labels, division, element[1]), *rest)
