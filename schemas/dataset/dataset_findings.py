"""Findings: faults of a dataset that the counts of its card show, as sentences with corrections."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Finding, SplitCounts
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress

MOST_SHARED = 0.5
"""Share of the host pairs of the test split that may also be in train without a warning."""
_SHOWN = 8


def find_problems(card: DatasetCard) -> tuple[Finding, ...]:
    """Returns the faults of a dataset, errors first: empty splits and classes, missing and conflicting labels, leakage.

    Example:
      >>> [finding.text for finding in find_problems(read_card("DATASET"))]  # doctest: +SKIP
      ["task 'app': no flow has the label ssh; ..."]
    """
    found = [
        *_empty_splits(card),
        *(finding for task in card.tasks for finding in _task_problems(card, task)),
        *_unlabelled_captures(card),
        *_conflicts(card),
        *_unmatched_rows(card),
        *_shared_hosts(card),
        *_times_not_in_order(card),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def report_problems(card: DatasetCard, progress: Callable[[Progress], None]) -> None:
    """Reports each fault of a dataset as a warning that stays, and the rows of each label table without one."""
    for finding in find_problems(card):
        progress(Progress(f"warning: {finding.text}", stays=True, event="warning"))
    for table in card.label_tables:
        if not table.fault:
            progress(Progress(table.counted, stays=True))


def require_usable(card: DatasetCard, insist: str = "add --allow-empty") -> None:
    """Checks that a dataset has rows in every split and flows of every class.

    Args:
      insist: how the dataset is built anyway.

    Raises:
      FlowloomError: with all faults that make it unusable.
    """
    errors = [finding.text for finding in find_problems(card) if finding.severity == "error"]
    if errors:
        raise FlowloomError(f"{'; '.join(errors)}; to build the dataset anyway, {insist}")


def disorder_sentences(clock_jumps: int, steps_back: int, idle_s: float) -> list[str]:
    """Returns what is wrong with the times of records, as sentences with corrections.

    Args:
      clock_jumps, steps_back: counts of the captures table.
      idle_s: the idle timeout.
    """
    found = []
    if steps_back:
        found.append(
            f"{_records(steps_back)} more than {idle_s:g} s earlier than the one in front: the captures are not in "
            "order of time, so that flows may be cut or joined wrongly; sort them, as reordercap of Wireshark does"
        )
    if clock_jumps:
        found.append(
            f"{_records(clock_jumps)} far later than all that follow, so that it ends no flow by its time; "
            "check the clock of the capturing device"
        )
    return found


def _records(count: int) -> str:
    return "1 record is" if count == 1 else f"{count:,} records are"


def _times_not_in_order(card: DatasetCard) -> Iterator[Finding]:
    account = card.accounting
    for text in disorder_sentences(account.clock_jumps, account.steps_back, card.definition.idle_s):
        yield Finding(kind="times-not-in-order", severity="warning", text=text)


def _views(card: DatasetCard) -> dict[str, dict[str, SplitCounts]]:
    """Returns the counts of the splits that should have rows, by view."""
    wanted = {split for split, share in zip(SPLITS, card.split_rule.shares, strict=True) if share > 0}
    views = {card.views[0]: card.splits, **card.view_splits}
    return {
        view: {split: counts for split, counts in splits.items() if split in wanted} for view, splits in views.items()
    }


def _empty_splits(card: DatasetCard) -> Iterator[Finding]:
    rule = card.split_rule
    for view, splits in _views(card).items():
        of_view = f" of the view {view}" if card.view_splits else ""
        rows = sum(counts.rows for counts in splits.values())
        for split, counts in splits.items():
            if not counts.rows:
                text = (
                    f"the {split} split has no row{of_view}, although its share is "
                    f"{rule.shares[SPLITS.index(split)]:g} (by: {rule.by}, {_rows(rows)} in all); add captures, or "
                    "choose other splits: by, seed or shares"
                )
                yield Finding(kind="empty-split", severity="error", split=split, text=text)


def _task_problems(card: DatasetCard, task: Task) -> Iterator[Finding]:
    views = _views(card)
    totals = {
        label: sum(
            counts.classes.get(task.name, {}).get(label, 0) for splits in views.values() for counts in splits.values()
        )
        for label in task.vocabulary
    }
    place = f"task {task.name!r}:"
    if not any(totals.values()):
        text = f"{place} no flow has a label{_of_sources(card, task)}"
        yield Finding(kind="unlabelled-task", severity="error", task=task.name, text=text)
        return
    empty = [label for label, rows in totals.items() if not rows]
    if empty:
        severity: Literal["warning", "error"] = "warning" if task.kind == "auto" else "error"
        mend = (
            "choose other dividers"
            if task.kind == "auto"
            else "correct the glob or the label source of the class, or remove it from the vocabulary"
        )
        text = f"{place} no flow has the label {_named(empty)}; {mend}"
        yield Finding(kind="empty-class", severity=severity, task=task.name, text=text)
    for splits in views.values():
        lacking: dict[str, list[str]] = {}
        for label in task.vocabulary:
            if any(counts.classes.get(task.name, {}).get(label, 0) for counts in splits.values()):
                for split, counts in splits.items():
                    if counts.rows and not counts.classes.get(task.name, {}).get(label, 0):
                        lacking.setdefault(split, []).append(f"{label} ({_rows(totals[label])} in all)")
        for split, labels in lacking.items():
            text = (
                f"{place} the {split} split has no row of {_named(labels)}; add captures of "
                f"{'it' if len(labels) == 1 else 'them'}, or choose other splits"
            )
            yield Finding(kind="class-not-in-split", severity="warning", task=task.name, split=split, text=text)


def _of_sources(card: DatasetCard, task: Task) -> str:
    """Returns the reason why a task has no labels, and a correction."""
    sources = [entry for entry in card.coverage if entry.task == task.name]
    if task.kind == "auto":
        return "; choose other dividers"
    if not sources:
        return "; no entry of captures labels it: add labels, label_from or a label table"
    counts = ", ".join(
        f"{entry.source} labels {entry.labelled:,} of {_flows(entry.flows)}" for entry in sources[:_SHOWN]
    )
    mend = "correct the entry"
    if any(entry.kind in ("table", "packets") for entry in sources):
        mend = (
            "check its addresses and its clock: clock_offset_s and time_zone say how the table's times differ from the "
            "captures'"
        )
    return f" ({counts}); {mend}"


def _unlabelled_captures(card: DatasetCard) -> Iterator[Finding]:
    if card.unlabelled:
        flows, groups = (sum(getattr(entry, name) for entry in card.unlabelled) for name in ("flows", "groups"))
        sources = _named(entry.source for entry in card.unlabelled)
        text = (
            f"{sources}: {_flows(flows)} of {groups:,} capture groups have no label of any task; give "
            "the entry labels or label_from, write missing: negative, or remove it"
        )
        yield Finding(kind="unlabelled-captures", severity="warning", text=text)


def _conflicts(card: DatasetCard) -> Iterator[Finding]:
    for task in card.tasks:
        entries = [entry for entry in card.coverage if entry.task == task.name and entry.conflicts]
        if entries:
            rule = card.on_conflict.get(task.name, "first")
            kept = "lose their label" if rule == "unknown" else "keep the first label"
            text = (
                f"task {task.name!r}: {_named(entry.source for entry in entries)} "
                f"{'labels' if len(entries) == 1 else 'label'} {_flows(sum(entry.conflicts for entry in entries))} "
                f"otherwise than an earlier source, and they {kept} (on_conflict: {rule}); correct the entries that "
                "match the same capture"
            )
            yield Finding(kind="conflicting-labels", severity="warning", task=task.name, text=text)


def _unmatched_rows(card: DatasetCard) -> Iterator[Finding]:
    for table in card.label_tables:
        if table.fault:
            yield Finding(kind="unmatched-rows", severity="warning", task=table.task, text=table.fault)


def _shared_hosts(card: DatasetCard) -> Iterator[Finding]:
    pairs = card.leakage.host_pairs if card.leakage else None
    distinct = pairs.distinct.get("test", 0) if pairs else 0
    shared = pairs.distinct_in_train.get("test", 0) if pairs else 0
    if shared > MOST_SHARED * distinct:
        text = (
            f"{100 * shared / distinct:.0f} % of the {distinct:,} host pairs of the test split are also in train, so a "
            "model can score well by memorising hosts; to measure what it learns of others, write splits: "
            "{by: host_pair}"
        )
        yield Finding(kind="shared-hosts", severity="warning", split="test", text=text)


def _named(labels: Iterable[str]) -> str:
    shown = list(labels)
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _flows(count: int) -> str:
    return f"{count:,} flow{'' if count == 1 else 's'}"
