"""Card of a merged dataset, from the cards of its inputs and the counts of its shards."""

import collections
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.card_parts import (
    Accounting,
    LabelCoverage,
    PublishedAccount,
    SourceDataset,
    SplitCounts,
    SplitRule,
)
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard
from flowloom.schemas.dataset.stored_files import table_file
from flowloom.schemas.parquet_files import read_table
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.capture_tables import (
    capture_identity,
    corpus_digest,
    count_captures,
    current_captures,
    timelines,
)
from flowloom.transforms.dataset.card_counts import count_overlap, count_splits, normalisation
from flowloom.transforms.dataset.shards import SpilledShard, WrittenShard, read_digests, shards_hash
from flowloom.transforms.dataset.write_card import store_card
from flowloom.transforms.io.verdict import fail
from flowloom.transforms.labels.join_labels import Counts
from flowloom.transforms.weave.merge_rows import MergeCounts
from flowloom.transforms.weave.weave_plans import Missing, OnConflict, WeavePlan

_ADDED = ("flows", "flows_short", "flows_joined", "flows_ended_early", "rows_duplicate")
_CONTRADICTIONS = {
    "split": "flows must have the same split in all datasets, got {rows:,} with different ones, first {first}; build "
    "the datasets with the same splits, for example by: flow",
    "packets": "flows with equal ids must have the same packets in all datasets, got {rows:,} with different ones, "
    "first {first}; build the datasets with the same version",
}


def merge_captures(
    cards: Sequence[DatasetCard], tables: Sequence[tuple[pa.Table, pa.Table]]
) -> tuple[pa.Table, pa.Table]:
    """Returns the captures and rejects of all datasets, each once, in order of their uris.

    Captures with equal bytes in one group are one capture, whatever their uris. If an earlier dataset uses a uri for
    another capture, the uri gets the first digits of the content hash as a prefix.
    """
    captures: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    known: set[tuple[str, str]] = set()
    taken: set[str] = set()
    for card, (own, rejected) in zip(cards, tables, strict=True):
        again = {row["uri"] for row in own.to_pylist() if (capture_identity(row), row["group"]) in known}
        new_rejects = [row for row in rejected.to_pylist() if row["uri"] not in again and row not in rejects]
        new = [row for row in own.to_pylist() if row["uri"] not in again]
        for row in (*new, *new_rejects):
            if row["uri"] in taken:
                row["uri"] = f"{card.content_hash[:8]}:{row['uri']}"
        known |= {(capture_identity(row), row["group"]) for row in new}
        taken |= {row["uri"] for row in (*new, *new_rejects)}
        captures += new
        rejects += new_rejects
    order = [(name, "ascending") for name in REJECTS.names]
    return (
        pa.Table.from_batches([batch(captures, CAPTURES)]).sort_by("uri"),
        pa.Table.from_batches([batch(rejects, REJECTS)]).sort_by(order),
    )


def merge_accounting(
    cards: Sequence[DatasetCard], captures: pa.Table, rejects: pa.Table, plan: WeavePlan, counts: MergeCounts
) -> Accounting:
    """Returns the account of all inputs; the shards hold `flows - flows_short - flows_joined - flows_absent` flows."""
    total = collections.Counter[str]()
    for card in cards:
        total.update({name: getattr(card.accounting, name) for name in _ADDED})
    stripes = plan.rules.layout == "rainbow"
    earlier = sum(card.accounting.flows_unlabelled for card in cards if card.layout == "rainbow")
    found = int(counts.flows.sum())
    before = total["flows"] - total["flows_short"] - total["flows_joined"] - found
    return Accounting(
        **count_captures(captures, rejects),
        flows=total["flows"],
        flows_short=total["flows_short"],
        flows_ended_early=total["flows_ended_early"],
        flows_unlabelled=counts.unlabelled + (earlier if stripes else 0),
        rows_duplicate=total["rows_duplicate"],
        flows_joined=total["flows_joined"] + found - counts.merged,
        flows_absent=before + (counts.unlabelled if stripes else 0),
    )


def merge_coverage(cards: Sequence[DatasetCard], plan: WeavePlan, counts: MergeCounts) -> tuple[LabelCoverage, ...]:
    """Returns the coverage of the label sources of all datasets; each of several datasets also counts as a source."""
    found: dict[tuple[str, str, str], Counts] = {}
    for entry in (entry for card in cards for entry in card.coverage):
        counted = Counts(**entry.model_dump(exclude={"task", "source", "kind"}))
        found = sum_by_key([found, {(entry.task, entry.source, entry.kind): counted}])
    if len(cards) > 1:
        for at, task in enumerate(plan.tasks):
            for number, (name, card) in enumerate(zip(plan.datasets, cards, strict=True)):
                if any(own.name == task.name for own in card.tasks):
                    found[task.name, name, "dataset"] = Counts(
                        flows=int(counts.flows[number]),
                        labelled=int(counts.labelled[number, at]),
                        conflicts=int(counts.conflicts[number, at]),
                    )
    return tuple(
        LabelCoverage.model_validate({"task": task, "source": source, "kind": kind, **vars(counted)})
        for (task, source, kind), counted in found.items()
    )


def merge_split_rules(cards: Sequence[DatasetCard], splits: dict[str, SplitCounts]) -> SplitRule:
    """Returns the split rule of all datasets, or the rule `inputs` if each has its own.

    Rules by flow and by time depend on the row alone, so equal rules give equal splits. Rules by capture or host pair
    also depend on the classes of their dataset.
    """
    first = cards[0].split_rule
    alike = all(card.split_rule.model_copy(update={"reason": first.reason}) == first for card in cards)
    if len(cards) == 1 or (alike and first.by in ("flow", "time")):
        return first
    rules = "; ".join(dict.fromkeys(f"{card.name}: by {card.split_rule.by}" for card in cards))
    rows = [splits[split].rows for split in SPLITS]
    train, validation, test = (count / sum(rows) for count in rows)
    seeds = {card.split_rule.seed for card in cards}
    return SplitRule(
        by="inputs",
        reason=f"each row as in its dataset: {rules}",
        seed=seeds.pop() if len(seeds) == 1 else 0,
        shares=(train, validation, test),
    )


def find_merge_faults(
    counts: MergeCounts, shards: Sequence[WrittenShard], coverage: Iterable[LabelCoverage], plan: WeavePlan
) -> list[str]:
    """Returns a sentence for each contradiction between datasets that keeps them from being merged."""
    faults = [
        sentence.format(rows=counts.contradictions[what][0], first=counts.contradictions[what][1])
        for what, sentence in _CONTRADICTIONS.items()
        if what in counts.contradictions
    ]
    if plan.rules.on_conflict == "error":
        disputed = [entry for entry in coverage if entry.kind == "dataset" and entry.conflicts]
        faults += [
            f"labels of task {entry.task!r} must agree (on_conflict: error), got {entry.conflicts:,} flows of "
            f"{entry.source!r} with another label than in an earlier dataset; use --on-conflict first or unknown"
            for entry in disputed
        ]
    if not shards:
        faults.append(
            f"the merged dataset must have rows, got none for layout {plan.rules.layout}: {counts.merged:,} flows, "
            f"{counts.unlabelled:,} without a label; merge datasets with labels"
        )
    return faults


def write_merged_card(
    shards: Iterable[SpilledShard],
    counts: Iterable[MergeCounts],
    faults: Iterable[str],
    plan: WeavePlan,
    datasets: Sequence[tuple[Path, DatasetCard]],
    staging: str,
) -> str:
    """Writes all files beside the shards of a merged dataset, the card last; or the faults, and no card.

    Args:
      shards: the new shards, in any order.
      counts: counts of all shards.
      faults: sentences about unreadable shards.
      datasets: folders and cards of the inputs, in order of precedence.
      staging: the folder with the shards.

    Returns:
      The path of the file that was written last.
    """
    cards = [card for _, card in datasets]
    counted = sum(counts, MergeCounts.none(plan))
    written = sorted(map(read_digests, shards), key=lambda shard: shard.shard.path)
    coverage = merge_coverage(cards, plan, counted)
    found = sorted(faults)[:1] or find_merge_faults(counted, written, coverage, plan)
    if found:
        return fail(staging, found)
    tables = [
        (
            current_captures(read_table(table_file(folder, card, CAPTURES_TABLE))),
            read_table(table_file(folder, card, REJECTS_TABLE)),
        )
        for folder, card in datasets
    ]
    captures, rejects = merge_captures(cards, tables)
    accounting = merge_accounting(cards, captures, rejects, plan, counted)
    return store_card(
        assemble_merged_card(written, cards, plan, captures, accounting, coverage), captures, rejects, staging
    )


def assemble_merged_card(
    shards: Sequence[WrittenShard],
    cards: Sequence[DatasetCard],
    plan: WeavePlan,
    captures: pa.Table,
    accounting: Accounting,
    coverage: tuple[LabelCoverage, ...],
) -> DatasetCard:
    """Returns the card of a merged dataset without faults."""
    splits = count_splits(shards, plan.tasks, "flows")
    published: list[PublishedAccount] = []
    for entry in (entry for card in cards for entry in card.published):
        if entry not in published:
            published.append(entry)
    first = cards[0]
    return DatasetCard(
        flow_ids=max(card.flow_ids for card in cards),
        flow_columns=cards[0].flow_columns,
        tool_version=importlib.metadata.version("flowloom"),
        name=plan.rules.name or "+".join(dict.fromkeys(card.name for card in cards)),
        content_hash=shards_hash(shards, plan.tasks),
        corpus_digest=corpus_digest(captures, published),
        definition=first.definition,
        views=first.views,
        tasks=plan.tasks,
        layout=plan.rules.layout,
        missing=_missing(cards, plan),
        on_conflict=_on_conflict(cards, plan),
        identity=first.identity,
        key_id=first.key_id,
        deduplicate=first.deduplicate if _stays_deduplicated(cards, plan) else "none",
        split_rule=merge_split_rules(cards, splits),
        splits=splits,
        coverage=coverage,
        timelines=timelines(captures),
        accounting=accounting,
        published=tuple(published),
        label_tables=tuple(dict.fromkeys(entry for card in cards for entry in card.label_tables)),
        normalisation=normalisation(shards),
        overlap=count_overlap(shards, "flows"),
        shards=tuple(shard.shard for shard in shards),
        sources=tuple(
            SourceDataset(name=card.name, content_hash=card.content_hash, layout=card.layout, missing=card.missing)
            for card in cards
        ),
    )


def _missing(cards: Sequence[DatasetCard], plan: WeavePlan) -> Missing:
    """Returns `negative` if this merge or an earlier one filled absent labels; stripes of a build have none to fill."""
    filled = [card.missing for card in cards if card.layout == "aurora" or card.sources]
    return "negative" if "negative" in (plan.rules.missing, *filled) else "unknown"


def _on_conflict(cards: Sequence[DatasetCard], plan: WeavePlan) -> dict[str, OnConflict]:
    """Returns the conflict rule of each task; a task in only one dataset keeps the rule of that dataset."""
    rules: dict[str, OnConflict] = {}
    for task in plan.tasks:
        owners = [card for card in cards if any(own.name == task.name for own in card.tasks)]
        if len(owners) > 1:
            rules[task.name] = plan.rules.on_conflict
        elif task.name in owners[0].on_conflict:
            rules[task.name] = owners[0].on_conflict[task.name]
    return rules


def _stays_deduplicated(cards: Sequence[DatasetCard], plan: WeavePlan) -> bool:
    """Returns whether the merge adds no duplicates: it has one dataset, and its stripes are not merged."""
    return len(cards) == 1 and (cards[0].layout == "aurora" or plan.rules.layout == "rainbow")
