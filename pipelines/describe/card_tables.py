"""`flowloom describe`: a dataset's card as tables for people."""

import datetime as dt
import os

import pyarrow.parquet as pq
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from flowloom.schemas.dataset.dataset_card import REJECTS_TABLE, DatasetCard, Leakage, SplitCounts, read_card
from flowloom.transforms.splits.leakage import measure_leakage

_SHOWN_REJECTS = 10
_SHOWN_BYTES = 12


def describe(dataset: str | os.PathLike[str], console: Console | None = None, *, leakage: bool = False) -> DatasetCard:
    """Print a dataset's card and return it; without a console nothing is printed.

    Args:
      leakage: whether to measure leakage on the shards, where the card does not have it.

    Raises:
      FlowloomError: if there is no finished dataset.
    """
    card = read_card(dataset)
    if leakage and card.leakage is None:
        card = card.model_copy(update={"leakage": measure_leakage(dataset)})
    if console:
        rejects = pq.read_table(os.path.join(dataset, REJECTS_TABLE)).to_pylist()
        console.print(card_tables(card, rejects))
    return card


def card_tables(card: DatasetCard, rejects: list[dict[str, object]]) -> Group:
    """Return a card and the rows of its rejects table as tables."""
    blank: list[RenderableType] = [_heading(card), _classes(card, card.views[0], card.splits)]
    blank += [_classes(card, view, splits) for view, splits in card.view_splits.items()]
    blank += [_coverage(card), _accounting(card)]
    blank += [_published(card)] if card.published else []
    blank += [_overlap(card)] if card.overlap else []
    blank += [_byte_rules(card)] if card.byte_rules else []
    rest = (_rejects(rejects), _shards(card), _channels(card))
    leakage = [_leakage(card.leakage), _conflicts(card.leakage)] if card.leakage else []
    return Group(*blank, *([_timelines(card)] if card.timelines else []), *leakage, *rest)


def _table(title: str, *columns: str, numbers: int = 0) -> Table:
    """Return an empty table whose last `numbers` columns are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at >= len(columns) - numbers else "left", overflow="fold")
    return table


def _heading(card: DatasetCard) -> Table:
    rule = card.split_rule
    shares = " / ".join(f"{share:g}" for share in rule.shares)
    table = _table(f"Dataset {card.name}", "", "")
    table.show_header = False
    table.add_row("content hash", card.content_hash)
    addresses = f"{card.identity} (key {card.key_id})" if card.key_id else card.identity
    table.add_row("layout", f"{card.layout}, absent labels {card.missing}, addresses {addresses}")
    table.add_row("flow definition", _definition(card))
    table.add_row("split", f"by {rule.by} ({rule.reason}), shares {shares}, seed {rule.seed}")
    if rule.cuts_ns:
        times = [dt.datetime.fromtimestamp(cut / 1e9, dt.UTC) for cut in rule.cuts_ns]
        table.add_row("cut at", ", ".join(time.isoformat(" ", "seconds") for time in times))
    for source in card.sources:
        table.add_row("woven from", f"{source.name}, {source.layout}, content hash {source.content_hash}")
    table.add_row("written by", f"flowloom {card.tool_version}, format {card.format_version}")
    return table


def _definition(card: DatasetCard) -> str:
    fields = card.definition.model_dump(exclude={"preset"})
    return f"{card.definition.preset}: " + ", ".join(f"{name} {value}" for name, value in fields.items())


def _classes(card: DatasetCard, view: str, splits: dict[str, SplitCounts]) -> Table:
    title = "Tasks" if card.views == ("flows",) else f"Tasks, rows of {view}"
    table = _table(title, "task", "kind", "class", *splits, numbers=len(splits))
    for task in card.tasks:
        for at, word in enumerate(task.vocabulary):
            counts = [f"{split.classes[task.name][word]:,}" for split in splits.values()]
            table.add_row(task.name if at == 0 else "", task.kind if at == 0 else "", word, *counts)
        unknown = [f"{split.unknown[task.name]:,}" for split in splits.values()]
        table.add_row("", "", "unknown", *unknown, style="dim", end_section=True)
    table.add_row("rows", "", "", *(f"{split.rows:,}" for split in splits.values()), style="bold")
    return table


def _coverage(card: DatasetCard) -> Table:
    rare = [
        name for name in ("ambiguous", "defaulted", "unknown_words") if any(getattr(e, name) for e in card.coverage)
    ]
    counts = ["flows", "labelled", "conflicts", *rare]
    sure = ["by confidence"] if any(entry.confidence for entry in card.coverage) else []
    columns = [name.replace("_words", "") for name in counts] + sure
    table = _table("Label sources", "task", "source", *columns, numbers=len(columns))
    for entry in card.coverage:
        confidence = ", ".join(f"{level}: {flows:,}" for level, flows in sorted(entry.confidence.items(), reverse=True))
        told = [confidence] if sure else []
        table.add_row(entry.task, entry.source, *(f"{getattr(entry, name):,}" for name in counts), *told)
    return table


def _accounting(card: DatasetCard) -> Table:
    account = card.accounting
    table = _table("Accounting", "what", "count", numbers=1)
    table.add_row("captures", f"{account.captures:,}")
    table.add_row("records", f"{account.records:,}")
    table.add_row("  metered", f"{account.metered:,}")
    for reason, count in account.dropped.items():
        table.add_row(f"  dropped: {reason}", f"{count:,}")
    table.add_row("flows", f"{account.flows:,}")
    table.add_row("  too short", f"{account.flows_short:,}")
    table.add_row("  without a label", f"{account.flows_unlabelled:,}")
    if "packets" in card.views:
        table.add_row("packets that are rows", f"{account.packet_rows:,}")
        for reason, count in account.packets_dropped.items():
            table.add_row(f"  no row: {reason}", f"{count:,}")
    table.add_row("rows left out as duplicates", f"{account.rows_duplicate:,}")
    if card.sources:
        table.add_row("flows of several sources, joined", f"{account.flows_joined:,}")
        table.add_row("flows absent from the sources or the stripes", f"{account.flows_absent:,}")
    table.add_row("rejects", f"{account.rejects:,}")
    return table


def _published(card: DatasetCard) -> Table:
    table = _table("Published files", "path", "format", "view", "files", "rows", "equal", "set aside", numbers=4)
    for entry in card.published:
        aside = ", ".join(f"{count:,} {reason}" for reason, count in entry.set_aside.items()) or "0"
        equal = f"{entry.repeated:,}" if entry.view == "tables" else ""
        table.add_row(entry.path, entry.published, entry.view, f"{entry.groups:,}", f"{entry.rows:,}", equal, aside)
    return table


def _overlap(card: DatasetCard) -> Table:
    columns = ("split", "tasks", "Cramér's V", "first told by second", "by its commonest", "rows")
    table = _table("Overlap of tasks: what the label of one says of another", *columns, numbers=4)
    for each in card.overlap:
        rows = sum(map(sum, each.counts))
        strength = "" if each.cramers_v is None else f"{each.cramers_v:.3f}"
        shares = ("" if share is None else f"{share:.1%}" for share in (each.determined, each.commonest))
        table.add_row(each.split, " and ".join(each.tasks), strength, *shares, f"{rows:,}")
    return table


def _byte_rules(card: DatasetCard) -> Table:
    columns = ("task", "byte", "tells", "by the commonest", "bytes that tell it nearly alone")
    table = _table("What a single byte tells of a label (train split)", *columns)
    for rule in card.byte_rules:
        leaking = ", ".join(map(str, rule.leaking[:_SHOWN_BYTES]))
        more = len(rule.leaking) - _SHOWN_BYTES
        leaking += f" and {more} more" if more > 0 else ""
        style = "bold red" if rule.leaking else None
        warning = f"warning: {leaking}" if leaking else "none"
        table.add_row(rule.task, str(rule.position), f"{rule.right:.1%}", f"{rule.commonest:.1%}", warning, style=style)
    return table


def _timelines(card: DatasetCard) -> Table:
    columns = ("group", "captures", "seconds", "gaps", "largest, s", "overlaps", "largest, s")
    table = _table("Groups of captures", *columns, numbers=6)
    for line in card.timelines:
        gaps = (f"{line.gaps:,}", f"{line.largest_gap_s:,.3f}")
        overlaps = (f"{line.overlaps:,}", f"{line.largest_overlap_s:,.3f}")
        table.add_row(line.group, f"{line.captures:,}", f"{line.seconds:,.1f}", *gaps, *overlaps)
    return table


def _leakage(leakage: Leakage) -> Table:
    columns = ("equal", "split", "kinds", "in train", "flows", "repeated", "in train")
    table = _table("Leakage", *columns, numbers=5)
    kinds = {
        "sizes, directions": leakage.sequences,
        "with gaps": leakage.timed_sequences,
        "host pairs": leakage.host_pairs,
        "hosts, 2 a flow": leakage.hosts,
    }
    for kind, overlap in kinds.items():
        if overlap is None:
            continue
        for at, (split, flows) in enumerate(overlap.flows.items()):
            in_train = overlap.distinct_in_train.get(split)
            again = overlap.flows_in_train.get(split)
            table.add_row(
                kind if at == 0 else "",
                split,
                f"{overlap.distinct[split]:,}",
                "" if in_train is None else f"{in_train:,}",
                f"{flows:,}",
                _share(overlap.flows_repeated[split], flows),
                "" if again is None else _share(again, flows),
                end_section=at == len(overlap.flows) - 1,
            )
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"


def _conflicts(leakage: Leakage) -> Table:
    table = _table("Label conflicts", "task", "flows of equal sizes and directions", numbers=1)
    for task, flows in leakage.conflicts.items():
        table.add_row(task, f"{flows:,}")
    return table


def _rejects(rejects: list[dict[str, object]]) -> Table:
    more = len(rejects) - _SHOWN_REJECTS
    title = "Rejects" + (f" (first {_SHOWN_REJECTS}; {more} more in {REJECTS_TABLE})" if more > 0 else "")
    table = _table(title, "file", "place", "reason", "detail")
    for row in rejects[:_SHOWN_REJECTS]:
        table.add_row(*(str(row[name]) for name in ("uri", "offset", "reason", "detail")))
    return table


def _shards(card: DatasetCard) -> Table:
    table = _table("Shards", "view", "stripe", "split", "files", "row groups", "rows", numbers=3)
    for view, stripe, split in sorted({(s.view, s.task or "all tasks", s.split) for s in card.shards}):
        shards = [s for s in card.shards if (s.view, s.task or "all tasks", s.split) == (view, stripe, split)]
        groups, rows = sum(len(s.row_groups) for s in shards), sum(s.rows for s in shards)
        table.add_row(view, stripe, split, f"{len(shards):,}", f"{groups:,}", f"{rows:,}")
    return table


def _channels(card: DatasetCard) -> Table:
    table = _table("Channels (train split)", "column", "packets", "mean", "std", "min", "max", numbers=5)
    for name, channel in card.normalisation.items():
        moments = (channel.mean, channel.std, channel.minimum, channel.maximum)
        table.add_row(name, f"{channel.count:,}", *(f"{value:,.4g}" for value in moments))
    return table
