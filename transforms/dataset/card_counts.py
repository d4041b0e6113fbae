"""Counts of a dataset card: accounting, coverage, and the rows and statistics of all shards, merged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.manifest import CorpusManifest
from flowloom.schemas.corpus.published_sources import PublishedSource
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import (
    Accounting,
    ByteRule,
    ChannelStatistics,
    LabelCoverage,
    SplitCounts,
    TaskOverlap,
    UnlabelledCaptures,
)
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.build_results import BuildResults
from flowloom.transforms.dataset.capture_tables import count_captures
from flowloom.transforms.dataset.shards import WrittenShard
from flowloom.transforms.labels.join_labels import Counts, SourceKey
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.labels.window_sources import Kind, source_kind
from flowloom.transforms.splits.byte_rules import byte_rule
from flowloom.transforms.splits.task_overlap import task_overlap


def count_accounting(captures: pa.Table, rejects: pa.Table, findings: BuildResults) -> Accounting:
    """Returns the account of all records and flows of a build."""
    short = sum(group.flows_short for group in findings.accounts)
    return Accounting(
        **count_captures(captures, rejects),
        flows=sum(group.flows for group in findings.accounts) + short + findings.published_rows("flows"),
        flows_short=short,
        flows_ended_early=sum(group.ended_early for group in findings.accounts),
        flows_unlabelled=findings.unlabelled,
        packet_rows=findings.packet_rows,
        packets_dropped={
            reason.label: int(findings.packets_dropped[reason])
            for reason in PacketDrop
            if findings.packets_dropped[reason]
        },
        rows_duplicate=findings.duplicates,
    )


def with_absent(accounting: Accounting, read: int) -> Accounting:
    """Returns an account in which metered flows that were not laid out are absent, and added flows count too.

    Args:
      read: number of flows that were laid out.
    """
    kept = accounting.flows - accounting.flows_short
    changed = {"flows": max(accounting.flows, read + accounting.flows_short), "flows_absent": max(kept - read, 0)}
    return accounting.model_copy(update=changed)


def count_coverage(
    labels: Iterable[GroupLabels],
    flows: Mapping[str, int],
    manifest: CorpusManifest,
    sources: Mapping[SourceKey, Counts] | None = None,
) -> tuple[LabelCoverage, ...]:
    """Returns the labelled flows of each task and label source, by entry of the manifest.

    Args:
      labels: labels of capture groups, whose claims hold for all flows of the group.
      flows: number of flows of each group.
      sources: counts of the sources that label single flows.
    """
    kinds: dict[SourceKey, Kind | Literal["path", "published"]] = {}
    for entry in manifest.captures:
        kinds |= {(task, entry.name): "path" for task in sorted(entry.labels)}
        kinds |= {(spec.task, spec.name): source_kind(spec) for spec in entry.window_specs}
        if isinstance(entry, PublishedSource):
            labelled_tasks = (task.name for task in manifest.claimed_tasks if entry.label_kind(task.name))
            kinds |= {(task, entry.source_name(task)): "published" for task in labelled_tasks}
    counted = {key: (sources or {}).get(key, Counts()) for key in kinds}
    for label in labels:
        rows = flows.get(label.group, 0)
        for claim in label.claims:
            counted[claim.task, claim.source] += Counts(rows, rows, 0 if claim.upheld else rows)
    return tuple(
        LabelCoverage(task=task, source=source, kind=kinds[task, source], **vars(counts))
        for (task, source), counts in counted.items()
    )


def count_unlabelled_captures(
    labels: Iterable[GroupLabels], flows: Mapping[str, int]
) -> tuple[UnlabelledCaptures, ...]:
    """Returns the capture groups and flows of each entry of the manifest that no source labels.

    Args:
      labels: labels of capture groups.
      flows: number of flows of each group.
    """
    counts: dict[str, tuple[int, int]] = {}
    for label in labels:
        if not label.claims and not label.sources and label.entries and flows.get(label.group):
            groups, known = counts.get(label.entries[0], (0, 0))
            counts[label.entries[0]] = groups + 1, known + flows[label.group]
    return tuple(
        UnlabelledCaptures(source=source, groups=groups, flows=known) for source, (groups, known) in counts.items()
    )


def count_splits(shards: Sequence[WrittenShard], tasks: Sequence[Task], view: View) -> dict[str, SplitCounts]:
    """Returns the rows and label values of all shards of a view, by split."""
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
    """Returns the statistics of each channel over the train split; channels without values are absent."""
    merged = sum_by_key(shard.moments for shard in shards)
    found = {name: moments.statistics() for name, moments in merged.items() if moments.count}
    return {name: ChannelStatistics(**vars(statistics)) for name, statistics in found.items()}


def count_overlap(shards: Iterable[WrittenShard], view: View) -> tuple[TaskOverlap, ...]:
    """Returns the overlap of the labels of each pair of tasks over the rows of a view, by split."""
    of_view = [shard for shard in shards if shard.shard.view == view]
    found = []
    for split in SPLITS:
        merged = sum_by_key(shard.pairs for shard in of_view if shard.shard.split == split)
        found += [task_overlap(pair, split, counts) for pair, counts in merged.items()]
    return tuple(found)


def find_byte_rules(shards: Iterable[WrittenShard]) -> tuple[ByteRule, ...]:
    """Returns the best rule of one byte for each task, over the train split."""
    rules = (byte_rule(task, counts) for task, counts in sum_by_key(shard.leaks for shard in shards).items())
    return tuple(rule for rule in rules if rule is not None)
