"""The page of a dataset: one HTML file without any other, with which a reader can judge the dataset."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from flowloom.pipelines.describe import drawings
from flowloom.pipelines.describe.card_tables import NANOSECONDS, column_title, setting, shown_value
from flowloom.schemas.atomic_files import write_text
from flowloom.schemas.dataset.card_parts import LabelCoverage, Overlap
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard
from flowloom.schemas.dataset.dataset_findings import find_problems
from flowloom.schemas.dataset.dataset_statistics import REPORT, Contingency, DatasetStatistics, ValueStatistics
from flowloom.schemas.dataset.stored_files import table_file
from flowloom.schemas.folder_lock import locked_output
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.evaluation.leakage_verdict import leakage_verdict
from flowloom.trainers.evaluation.page_units import count, percent
from flowloom.trainers.evaluation.pages import rendered

TEMPLATE = "dataset_page.html.j2"
FEW = 30
"""Below this many rows of a class in a split, its figures are uncertain."""
SHOWN_REJECTS = 50
SHOWN_SOURCES = 12
"""Longer lists of label sources are collapsed below the totals of their tasks."""
SHOWN_ENTRIES, SHOWN_GROUPS = 200, 200
"""Most label sources of a task, and most capture groups, in tables: a corpus of many files has one each."""
SHOWN_LABELS = 50
"""Most labels of a task in a table of label overlap."""

_STRIPS = (
    ("duration_ns", False, "Duration", 1e9, "s"),
    ("packets_fwd", False, "Packets forward", 1, ""),
    ("packets_bwd", False, "Packets backward", 1, ""),
    ("bytes_fwd", False, "Bytes forward", 1, "B"),
    ("bytes_bwd", False, "Bytes backward", 1, "B"),
    ("pkt_size", False, "Size of a packet", 1, "B"),
    ("pkt_gap_ns", False, "Gap before a packet", 1e9, "s"),
    ("pkt_size", True, "Stored packets of a flow", 1, ""),
)
"""Column, whether to use the lengths of its lists, title, divisor, and unit after division."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the account; a line of `level` 1 is part of the line before or subtracted from it."""

    what: str
    count: int
    share: float
    level: int = 0
    note: str = ""


def write_page(
    dataset: str | os.PathLike[str], card: DatasetCard, statistics: DatasetStatistics, out: str | os.PathLike[str]
) -> str:
    """Writes `report.html` into a folder and returns its path.

    Raises:
      FlowloomError: if another process writes into the folder, or Jinja is not installed.
    """
    captures = read_table(table_file(dataset, card, CAPTURES_TABLE), ["group", "first_ns", "last_ns", "uri"])
    rejects = read_table(table_file(dataset, card, REJECTS_TABLE))
    path = os.path.join(out, REPORT)
    with locked_output(out):
        write_text(path, render(card, statistics, captures, rejects))
    return path


def render(card: DatasetCard, statistics: DatasetStatistics, captures: pa.Table, rejects: pa.Table) -> str:
    """Returns the page.

    Args:
      captures: the captures table beside the card; needs the columns group, first_ns, last_ns and uri.
      rejects: the rejects table beside the card.
    """
    return rendered(
        __package__,
        TEMPLATE,
        {
            "number": _number,
            "setting": setting,
            "column_title": column_title,
            "in_unit": _in_unit,
            "frequent_value": _frequent_value,
            # instead of Jinja's map(attribute=...), which reads a dot in the name of a class as a path
            "class_rows": lambda splits, task, label: sum(split.classes[task][label] for split in splits),
            "unknown_rows": lambda splits, task: sum(split.unknown[task] for split in splits),
        },
        card=card,
        statistics=statistics,
        synthetic=_is_synthetic(card),
        rows=sum(split.rows for split in card.splits.values()),
        account=list(_account(card)),
        closes=card.accounting.records == card.accounting.metered + sum(card.accounting.dropped.values()),
        warnings=list(_warnings(card)),
        most={task.name: _largest_class(card, task.name) for task in card.tasks},
        coverage=_coverage(card),
        verdict=leakage_verdict(card, "test") if "test" in card.splits else "",
        shown_sources=SHOWN_SOURCES,
        shown_entries=SHOWN_ENTRIES,
        shown_groups=SHOWN_GROUPS,
        shown_labels=SHOWN_LABELS,
        contingencies=[_heat(table, card) for table in statistics.contingencies],
        profiles=_profiles(card, statistics),
        strips=list(_strips(statistics)),
        leakage=_leakage(card),
        timeline=drawings.draw_timeline(captures),
        rejects=rejects.slice(0, SHOWN_REJECTS).to_pylist(),
        rejects_omitted=max(0, rejects.num_rows - SHOWN_REJECTS),
        sizes=drawings,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"


def _in_unit(value: float, column: str) -> str:
    return _number(shown_value(value, column))


def _frequent_value(value: str, column: str) -> str:
    """Returns a frequent value as text for people: nanoseconds in seconds, ids with 12 digits."""
    return (
        _in_unit(float(value), column) if column.endswith(NANOSECONDS) else value[:12] if column == "group" else value
    )


def _is_synthetic(card: DatasetCard) -> bool:
    """Returns whether the name of the dataset, a task or a class says that the traffic was generated."""
    names = [
        card.name,
        *(task.name for task in card.tasks),
        *(label for task in card.tasks for label in task.vocabulary),
    ]
    return any("synthetic" in name.lower() for name in names)


def _account(card: DatasetCard) -> Iterator[Step]:
    """Yields the steps from records to rows; lines of level 1 lead to the next line of level 0."""
    account = card.accounting
    records, flows = max(account.records, 1), max(account.flows, 1)
    yield Step("records in captures", account.records, 1.0)
    for reason, dropped in account.dropped.items():
        yield Step(f"dropped: {reason}", -dropped, dropped / records, 1)
    yield Step("packets metered", account.metered, account.metered / records)
    yield Step("flows metered", account.flows, 1.0, note=f"{account.metered / flows:,.1f} packets per flow on average")
    yield Step("too short", -account.flows_short, account.flows_short / flows, 1)
    rows = sum(split.rows for split in card.splits.values())
    if card.layout == "rainbow":
        yield Step("without a label of any task", -account.flows_unlabelled, account.flows_unlabelled / flows, 1)
        left = account.flows - account.flows_short - account.flows_unlabelled
        yield Step("flows with a label", left, left / flows)
        again = rows + account.rows_duplicate - left
        yield Step("repeated in the stripe of another task", again, again / flows, 1)
    yield Step("duplicate rows removed", -account.rows_duplicate, account.rows_duplicate / flows, 1)
    unlabelled = f"{account.flows_unlabelled:,} of them without any label" if card.layout == "aurora" else ""
    yield Step("rows", rows, rows / flows, note=unlabelled)


def _warnings(card: DatasetCard) -> Iterator[str]:
    """Yields warnings for readers who want to train on the dataset."""
    yield from (f"{finding.text}." for finding in find_problems(card))
    for task in card.tasks:
        few = [
            f"{label} in {name} ({count})"
            for name, split in card.splits.items()
            for label, count in split.classes[task.name].items()
            if 0 < count < FEW
        ]
        if few:
            yield f"{task.name}: fewer than {FEW} rows of {', '.join(few)}."
        rows = sum(split.rows for split in card.splits.values() if any(split.classes[task.name].values()))
        unknown = sum(split.unknown[task.name] for split in card.splits.values())
        if rows and unknown / rows > 0.5:
            yield f"{task.name}: {percent(unknown, rows)} of the rows have no known label; unknown is not negative."
    if card.leakage is None:
        yield "Leakage was not measured; flowloom describe --statistics --leakage measures it for this page."
    else:
        sequences = card.leakage.sequences
        for split, again in sequences.flows_in_train.items():
            if again > 0.05 * sequences.flows[split]:
                share = percent(again, sequences.flows[split])
                yield f"{share} of the flows of {split} have the same sizes and directions as a flow of train."
    if card.accounting.rejects:
        places = "1 place" if card.accounting.rejects == 1 else f"{card.accounting.rejects:,} places"
        yield f"{places} could not be read; see Rejects."
    gaps = sum(line.gaps for line in card.timelines)
    if gaps:
        yield f"Capture groups have {gaps:,} gaps between their files; a gap cuts the flows that cross it."


def _largest_class(card: DatasetCard, task: str) -> int:
    """Returns the rows of the most frequent class over all splits, at least 1."""
    labels = next(iter(card.splits.values())).classes[task]
    return max(1, *(sum(split.classes[task][label] for split in card.splits.values()) for label in labels))


def _coverage(card: DatasetCard) -> dict[str, list[LabelCoverage]]:
    """Returns the label sources by task, without measured tasks, which have none."""
    sources = {task.name: [entry for entry in card.coverage if entry.task == task.name] for task in card.tasks}
    return {task: entries for task, entries in sources.items() if entries}


def _heat(table: Contingency, card: DatasetCard) -> dict[str, Any]:
    """Returns a contingency table as rows of the macro `heat`, without empty and rare rows and columns."""
    labels = {task.name: (*task.vocabulary, "unknown") for task in card.tasks}
    one, other = table.tasks
    rows, columns = _frequent(map(sum, table.counts)), _frequent(map(sum, zip(*table.counts, strict=True)))
    shown = []
    for row in rows.kept:
        label, counts = labels[one][row], table.counts[row]
        cells = [
            {
                "share": counts[at] / sum(counts),
                "text": count(counts[at]) if counts[at] else "",
                "title": f"{percent(counts[at], sum(counts))} of {label} is {labels[other][at]}" if counts[at] else "",
                "marked": False,
            }
            for at in columns.kept
        ]
        shown.append({"label": label, "cells": cells})
    names = [labels[other][at] for at in columns.kept]
    return {"one": one, "other": other, "columns": names, "rows": shown, "omitted": rows.omitted + columns.omitted}


class _Labels(NamedTuple):
    """Positions of labels in a table, in order, and the number of other labels with rows."""

    kept: list[int]
    omitted: int


def _frequent(totals: Iterable[int]) -> _Labels:
    """Returns the `SHOWN_LABELS` most frequent labels."""
    found = {at: total for at, total in enumerate(totals) if total}
    kept = sorted(sorted(found, key=lambda at: -found[at])[:SHOWN_LABELS])
    return _Labels(kept, len(found) - len(kept))


class _Profiles(NamedTuple):
    """Drawings of the classes of a task, and the number of classes without one."""

    drawn: list[drawings.ProfileDrawing]
    omitted: int


def _profiles(card: DatasetCard, statistics: DatasetStatistics) -> dict[str, _Profiles]:
    """Returns the drawings of each task's most frequent classes, all on the same axes."""
    largest = drawings.profile_scale(statistics.profiles)
    positions = max((len(profile.flows) for profile in statistics.profiles), default=1)
    stems = drawings.MOST_STEMS // max(len(card.tasks), 1)
    most = max(stems // min(positions, drawings.MOST_POSITIONS), 1)
    found = {}
    for task in card.tasks:
        profiles = [profile for profile in statistics.profiles if profile.task == task.name]
        kept = sorted(range(len(profiles)), key=lambda at: -profiles[at].flows[0])[:most]
        drawn = [drawings.draw_profile(profiles[at], largest, positions) for at in sorted(kept)]
        found[task.name] = _Profiles(drawn, len(profiles) - len(drawn))
    return found


def _strips(statistics: DatasetStatistics) -> Iterator[drawings.StripsDrawing]:
    for column, of_lengths, title, scale, unit in _STRIPS:
        splits: dict[str, ValueStatistics] = {}
        for split, columns in statistics.columns.items():
            if column in columns:
                found = columns[column].lengths if of_lengths else columns[column].numbers
                splits |= {split: found} if found else {}
        drawn = drawings.draw_strips(title, splits, scale, unit)
        if drawn:
            yield drawn


def _leakage(card: DatasetCard) -> dict[str, Overlap]:
    """Returns the measured overlaps by what is compared."""
    if card.leakage is None:
        return {}
    kinds = {
        "sizes and directions": card.leakage.sequences,
        "the same with gaps": card.leakage.timed_sequences,
        "host pairs": card.leakage.host_pairs,
        "hosts": card.leakage.hosts,
    }
    return {kind: overlap for kind, overlap in kinds.items() if overlap is not None}
