"""Cards of woven datasets: what the cards of several datasets say of their captures and labels, put together."""

import collections
import dataclasses
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import (
    CAPTURES_TABLE,
    REJECTS_TABLE,
    Accounting,
    DatasetCard,
    LabelCoverage,
    PublishedAccount,
    SourceDataset,
    SplitCounts,
    SplitRule,
)
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.capture_tables import corpus_digest, count_captures, timelines
from flowloom.transforms.dataset.card_counts import count_overlap, count_splits, normalisation
from flowloom.transforms.dataset.shards import ShelvedShard, WrittenShard, shards_hash, unshelve
from flowloom.transforms.dataset.write_card import store_card
from flowloom.transforms.io.verdict import fail
from flowloom.transforms.labels.join_labels import Counts
from flowloom.transforms.weave.unite_rows import JoinCounts
from flowloom.transforms.weave.weave_plans import Missing, OnConflict, WeavePlan

_ADDED = ("flows", "flows_short", "flows_joined", "rows_duplicate")
_UNLIKE = {
    "split": "{rows:,} flows are in one split here and in another there, first {first}; build the datasets with the "
    "same splits, for example by: flow",
    "packets": "{rows:,} flows of equal ids have other packets here than there, first {first}; build the datasets with "
    "the same version",
}


@dataclasses.dataclass
class WovenFindings:
    """What all workers hand over."""

    counts: JoinCounts
    shards: list[WrittenShard] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)


def gather_woven(handed_over: Iterable[JoinCounts | ShelvedShard | str], plan: WeavePlan) -> WovenFindings:
    """Put together what workers hand over, in any order; texts are faults."""
    findings = WovenFindings(JoinCounts.none(plan))
    for found in handed_over:
        match found:
            case JoinCounts():
                findings.counts += found
            case ShelvedShard():
                findings.shards.append(unshelve(found))
            case _:
                findings.faults.append(found)
    return findings


def unite_captures(
    cards: Sequence[DatasetCard], tables: Sequence[tuple[pa.Table, pa.Table]]
) -> tuple[pa.Table, pa.Table]:
    """Return the captures and rejects of all datasets, each once, in order of their uris.

    A capture of the same bytes in the same group is the same one, whatever its uri. A uri that means something else in
    an earlier dataset gets the beginning of its dataset's content hash in front.
    """
    captures: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    known: set[tuple[str, str]] = set()
    taken: set[str] = set()
    for card, (own, set_aside) in zip(cards, tables, strict=True):
        again = {row["uri"] for row in own.to_pylist() if (row["sha256"], row["group"]) in known}
        said = [row for row in set_aside.to_pylist() if row["uri"] not in again and row not in rejects]
        news = [row for row in own.to_pylist() if row["uri"] not in again]
        for row in (*news, *said):
            if row["uri"] in taken:
                row["uri"] = f"{card.content_hash[:8]}:{row['uri']}"
        known |= {(row["sha256"], row["group"]) for row in news}
        taken |= {row["uri"] for row in (*news, *said)}
        captures += news
        rejects += said
    order = [(name, "ascending") for name in REJECTS.names]
    return (
        pa.Table.from_batches([batch(captures, CAPTURES)]).sort_by("uri"),
        pa.Table.from_batches([batch(rejects, REJECTS)]).sort_by(order),
    )


def unite_accounting(
    cards: Sequence[DatasetCard], captures: pa.Table, rejects: pa.Table, plan: WeavePlan, counts: JoinCounts
) -> Accounting:
    """Add up where records and flows went; `flows - flows_short - flows_joined - flows_absent` are in the shards."""
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
        flows_unlabelled=counts.unlabelled + (earlier if stripes else 0),
        rows_duplicate=total["rows_duplicate"],
        flows_joined=total["flows_joined"] + found - counts.united,
        flows_absent=before + (counts.unlabelled if stripes else 0),
    )


def unite_coverage(cards: Sequence[DatasetCard], plan: WeavePlan, counts: JoinCounts) -> tuple[LabelCoverage, ...]:
    """Return what the sources of all datasets knew, and of several what each dataset did as a source of labels."""
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


def unite_rules(cards: Sequence[DatasetCard], splits: dict[str, SplitCounts]) -> SplitRule:
    """Return the rule that divides the rows of all datasets, or say that each has its own.

    Rules by flow and by time tell a row's split from the row alone, so equal ones are one rule. Equal rules by capture
    or host pair still place these by the classes of their dataset.
    """
    first = cards[0].split_rule
    alike = all(card.split_rule.model_copy(update={"reason": first.reason}) == first for card in cards)
    if len(cards) == 1 or (alike and first.by in ("flow", "time")):
        return first
    said = "; ".join(dict.fromkeys(f"{card.name}: by {card.split_rule.by}" for card in cards))
    rows = [splits[split].rows for split in SPLITS]
    train, validation, test = (count / sum(rows) for count in rows)
    seeds = {card.split_rule.seed for card in cards}
    return SplitRule(
        by="inputs",
        reason=f"each row as in its dataset: {said}",
        seed=seeds.pop() if len(seeds) == 1 else 0,
        shares=(train, validation, test),
    )


def find_woven_faults(findings: WovenFindings, coverage: Iterable[LabelCoverage], plan: WeavePlan) -> list[str]:
    """Return a sentence for everything that keeps datasets from becoming one."""
    if findings.faults:
        return sorted(findings.faults)[:1]
    unlike = findings.counts.unlike
    faults = [_UNLIKE[what].format(rows=unlike[what][0], first=unlike[what][1]) for what in _UNLIKE if what in unlike]
    if plan.rules.on_conflict == "error":
        disputed = [entry for entry in coverage if entry.kind == "dataset" and entry.conflicts]
        faults += [
            f"labels of task {entry.task!r} must agree (on_conflict: error), but {entry.source!r} has other ones of "
            f"{entry.conflicts:,} flows than the datasets before it; mend them, or say --on-conflict first or unknown"
            for entry in disputed
        ]
    if not findings.shards:
        faults.append(
            f"no row is left for layout {plan.rules.layout}: {findings.counts.united:,} flows, "
            f"{findings.counts.unlabelled:,} of them without a label"
        )
    return faults


def write_woven_card(
    findings: WovenFindings, plan: WeavePlan, folders: Sequence[Path], cards: Sequence[DatasetCard], staging: str
) -> str:
    """Write everything beside the shards of a woven dataset, the card last; or what is wrong, and no card.

    Returns:
      The path of the file that was written last.
    """
    coverage = unite_coverage(cards, plan, findings.counts)
    faults = find_woven_faults(findings, coverage, plan)
    if faults:
        return fail(staging, faults)
    tables = [
        (pq.ParquetFile(folder / CAPTURES_TABLE).read(), pq.ParquetFile(folder / REJECTS_TABLE).read())
        for folder in folders
    ]
    captures, rejects = unite_captures(cards, tables)
    shards = sorted(findings.shards, key=lambda shard: shard.shard.path)
    splits = count_splits(shards, plan.tasks, "flows")
    published: list[PublishedAccount] = []
    for entry in (entry for card in cards for entry in card.published):
        if entry not in published:
            published.append(entry)
    first = cards[0]
    card = DatasetCard(
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
        deduplicate=first.deduplicate if _keeps_duplicates_out(cards, plan) else "none",
        split_rule=unite_rules(cards, splits),
        splits=splits,
        coverage=coverage,
        timelines=timelines(captures),
        accounting=unite_accounting(cards, captures, rejects, plan, findings.counts),
        published=tuple(published),
        normalisation=normalisation(shards),
        overlap=count_overlap(shards, "flows"),
        shards=tuple(shard.shard for shard in shards),
        sources=tuple(
            SourceDataset(name=card.name, content_hash=card.content_hash, layout=card.layout, missing=card.missing)
            for card in cards
        ),
    )
    return store_card(card, captures, rejects, staging)


def _missing(cards: Sequence[DatasetCard], plan: WeavePlan) -> Missing:
    """Return `negative` where absent labels were filled, now or before; the stripes of a build have none to fill."""
    filled = [card.missing for card in cards if card.layout == "aurora" or card.sources]
    return "negative" if "negative" in (plan.rules.missing, *filled) else "unknown"


def _on_conflict(cards: Sequence[DatasetCard], plan: WeavePlan) -> dict[str, OnConflict]:
    """Return the rule of each task that several datasets have, and what the one dataset says of the others."""
    rules: dict[str, OnConflict] = {}
    for task in plan.tasks:
        owners = [card for card in cards if any(own.name == task.name for own in card.tasks)]
        if len(owners) > 1:
            rules[task.name] = plan.rules.on_conflict
        elif task.name in owners[0].on_conflict:
            rules[task.name] = owners[0].on_conflict[task.name]
    return rules


def _keeps_duplicates_out(cards: Sequence[DatasetCard], plan: WeavePlan) -> bool:
    """Whether rows without duplicates stay so: those of one dataset, unless stripes come together."""
    return len(cards) == 1 and (cards[0].layout == "aurora" or plan.rules.layout == "rainbow")
