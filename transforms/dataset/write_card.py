"""The card: what all workers counted, put together and written once."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.published_sources import PublishedSource
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import (
    CAPTURES_TABLE,
    CARD,
    REJECTS_TABLE,
    Accounting,
    ByteRule,
    ChannelStatistics,
    DatasetCard,
    LabelCoverage,
    SplitCounts,
    TaskOverlap,
)
from flowloom.schemas.dataset.tensorflow_metadata import tensorflow_schema
from flowloom.schemas.dataset.views import StoredViews, schema_file
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.build_results import BuildResults
from flowloom.transforms.dataset.capture_tables import (
    captures_table,
    corpus_digest,
    count_captures,
    rejects_table,
    timelines,
)
from flowloom.transforms.dataset.consistency_checks import find_conflicts, find_faults
from flowloom.transforms.dataset.layouts import FLOWS_ALONE
from flowloom.transforms.dataset.shards import WrittenShard, shards_hash
from flowloom.transforms.io.parquet import write_table
from flowloom.transforms.io.staging import write_text
from flowloom.transforms.io.verdict import fail
from flowloom.transforms.labels.join_labels import Counts, SourceKey
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.labels.window_sources import Kind, source_kind
from flowloom.transforms.splits.byte_rules import byte_rule
from flowloom.transforms.splits.leakage import leakage_of
from flowloom.transforms.splits.task_overlap import task_overlap


def write_card(
    findings: BuildResults,
    manifest: CorpusManifest,
    folder: str,
    staging: str,
    key_id: str | None = None,
    stored: StoredViews = FLOWS_ALONE,
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
        return fail(staging, faults)
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


def account(captures: pa.Table, rejects: pa.Table, findings: BuildResults) -> Accounting:
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
