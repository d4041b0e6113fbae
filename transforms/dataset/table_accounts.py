"""Accounts of label tables for the card: rows by the flows that they match, and causes of those without one."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.dataset.label_table_account import LabelTableAccount, UnmatchedCause
from flowloom.transforms.labels.join_labels import Counts, FlowSource, SourceKey
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.windows.table_rows import count_table, summary_file


def count_label_tables(
    labels: Iterable[GroupLabels],
    hits: Mapping[str, Sequence[str]],
    counts: Mapping[SourceKey, Counts],
    captures: pa.Table,
) -> tuple[LabelTableAccount, ...]:
    """Returns the account of each label table and task, in the order of the manifest.

    A table of several entries is counted once if all its keys are equal there, else for each of them, with the flows of
    all.

    Args:
      labels: labels of capture groups.
      hits: paths of the hits on the rows of each table, by the path of its index.
      counts: counts of flows by task and name of the table.
      captures: `CAPTURES`, for the times that captures have.
    """
    tables: dict[str, FlowSource] = {}
    groups: dict[str, set[str]] = {}
    for label in labels:
        for source in label.sources:
            if source.kind == "table":
                tables.setdefault(source.windows, source)
                groups.setdefault(source.windows, set()).add(label.group)
    spans = {path: _spans(captures, of_table) for path, of_table in groups.items()}
    return tuple(
        _account(source, hits.get(path, ()), counts.get((source.task, source.name), Counts()), spans[path])
        for path, source in tables.items()
    )


def _spans(captures: pa.Table, groups: set[str]) -> np.ndarray:
    """Returns the first and last time of each capture of some groups, int64 [captures, 2]."""
    rows = captures.select(["group", "first_ns", "last_ns"]).to_pylist()
    known = [
        (row["first_ns"], row["last_ns"]) for row in rows if row["group"] in groups and row["first_ns"] is not None
    ]
    return np.array(known, np.int64).reshape(-1, 2)


def _account(source: FlowSource, hits: Sequence[str], flows: Counts, spans_ns: np.ndarray) -> LabelTableAccount:
    with open(summary_file(source.windows), encoding="utf-8") as file:
        summary = json.load(file)
    counts, causes = count_table(source.windows, hits, spans_ns, source.tolerance_ns)
    return LabelTableAccount(
        task=source.task,
        source=source.name,
        rows=summary["rows"],
        unreadable=sum(count for count, *_ in summary["unreadable"].values()),
        **vars(counts),
        flows=flows.flows,
        flows_without_row=flows.unmatched,
        causes=tuple(
            UnmatchedCause(
                kind=cause.kind, rows=cause.rows, of=cause.of,
                clock_offset_s=source.clock_offset_s + cause.offset_s if cause.kind == "clock" else None,
            )
            for cause in causes
        ),
        twelve_hour_from=summary["twelve_hour_from"],
    )  # fmt: skip
