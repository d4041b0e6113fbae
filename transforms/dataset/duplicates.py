"""Duplicates: rows whose sizes and directions an earlier row has already, left out where the manifest says so."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.manifest import Deduplicate
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.arrays.columns import column, view, view_or
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.dataset.shards import NO_START
from flowloom.transforms.splits.leakage import SEQUENCE

PARTITIONS = 64
"""Parts by sequence in which duplicates are looked for; about 50 bytes a row."""

_ROW = np.dtype([("sequence", "<u8", 2), ("split", "i1"), ("start", "<i8"), ("flow", "V16")])

StripePart = tuple[str, int]
"""A stripe and one of its `PARTITIONS`."""


def part_rows(stripe: str, rows: pa.RecordBatch) -> Iterator[tuple[StripePart, bytes]]:
    """Yield what tells duplicates of a divided batch, by partition of their sequences."""
    records = np.empty(rows.num_rows, _ROW)
    records["sequence"] = row_digests(rows.select(SEQUENCE), "")
    records["split"], records["start"] = view(rows[SPLIT_COLUMN]), view_or(rows["start"], NO_START)
    records["flow"] = _ids(rows)
    part = records["sequence"][:, 1] % np.uint64(PARTITIONS)
    for number in np.unique(part).tolist():
        yield (stripe, number), records[part == number].tobytes()


def find_duplicates(parts: Iterable[bytes], scope: Deduplicate) -> bytes:
    """Return the flow ids of all rows but the first of each sequence, 16 bytes each, ascending.

    Args:
      parts: all of one partition.
      scope: `split`, where each split keeps a first row, by start and id; `all`, where only the earliest of train,
        validation and test does that has one.
    """
    rows = np.frombuffer(b"".join(parts), _ROW)
    order = np.lexsort((np.argsort(np.argsort(rows["flow"])), rows["start"], rows["split"], *rows["sequence"].T))
    rows = rows[order]
    again = (rows["sequence"][1:] == rows["sequence"][:-1]).all(axis=1)
    if scope == "split":
        again &= rows["split"][1:] == rows["split"][:-1]
    return np.sort(rows["flow"][1:][again]).tobytes()


def merge_duplicates(found: Iterable[Mapping[str, bytes]]) -> dict[str, bytes]:
    """Join the ids found in several partitions by stripe, ascending."""
    by_stripe: dict[str, list[bytes]] = {}
    for part in found:
        for stripe, ids in part.items():
            by_stripe.setdefault(stripe, []).append(ids)
    return {stripe: np.sort(np.frombuffer(b"".join(ids), "V16")).tobytes() for stripe, ids in by_stripe.items()}


def drop_duplicates(
    stripe_rows: tuple[str, pa.RecordBatch], duplicates: Mapping[str, bytes]
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield a stripe's batch without the rows whose flow ids were found to be duplicates, if any are left."""
    stripe, rows = stripe_rows
    dropped = np.frombuffer(duplicates.get(stripe, b""), "V16")
    if len(dropped):
        ids = _ids(rows)
        place = np.minimum(np.searchsorted(dropped, ids), len(dropped) - 1)
        rows = rows.take(column(np.flatnonzero(dropped[place] != ids), pa.int64()))
    if rows.num_rows:
        yield stripe, rows


def _ids(rows: pa.RecordBatch) -> np.ndarray:
    return np.ascontiguousarray(view(rows["flow_id"])).view("V16").ravel()
