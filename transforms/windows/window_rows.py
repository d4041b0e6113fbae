"""Rows of a table by the number of flows that they match, counted in batches that add up.

With the rows of a key in order, a flow begins before the end of some and ends after others: two positions say which
rows it matches. Sums of such positions over all flows give the number of flows of each row, so that no pair of row and
flow is listed, and batches may come in any order.
"""

import dataclasses
import uuid
from collections.abc import Callable, Iterable

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.label_windows import WINDOW_KEY
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.windows.window_index import WindowIndex, groups_of
from flowloom.transforms.windows.window_match import not_before

COUNTED_ROWS = 1 << 23
"""Number of rows whose sums are in memory at a time: 16 bytes each."""

_NEVER_NS = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class RowHits:
    """Positions that flows have among the rows of an index, with the number of flows at each.

    Attributes:
      begun_at, begun: int64 and int32; a flow counts for the rows of its key up to this position.
      ended_at, ended: of the rows in the order of their ends, those up to this position are before the flow.
      signs: int64, ascending; signs of causes why sampled rows match no flow (`row_causes.py`).
    """

    begun_at: np.ndarray
    begun: np.ndarray
    ended_at: np.ndarray
    ended: np.ndarray
    signs: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.begun_at) == len(self.begun)
        assert len(self.ended_at) == len(self.ended)


@dataclasses.dataclass(frozen=True)
class RowCounts:
    """Numbers of rows by the flows that they match; their sum is the number of rows.

    Attributes:
      matched: rows that match one flow.
      several: rows that match two flows or more.
      unmatched: rows that match no flow, although captures have their time.
      outside: rows that match no flow and whose time is outside all captures.
    """

    matched: int = 0
    several: int = 0
    unmatched: int = 0
    outside: int = 0


def touch_rows(
    flows: pa.RecordBatch, index: WindowIndex, tolerance_ns: int, signs: np.ndarray | None = None
) -> RowHits:
    """Returns the positions of flows (`schemas.rows.FLOWS`) among the rows of an index.

    Args:
      tolerance_ns: maximum distance between flow and row, as in `match_windows`.
    """
    known = np.empty(0, np.int64) if signs is None else signs
    if not index.rows:
        nothing = np.empty(0, np.int64), np.empty(0, np.int32)
        return RowHits(*nothing, *nothing, known)
    start_ns = view(flows["start"])
    begun, ended = _touch(
        *(view(flows[name]) for name in WINDOW_KEY), start_ns, start_ns + view(flows["duration_ns"]), index.masks,
        index.keys, index.directory, index.shift, index.row_starts, index.row_first_ns, index.row_ends_ns, tolerance_ns,
    )  # fmt: skip
    begun_at, begun_flows = np.unique(begun, return_counts=True)
    ended_at, ended_flows = np.unique(ended, return_counts=True)
    return RowHits(begun_at, begun_flows.astype(np.int32), ended_at, ended_flows.astype(np.int32), known)


def write_hits(path: str, hits: RowHits) -> str:
    """Writes hits into a new file beside an index, and returns its path."""
    written = f"{path}-{uuid.uuid4().hex}.hits.npz"
    np.savez(written, **vars(hits))
    return written


def read_hits(path: str) -> RowHits:
    """Returns the hits of a file."""
    with np.load(path) as held:
        return RowHits(**held)


def count_rows(
    index: WindowIndex,
    hits: Callable[[], Iterable[RowHits]],
    spans_ns: np.ndarray,
    tolerance_ns: int,
    rows: int = COUNTED_ROWS,
) -> RowCounts:
    """Returns the numbers of rows of an index by the flows that they match.

    Args:
      hits: returns the hits of all flows, in any order; it is called once for each part of the index.
      spans_ns: int64 [spans, 2], first and last time of each capture.
      rows: number of rows whose sums are in memory at a time, but for those of one key and label.
    """
    first_ns, last_ns = _disjoint(spans_ns)
    counts = np.zeros(4, np.int64)
    groups, at = len(index.row_starts) - 1, 0
    while at < groups:
        begin = int(index.row_starts[at])
        stop = max(at + 1, int(np.searchsorted(index.row_starts, begin + rows, "right")) - 1)
        end = int(index.row_starts[stop])
        begun, ended = np.zeros(end - begin, np.int64), np.zeros(end - begin, np.int64)
        for batch in hits():
            _add(begun, batch.begun_at, batch.begun, begin)
            _add(ended, batch.ended_at, batch.ended, begin)
        counts += _count(
            begun, ended, index.row_starts[at : stop + 1], index.row_first_ns, index.row_last_ns, index.row_ends_ns,
            first_ns, last_ns, tolerance_ns,
        )  # fmt: skip
        at = stop
    return RowCounts(*counts.tolist())


def _add(sums: np.ndarray, positions: np.ndarray, flows: np.ndarray, begin: int) -> None:
    """Adds flows at those ascending positions that sums have; the first one is at `begin`."""
    low, high = np.searchsorted(positions, [begin, begin + len(sums)])
    sums[positions[low:high] - begin] += flows[low:high]


def _disjoint(spans_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the begins and ends of periods, joined where they overlap, in the order of time."""
    first_ns, last_ns = spans_ns[np.argsort(spans_ns[:, 0], kind="stable")].reshape(-1, 2).T
    reached = np.maximum.accumulate(last_ns) if len(last_ns) else last_ns
    new = np.ones(len(first_ns), bool)
    new[1:] = first_ns[1:] > reached[:-1]
    ends = np.append(np.flatnonzero(new)[1:], len(first_ns))[: np.count_nonzero(new)] - 1
    return np.ascontiguousarray(first_ns[new]), np.ascontiguousarray(reached[ends])


@numba.njit(nogil=True, cache=True)
def _touch(
    src, dst, src_port, dst_port, protocol, start_ns, end_ns, masks, keys, directory, shift, row_starts, row_first_ns,
    row_ends_ns, tolerance_ns,
):  # fmt: skip
    """Returns the last row that begins before each flow's end, and the last one that ends before its begin.

    Pairs without a row between them count for none and are left out.
    """
    begun, ended = np.empty(len(start_ns) + 16, np.int64), np.empty(len(start_ns) + 16, np.int64)
    b, e = 0, 0
    for i in range(len(start_ns)):
        before_ns = min(end_ns[i], _NEVER_NS - tolerance_ns - 1) + tolerance_ns + 1
        after_ns = start_ns[i] - tolerance_ns
        for group in groups_of(src, dst, src_port, dst_port, protocol, i, masks, keys, directory, shift):
            begin, end = row_starts[group], row_starts[group + 1]
            reached = not_before(row_first_ns, begin, end, before_ns)
            passed = not_before(row_ends_ns, begin, end, after_ns)
            if reached == passed:
                continue
            if b == len(begun):
                begun = np.concatenate((begun, np.empty(len(begun), np.int64)))
            begun[b] = reached - 1
            b += 1
            if passed > begin:
                if e == len(ended):
                    ended = np.concatenate((ended, np.empty(len(ended), np.int64)))
                ended[e] = passed - 1
                e += 1
    return begun[:b], ended[:e]


@numba.njit(nogil=True, cache=True)
def _count(begun, ended, row_starts, row_first_ns, row_last_ns, row_ends_ns, span_first_ns, span_last_ns, tolerance_ns):
    """Returns the numbers of rows with one flow, with several, with none inside the spans, and with none outside."""
    counts = np.zeros(4, np.int64)
    lead = row_starts[0]
    for group in range(len(row_starts) - 1):
        begin, end = row_starts[group], row_starts[group + 1]
        for row in range(end - 2, begin - 1, -1):
            begun[row - lead] += begun[row + 1 - lead]
            ended[row - lead] += ended[row + 1 - lead]
        for row in range(begin, end):
            over = not_before(row_ends_ns, begin, end, row_last_ns[row])
            flows = begun[row - lead] - ended[over - lead]
            if flows:
                counts[0 if flows == 1 else 1] += 1
                continue
            span = not_before(span_last_ns, 0, len(span_last_ns), row_first_ns[row] - tolerance_ns)
            inside = span < len(span_first_ns) and span_first_ns[span] - tolerance_ns <= row_last_ns[row]
            counts[2 if inside else 3] += 1
    return counts
