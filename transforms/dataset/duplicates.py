"""Duplicates: rows with the packet sizes and directions of an earlier row, dropped if the manifest says so."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.manifest import Deduplicate
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.arrays.columns import column, view, view_or
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.dataset.layouts import LaidOut
from flowloom.transforms.dataset.shards import NO_START
from flowloom.transforms.splits.leakage import SEQUENCE

PARTITIONS = 64
"""Number of partitions by sequence, each searched for duplicates alone; about 50 bytes a row."""

_ROW = np.dtype([("sequence", "<u8", 2), ("split", "i1"), ("start", "<i8"), ("flow", "V16")])

StripePart = tuple[str, int]
"""A stripe and one of its `PARTITIONS`."""


def part_rows(stripe: str, rows: pa.RecordBatch) -> Iterator[tuple[StripePart, bytes]]:
    """Yields the records of a batch that are compared to find duplicates, by partition."""
    records = np.empty(rows.num_rows, _ROW)
    records["sequence"] = row_digests(rows.select(SEQUENCE), "")
    records["split"], records["start"] = view(rows[SPLIT_COLUMN]), view_or(rows["start"], NO_START)
    records["flow"] = _ids(rows)
    part = records["sequence"][:, 1] % np.uint64(PARTITIONS)
    for number in np.unique(part).tolist():
        yield (stripe, number), records[part == number].tobytes()


def find_duplicates(stripes: Iterable[tuple[str, pa.RecordBatch]], scope: Deduplicate) -> dict[str, bytes]:
    """Returns the flow ids of all duplicates by stripe, 16 bytes each, ascending.

    Args:
      stripes: stripes and batches with splits, in any order.
      scope: see `find_part_duplicates`.
    """
    parts: dict[StripePart, list[bytes]] = {}
    for stripe, rows in stripes:
        for part, records in part_rows(stripe, rows):
            parts.setdefault(part, []).append(records)
    return merge_duplicates({part[0]: find_part_duplicates(found, scope)} for part, found in parts.items())


def find_part_duplicates(parts: Iterable[bytes], scope: Deduplicate) -> bytes:
    """Returns the flow ids of all rows but the first of each sequence, 16 bytes each, ascending.

    Args:
      parts: all records of one partition.
      scope: `split` keeps the first row of each split, by start and id; `all` keeps one row, from train if it has one,
        else from validation, else from test.
    """
    rows = np.frombuffer(b"".join(parts), _ROW)
    order = np.lexsort((np.argsort(np.argsort(rows["flow"])), rows["start"], rows["split"], *rows["sequence"].T))
    rows = rows[order]
    again = (rows["sequence"][1:] == rows["sequence"][:-1]).all(axis=1)
    if scope == "split":
        again &= rows["split"][1:] == rows["split"][:-1]
    return np.sort(rows["flow"][1:][again]).tobytes()


def merge_duplicates(found: Iterable[Mapping[str, bytes]]) -> dict[str, bytes]:
    """Returns the ids of several partitions by stripe, ascending."""
    by_stripe: dict[str, list[bytes]] = {}
    for part in found:
        for stripe, ids in part.items():
            by_stripe.setdefault(stripe, []).append(ids)
    return {stripe: np.sort(np.frombuffer(b"".join(ids), "V16")).tobytes() for stripe, ids in by_stripe.items()}


def drop_duplicates(
    stripe: str, rows: pa.RecordBatch, duplicates: Mapping[str, bytes]
) -> tuple[pa.RecordBatch, LaidOut]:
    """Returns a batch of a stripe without duplicates, and the counts of the dropped rows.

    Args:
      duplicates: the result of `find_duplicates`.
    """
    ids = _ids(rows)
    dropped = np.frombuffer(duplicates.get(stripe, b""), "V16")
    if not len(dropped):
        return rows, LaidOut({stripe: 0})
    place = np.minimum(np.searchsorted(dropped, ids), len(dropped) - 1)
    kept = rows.take(column(np.flatnonzero(dropped[place] != ids), pa.int64()))
    count = rows.num_rows - kept.num_rows
    return kept, LaidOut({stripe: -count}, duplicates=count)


def _ids(rows: pa.RecordBatch) -> np.ndarray:
    return np.ascontiguousarray(view(rows["flow_id"])).view("V16").ravel()
