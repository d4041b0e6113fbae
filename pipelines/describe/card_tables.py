"""`flowloom describe`: a dataset card as tables for people."""

import datetime as dt
import os

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from flowloom.schemas.dataset.card_parts import Leakage, SplitCounts
from flowloom.schemas.dataset.dataset_card import REJECTS_TABLE, DatasetCard, read_card
from flowloom.schemas.dataset.dataset_findings import find_problems
from flowloom.schemas.dataset.stored_files import table_file
from flowloom.schemas.parquet_files import read_table
from flowloom.transforms.splits.leakage import measure_leakage

_SHOWN_REJECTS = 10
_SHOWN_BYTES = 12
_HASH_DIGITS = 12

NANOSECONDS = "_ns"
"""End of the names of columns in nanoseconds, which people read in seconds."""


def describe(dataset: str | os.PathLike[str], console: Console | None = None, *, leakage: bool = False) -> DatasetCard:
    """Returns a dataset's card, and prints it if a console is given.

    Args:
      leakage: whether to measure leakage on the shards if the card does not contain it.

    Raises:
      FlowloomError: if there is no finished dataset.
    """
    card = read_card(dataset)
    if leakage and card.leakage is None:
        card = card.model_copy(update={"leakage": measure_leakage(dataset)})
    if console:
        rejects = read_table(table_file(dataset, card, REJECTS_TABLE)).to_pylist()
        console.print(card_tables(card, rejects))
    return card


def card_tables(card: DatasetCard, rejects: list[dict[str, object]]) -> Group:
    """Returns a card and the rows of its rejects table as tables."""
    tables: list[RenderableType] = [_heading(card), *_findings(card), _classes(card, card.views[0], card.splits)]
    tables += [_classes(card, view, splits) for view, splits in card.view_splits.items()]
    tables += [_coverage(card), *([_label_tables(card)] if card.label_tables else []), _accounting(card)]
    tables += [_published(card)] if card.published else []
    tables += [_overlap(card)] if any(any(map(any, each.counts)) for each in card.overlap) else []
    tables += [_byte_rules(card)] if card.byte_rules else []
    tables += [_timelines(card)] if card.timelines else []
    tables += [_leakage(card.leakage), _conflicts(card.leakage)] if card.leakage else []
    return Group(*tables, _rejects(rejects), _shards(card), _channels(card))


def _table(title: str, *columns: str, numbers: int = 0) -> Table:
    """Returns an empty table whose last `numbers` columns are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at >= len(columns) - numbers else "left", overflow="fold")
    return table


def _heading(card: DatasetCard) -> Table:
    rule = card.split_rule
    shares = " / ".join(f"{share:g}" for share in rule.shares)
    table = _table(f"Dataset {card.name}", "", "")
    table.show_header = False
    table.add_row("content hash", card.content_hash[:_HASH_DIGITS])
    addresses = f"{card.identity} (key {card.key_id})" if card.key_id else card.identity
    table.add_row("layout", f"{card.layout}; absent labels: {card.missing}; addresses: {addresses}")
    table.add_row("flow definition", _definition(card))
    table.add_row("split", f"by {rule.by} ({rule.reason}), shares {shares}, seed {rule.seed}")
    if rule.cuts_ns:
        times = [dt.datetime.fromtimestamp(cut / 1e9, dt.UTC) for cut in rule.cuts_ns]
        table.add_row("split at", ", ".join(time.isoformat(" ", "seconds") for time in times))
    for source in card.sources:
        digest = source.content_hash[:_HASH_DIGITS]
        table.add_row("merged from", f"{source.name}, {source.layout}, content hash {digest}")
    table.add_row("written by", f"flowloom {card.tool_version}, format {card.format_version}")
    return table


def _findings(card: DatasetCard) -> list[Table]:
    """Returns the table of the faults of a dataset; none if it has none."""
    found = find_problems(card)
    if not found:
        return []
    table = _table("Before you train on this dataset", "", "")
    table.show_header = False
    for finding in found:
        style = "bold red" if finding.severity == "error" else "yellow"
        table.add_row(finding.severity, finding.text, style=style)
    return [table]


def _definition(card: DatasetCard) -> str:
    fields = card.definition.model_dump(exclude={"preset"})
    return f"{card.definition.preset}: " + ", ".join(f"{name} {setting(value)}" for name, value in fields.items())


def setting(value: object) -> str:
    """Returns a field of a flow definition as text for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def column_title(column: str) -> str:
    """Returns the name of a column with the unit in which its values are shown."""
    return f"{column.removesuffix(NANOSECONDS)}, s" if column.endswith(NANOSECONDS) else column


def shown_value(value: float, column: str) -> float:
    """Returns a value of a column in the unit in which it is shown: seconds for nanoseconds."""
    return value / 1e9 if column.endswith(NANOSECONDS) else value


def _classes(card: DatasetCard, view: str, splits: dict[str, SplitCounts]) -> Table:
    title = "Tasks" if card.views == ("flows",) else f"Tasks, rows of {view}"
    table = _table(title, "task", "kind", "class", *splits, numbers=len(splits))
    for task in card.tasks:
        for at, label in enumerate(task.vocabulary):
            counts = [f"{split.classes[task.name][label]:,}" for split in splits.values()]
            table.add_row(task.name if at == 0 else "", task.kind if at == 0 else "", label, *counts)
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
    columns = [name.replace("_words", " values") for name in counts] + sure
    table = _table("Label sources", "task", "source", *columns, numbers=len(columns))
    for entry in card.coverage:
        confidence = ", ".join(f"{level}: {flows:,}" for level, flows in sorted(entry.confidence.items(), reverse=True))
        levels = [confidence] if sure else []
        table.add_row(entry.task, entry.source, *(f"{getattr(entry, name):,}" for name in counts), *levels)
    return table


def _label_tables(card: DatasetCard) -> Table:
    counts = ("rows", "matched", "several", "unmatched", "outside", "unreadable", "flows_without_row")
    columns = [name.replace("_", " ") for name in counts]
    table = _table("Rows of label tables", "task", "source", *columns, numbers=len(columns))
    for entry in card.label_tables:
        table.add_row(entry.task, entry.source, *(f"{getattr(entry, name):,}" for name in counts))
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
    if account.flows_ended_early:
        table.add_row("  ended early, at max_open_flows", f"{account.flows_ended_early:,}")
    if "packets" in card.views:
        table.add_row("packets with a row", f"{account.packet_rows:,}")
        for reason, count in account.packets_dropped.items():
            table.add_row(f"  dropped: {reason}", f"{count:,}")
    table.add_row("duplicate rows removed", f"{account.rows_duplicate:,}")
    if card.sources:
        table.add_row("flows joined from several datasets", f"{account.flows_joined:,}")
        table.add_row("flows absent from a dataset or stripe", f"{account.flows_absent:,}")
    table.add_row("rejects", f"{account.rejects:,}")
    return table


def _published(card: DatasetCard) -> Table:
    table = _table("Published files", "path", "format", "view", "files", "rows", "equal", "rejected", numbers=4)
    for entry in card.published:
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in entry.set_aside.items()) or "0"
        equal = f"{entry.repeated:,}" if entry.view == "tables" else ""
        table.add_row(entry.path, entry.published, entry.view, f"{entry.groups:,}", f"{entry.rows:,}", equal, rejected)
    return table


def _overlap(card: DatasetCard) -> Table:
    columns = ("split", "tasks", "Cramér's V", "first given second", "most frequent", "rows")
    table = _table("Overlap of tasks: how well one label predicts another", *columns, numbers=4)
    for each in card.overlap:
        rows = sum(map(sum, each.counts))
        if not rows:
            continue
        strength = "" if each.cramers_v is None else f"{each.cramers_v:.3f}"
        shares = ("" if share is None else f"{share:.1%}" for share in (each.determined, each.commonest))
        table.add_row(each.split, " and ".join(each.tasks), strength, *shares, f"{rows:,}")
    return table


def _byte_rules(card: DatasetCard) -> Table:
    columns = ("task", "best byte", "accuracy", "most frequent", "bytes that nearly decide the label")
    table = _table("Byte rules: how well a single byte predicts a label (train split)", *columns)
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
    columns = ("equal", "split", "distinct", "in train", "flows", "repeated", "in train")
    table = _table("Leakage", *columns, numbers=5)
    kinds = {
        "sizes, directions": leakage.sequences,
        "the same with gaps": leakage.timed_sequences,
        "host pairs": leakage.host_pairs,
        "hosts, 2 per flow": leakage.hosts,
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
    table = _table("Label conflicts", "task", "flows that equal a flow with another label", numbers=1)
    for task, flows in leakage.conflicts.items():
        table.add_row(task, f"{flows:,}")
    return table


def _rejects(rejects: list[dict[str, object]]) -> Table:
    more = len(rejects) - _SHOWN_REJECTS
    title = "Rejects" + (f" (first {_SHOWN_REJECTS}; {more} more in {REJECTS_TABLE})" if more > 0 else "")
    table = _table(title, "file", "offset", "reason", "detail")
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
        shown = (f"{shown_value(value, name):,.4g}" for value in moments)
        table.add_row(column_title(name), f"{channel.count:,}", *shown)
    return table
