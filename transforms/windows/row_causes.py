"""Causes why rows of a table match no flow: a sample is tried with another clock, protocol or ports."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.label_windows import WINDOW_KEY
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.kernels import mix
from flowloom.transforms.windows.window_index import (
    WHOLE_KEY,
    WindowIndex,
    groups_of,
    index_windows,
    window_records,
)

SAMPLED_ROWS = 1024
"""Largest number of rows that are tried."""
SAMPLED_OF_PAIR = 16
"""Largest number of rows of one pair of hosts that are tried."""

CauseKind = Literal["clock", "tolerance", "protocol", "ports", "hosts"]

_MINUTES = 14 * 60
_OFFSETS = 2 * _MINUTES + 1
_FITS, _PROTOCOL, _PORTS, _HOSTS = _OFFSETS + 1, _OFFSETS + 2, _OFFSETS + 3, _OFFSETS + 4
_SIGNS = _OFFSETS + 5
"""Signs of a row: the minutes by which its clock may be off, the edge behind them, and the other causes."""
_MINUTE_NS = 60_000_000_000
_TIME_ZONE_MIN = 15
_FEWEST = 0.1
"""Smallest share of the sampled rows without a flow that a cause must explain to be reported."""


@dataclasses.dataclass(frozen=True)
class RowCause:
    """Cause that explains sampled rows without a flow.

    Attributes:
      rows: sampled rows without a flow that would have one; for `hosts`, whose hosts have no flow at any time.
      of: sampled rows without a flow.
      offset_s: for `clock`, the table's clock minus the capture's, in whole minutes.
    """

    kind: CauseKind
    rows: int
    of: int
    offset_s: int = 0


class RowSample:
    """Sample of the rows of a table: those whose numbers have the smallest hashes, few of each pair of hosts."""

    def __init__(self, size: int = SAMPLED_ROWS):
        self._size = size
        self._kept: pa.RecordBatch | None = None
        self._order = np.empty(0, np.uint64)
        self._rows = 0

    def add(self, windows: pa.RecordBatch) -> None:
        """Adds the next rows of a table as label windows."""
        if not windows.num_rows:
            return
        order = _orders(np.arange(self._rows, self._rows + windows.num_rows, dtype=np.uint64))
        self._rows += windows.num_rows
        if self._kept is not None:
            windows = pa.Table.from_batches([self._kept, windows]).combine_chunks().to_batches(1 << 40)[0]
            order = np.concatenate([self._order, order])
        kept = np.sort(np.argsort(order, kind="stable")[: 4 * self._size])
        self._kept, self._order = windows.take(column(kept, pa.int64())), order[kept]

    def windows(self) -> pa.RecordBatch | None:
        """Returns the sampled rows; None without any."""
        if self._kept is None:
            return None
        ranked = np.argsort(self._order, kind="stable")
        keys = window_records(_changed(self._kept, mask=_HOSTS_ONLY))["key"][ranked]
        _, pair = np.unique(keys, axis=0, return_inverse=True)
        by_pair = np.argsort(pair, kind="stable")
        begins = np.flatnonzero(np.diff(pair[by_pair], prepend=-1))
        rank = np.empty(len(pair), np.int64)
        rank[by_pair] = np.arange(len(pair)) - np.repeat(begins, np.diff(np.append(begins, len(pair))))
        return self._kept.take(column(ranked[rank < SAMPLED_OF_PAIR][: self._size], pa.int64()))


_HOSTS_ONLY = 0b00011
_NO_PROTOCOL = WHOLE_KEY & ~0b10000


@numba.njit(nogil=True, cache=True)
def _orders(rows):
    hashes = np.empty_like(rows)
    for at in range(len(rows)):
        hashes[at] = mix(rows[at] + np.uint64(1))
    return hashes


@dataclasses.dataclass(frozen=True)
class TriedRows:
    """Sampled rows as indexes: as they are, without the protocol, with exchanged ports, and with their hosts alone."""

    rows: int
    known: WindowIndex
    without_protocol: WindowIndex
    exchanged: WindowIndex
    hosts: WindowIndex


def try_rows(sample: pa.RecordBatch) -> TriedRows:
    """Returns the indexes of sampled rows."""
    numbered = sample.set_column(
        sample.schema.get_field_index("code"), sample.schema.field("code"),
        column(np.arange(sample.num_rows, dtype=np.int32), pa.int32()),
    )  # fmt: skip
    turned = numbered
    if {"src_port", "dst_port"} <= {*sample.schema.names}:
        turned = numbered.select([_TURNED.get(name, name) for name in numbered.schema.names])
        turned = turned.rename_columns(numbered.schema.names)
    changed = (numbered, _changed(numbered, mask=_NO_PROTOCOL), turned, _changed(numbered, mask=_HOSTS_ONLY))
    return TriedRows(sample.num_rows, *map(index_windows, changed))


_TURNED = {"src_port": "dst_port", "dst_port": "src_port"}


def _changed(windows: pa.RecordBatch, mask: int) -> pa.RecordBatch:
    """Returns windows without the columns of `WINDOW_KEY` that a mask lacks."""
    at, rows = windows.schema.get_field_index("mask"), windows.num_rows
    own = np.full(rows, WHOLE_KEY, np.uint8) if windows["mask"].null_count else view(windows["mask"])
    return windows.set_column(at, windows.schema.field(at), column(own & np.uint8(mask), pa.uint8()))


def find_signs(flows: pa.RecordBatch, tried: TriedRows, tolerance_ns: int) -> np.ndarray:
    """Returns the signs of causes that flows show, int64, ascending; signs of several batches are united."""
    signs = np.zeros((tried.rows, _SIGNS), np.int32)
    start_ns = view(flows["start"])
    ends = (*(view(flows[name]) for name in WINDOW_KEY), start_ns, start_ns + view(flows["duration_ns"]))
    for index, sign in (
        (tried.known, _FITS), (tried.without_protocol, _PROTOCOL), (tried.exchanged, _PORTS), (tried.hosts, _HOSTS),
    ):  # fmt: skip
        _mark(
            *ends, index.masks, index.keys, index.codes, index.directory, index.shift, index.starts, index.first_ns,
            index.last_ns, tolerance_ns, sign, signs,
        )  # fmt: skip
    signs[:, : _OFFSETS + 1] = np.cumsum(signs[:, : _OFFSETS + 1], axis=1)
    return np.flatnonzero(signs > 0)


def find_causes(rows: int, signs: Iterable[np.ndarray]) -> tuple[RowCause, ...]:
    """Returns the causes that explain a tenth of the sampled rows without a flow.

    Args:
      rows: number of sampled rows.
      signs: results of `find_signs` for all flows.
    """
    seen = np.zeros(rows * _SIGNS, bool)
    for each in signs:
        seen[each] = True
    lost = seen.reshape(rows, _SIGNS)
    lost = lost[~lost[:, _FITS]]
    if not len(lost):
        return ()
    offsets = lost[:, :_OFFSETS].sum(axis=0)
    near, offsets[_MINUTES] = int(offsets[_MINUTES]), 0
    minutes = np.arange(_OFFSETS) - _MINUTES
    whole = np.where(minutes % 60 == 0, 2, np.where(minutes % _TIME_ZONE_MIN == 0, 1, 0))
    best = int(np.lexsort((-np.abs(minutes), whole, offsets))[-1])
    absent = int(np.count_nonzero(~lost[:, _HOSTS]))
    found: Sequence[RowCause] = (
        RowCause("clock", int(offsets[best]), len(lost), int(minutes[best]) * 60),
        RowCause("tolerance", near, len(lost)),
        RowCause("protocol", int(lost[:, _PROTOCOL].sum()), len(lost)),
        RowCause("ports", int(lost[:, _PORTS].sum()), len(lost)),
        RowCause("hosts", absent, len(lost)),
    )
    told = [cause for cause in found if cause.rows and cause.rows >= _FEWEST * cause.of]
    return tuple(sorted(told, key=lambda cause: -cause.rows))


@numba.njit(nogil=True, cache=True)
def _mark(
    src, dst, src_port, dst_port, protocol, start_ns, end_ns, masks, keys, codes, directory, shift, starts, first_ns,
    last_ns, tolerance_ns, sign, signs,
):  # fmt: skip
    """Marks rows that flows match, and the edges of periods of minutes by which their clocks may be off."""
    for i in range(len(start_ns)):
        for group in groups_of(src, dst, src_port, dst_port, protocol, i, masks, keys, directory, shift):
            row, window = codes[group], starts[group]
            early = first_ns[window] - end_ns[i]
            late = last_ns[window] - start_ns[i]
            if sign == _HOSTS or (early <= tolerance_ns and late >= -tolerance_ns):
                signs[row, sign] = 1
            if sign != _FITS:
                continue
            low = -((tolerance_ns - early) // _MINUTE_NS)
            high = min(late, _FAR_NS) // _MINUTE_NS if late > _FAR_NS else (late + tolerance_ns) // _MINUTE_NS
            if low > high:  # no whole minute is within the tolerance: the nearest one
                low = (first_ns[window] - start_ns[i] + _MINUTE_NS // 2) // _MINUTE_NS
                high = low
            low, high = max(low, -_MINUTES), min(high, _MINUTES)
            if low <= high:
                signs[row, low + _MINUTES] += 1
                signs[row, high + 1 + _MINUTES] -= 1


_FAR_NS = 1 << 60
