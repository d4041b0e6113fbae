"""Tables of captures and rejects, from the accounts of all workers."""

import collections
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, REJECTS, DropReason, RejectReason
from flowloom.schemas.dataset.card_parts import GAP_THRESHOLD_S, PublishedAccount, Timeline
from flowloom.transforms.arrays.columns import batch, column, text_column
from flowloom.transforms.captures.groups import relative_uri
from flowloom.transforms.metering.accounts import GroupAccount, sum_captures


def captures_table(
    accounts: Iterable[GroupAccount], sha256: Mapping[str, str], rejects: pa.Table, folder: str
) -> pa.Table:
    """Returns all captures in order of their uris, which are relative to the manifest's folder.

    Args:
      sha256: the SHA-256 of captures by uri, where it was asked for.
      rejects: all rejects, from `rejects_table`.
    """
    rows = sum_captures(accounts)
    rejected = collections.Counter(rejects["uri"].to_pylist())
    for row in rows:
        row["sha256"] = sha256.get(row["uri"])
        row["rejects"] = rejected[relative_uri(row["uri"], folder)]
    table = pa.Table.from_batches([batch(rows, CAPTURES)])
    return _relative(table, folder).sort_by("uri")


_LATER_COUNTS = ("metered_cut", DropReason.ICMP_ERROR.column, *CLOCK_COLUMNS)
"""Columns that the captures table of version 0.2 or older lacks."""


def current_captures(table: pa.Table) -> pa.Table:
    """Returns a captures table with the columns of `CAPTURES`.

    One of version 0.1 has no `digest`, and one of version 0.2 none of the counts that came later.
    """
    names = table.schema.names
    if "sha256" not in names:
        return table
    none = column(np.zeros(table.num_rows, np.uint64), pa.uint64())
    missing = {"digest": text_column([""] * table.num_rows), **dict.fromkeys(_LATER_COUNTS, none)}
    columns = [table[name] if name in names else missing[name] for name in CAPTURES.names]
    return pa.Table.from_arrays(columns, CAPTURES.names).cast(CAPTURES)


def capture_identity(row: Mapping[str, Any]) -> str:
    """Returns the digest of a capture from its row: SHA-256 for version 0.1."""
    return row["digest"] or row["sha256"] or ""


def rejects_table(accounts: Iterable[GroupAccount], rejects: Iterable[pa.RecordBatch], folder: str) -> pa.Table:
    """Returns all rejects in order of uri, offset and reason; a capture that changed is one reject."""
    table = pa.Table.from_batches([*(account.rejects for account in accounts), *rejects], REJECTS)
    ordered = _relative(table, folder).sort_by([(name, "ascending") for name in REJECTS.names])
    changed: set[str] = set()
    kept = []
    for uri, reason in zip(ordered["uri"].to_pylist(), ordered["reason"].to_pylist(), strict=True):
        kept.append(reason != RejectReason.CHANGED or uri not in changed)
        if reason == RejectReason.CHANGED:
            changed.add(uri)
    return ordered.filter(pa.array(kept, pa.bool_()))


def timelines(captures: pa.Table) -> tuple[Timeline, ...]:
    """Returns the gaps and overlaps between captures, for each group with several captures."""
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


def count_captures(captures: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """Returns the fields of an `Accounting` that follow from the tables of captures and rejects."""
    dropped = {reason.label: _sum(captures[reason.column]) for reason in DropReason}
    return {
        "captures": captures.num_rows,
        "records": _sum(captures["records"]),
        "metered": _sum(captures["metered"]),
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "rejects": rejects.num_rows,
        **{name: _sum(captures[name]) for name in CLOCK_COLUMNS},
    }


def corpus_digest(captures: pa.Table, published: Iterable[PublishedAccount] = ()) -> str:
    """Returns the SHA-256 over the sorted digests of all captures and published entries."""
    known = map(capture_identity, captures.select(["digest", "sha256"]).to_pylist())
    digests = sorted([*known, *(entry.sha256 for entry in published)])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _relative(table: pa.Table, folder: str) -> pa.Table:
    uris = text_column([relative_uri(uri, folder) for uri in table["uri"].to_pylist()])
    return table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), uris)


def _sum(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0
