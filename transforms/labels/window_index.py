"""Index of label windows: exact joins to flows by time and five-tuple in either direction.

The index has disjoint windows of each key and label in order of time. The time that a label shares with a flow is then
one difference of running sums, whatever the number of windows. Keys are found by hash, times by binary search.
"""

import dataclasses
import functools
import threading
from typing import Literal

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.label_windows import WINDOW_KEY, label_windows
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.kernels import mix

NO_WINDOW = -2
"""The code of a flow that no window matches."""

_KEPT_INDEXES = 16

Measure = Literal["time", "windows"]
"""Measure of a label's share in a flow: the time that windows share with the flow, or the number of windows in it."""


@dataclasses.dataclass(frozen=True)
class WindowIndex:
    """The windows of one source and task, ready to be joined.

    Attributes:
      given: uint8 [5], 1 for the columns of `WINDOW_KEY` that the windows have.
      keys: uint64 [groups, 5], addresses, ports and protocol of each group.
      codes: int32 [groups], label number of each group.
      starts: int64 [groups + 1], first window of each group.
      directory: int64 [buckets + 1], first group of each bucket; the leading bits of its key's hash are the bucket.
      shift: number of bits of a hash after the bucket's bits.
      first_ns, last_ns: int64 [windows], disjoint and ascending within a group, if measured by time.
      confidence: uint8 [windows], the maximum of merged windows; [0] if the source has no confidence.
      before: int64 [windows + 1], running sum of the measure.
    """

    given: np.ndarray
    keys: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    directory: np.ndarray
    shift: np.uint64
    first_ns: np.ndarray
    last_ns: np.ndarray
    confidence: np.ndarray
    before: np.ndarray


@dataclasses.dataclass(frozen=True)
class WindowMatch:
    """Labels that the windows of one source give to flows.

    Attributes:
      codes: int32 [rows], label number, `UNKNOWN_LABEL` or `NO_WINDOW`.
      shared: int64 [rows], share of the label's windows in the flow, in the index's measure.
      several: bool [rows], true where windows with other labels match too.
      confidence: uint8 [rows], maximum over the label's windows that the flow touches, or that of the nearest window;
        [0] if the source has no confidence.
    """

    codes: np.ndarray
    shared: np.ndarray
    several: np.ndarray
    confidence: np.ndarray


def window_batch(
    key: dict[str, np.ndarray],
    first_ns: np.ndarray,
    last_ns: np.ndarray,
    codes: np.ndarray,
    confidence: np.ndarray | None = None,
) -> pa.RecordBatch:
    """Returns columns as label windows; `key` has any columns of `WINDOW_KEY`, addresses as uint64 [n, 2]."""
    schema = label_windows(tuple(key))
    values = {**key, "first_ns": first_ns, "last_ns": last_ns, "code": codes}
    arrays = [column(values[field.name], field.type) for field in schema if field.name in values]
    known = pa.nulls(len(codes), pa.uint8()) if confidence is None else column(confidence, pa.uint8())
    return pa.RecordBatch.from_arrays([*arrays, known], schema=schema)


def write_windows(path: str, windows: pa.RecordBatch) -> None:
    """Writes label windows as an Arrow file."""
    with pa.ipc.new_file(path, windows.schema) as writer:
        writer.write_batch(windows)


def read_windows(path: str) -> pa.RecordBatch:
    """Returns the label windows of an Arrow file, memory-mapped."""
    with pa.ipc.open_file(pa.memory_map(path)) as reader:
        return reader.get_batch(0)


def load_index(path: str, measure: Measure) -> WindowIndex:
    """Returns the index of the label windows in a file, built once per process."""
    with _LOADING:
        return _loaded(path, measure)


_LOADING = threading.Lock()


def forget_indexes() -> None:
    """Frees all indexes of this process."""
    with _LOADING:
        _loaded.cache_clear()


@functools.lru_cache(_KEPT_INDEXES)
def _loaded(path: str, measure: Measure) -> WindowIndex:
    return index_windows(read_windows(path), measure)


def index_windows(windows: pa.RecordBatch, measure: Measure = "time") -> WindowIndex:
    """Returns the index of label windows in any order.

    With the measure `time`, windows of the same key and label that overlap or touch are merged.
    """
    rows = windows.num_rows
    given = np.array([name in windows.schema.names for name in WINDOW_KEY], np.uint8)
    keys, hashes = np.empty((rows, 5), np.uint64), np.empty(rows, np.uint64)
    _window_keys(*(_key_column(windows, name) for name in WINDOW_KEY), given, keys, hashes)
    first_ns, last_ns, codes = (view(windows[name]) for name in ("first_ns", "last_ns", "code"))
    order = np.lexsort((first_ns, codes, hashes))
    keys, hashes, first_ns, last_ns, codes = (values[order] for values in (keys, hashes, first_ns, last_ns, codes))
    confidence = np.empty(0, np.uint8)
    if not windows["confidence"].null_count:
        confidence = view(windows["confidence"])[order]
    new = np.ones(rows, bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1) | (codes[1:] != codes[:-1])
    if measure == "time":
        kept, last_ns = _merge(new, first_ns, last_ns)
        keys, hashes, first_ns, codes, new = (values[kept] for values in (keys, hashes, first_ns, codes, new))
        if len(confidence):
            confidence = np.maximum.reduceat(confidence, np.flatnonzero(kept))
    starts = np.flatnonzero(new)
    bits = max(1, len(starts).bit_length())
    shift = np.uint64(64 - bits)
    buckets = (hashes[starts] >> shift).astype(np.int64)
    weight = last_ns - first_ns if measure == "time" else np.ones(len(first_ns), np.int64)
    return WindowIndex(
        given=given,
        keys=keys[starts],
        codes=codes[starts],
        starts=np.append(starts, len(first_ns)),
        directory=np.searchsorted(buckets, np.arange((1 << bits) + 1)),
        shift=shift,
        first_ns=first_ns,
        last_ns=last_ns,
        confidence=confidence,
        before=np.concatenate([np.zeros(1, np.int64), np.cumsum(weight)]),
    )


def match_windows(
    flows: pa.RecordBatch, index: WindowIndex, tolerance_ns: int = 0, *, last_resort: int | None = None
) -> WindowMatch:
    """Finds the label of each flow (`schemas.rows.FLOWS`).

    A window matches a flow if its whole key fits the flow in either direction, and their times, both ends included, are
    at most `tolerance_ns` apart. If several labels match, the flow gets the label with the largest share; if no window
    touches the flow, that of the nearest window; among equals, the first in the vocabulary.

    Args:
      last_resort: a label that a flow gets only if no window with another label matches.
    """
    rows = flows.num_rows
    start_ns = view(flows["start"])
    codes, shared, several = np.empty(rows, np.int32), np.empty(rows, np.int64), np.empty(rows, bool)
    confidence = np.zeros(rows if len(index.confidence) else 0, np.uint8)
    _match(
        *(view(flows[name]) for name in WINDOW_KEY), start_ns, start_ns + view(flows["duration_ns"]),
        index.given, index.keys, index.codes, index.starts, index.directory, index.shift,
        index.first_ns, index.last_ns, index.confidence, index.before,
        tolerance_ns, NO_WINDOW if last_resort is None else last_resort, codes, shared, several, confidence,
    )  # fmt: skip
    return WindowMatch(codes, shared, several, confidence)


def _key_column(windows: pa.RecordBatch, name: str) -> np.ndarray:
    """Returns a key column, zeros if the windows do not have it."""
    if name in windows.schema.names:
        return view(windows[name])
    kind = label_windows(WINDOW_KEY).field(name).type
    shape = (windows.num_rows, 2) if pa.types.is_fixed_size_binary(kind) else windows.num_rows
    return np.zeros(shape, np.uint64 if pa.types.is_fixed_size_binary(kind) else str(kind))


@numba.njit(nogil=True, cache=True, inline="always")
def _canonical(src_0, src_1, dst_0, dst_1, src_port, dst_port, protocol, given):
    """Returns the given columns of a key as five integers; ends with the same given columns are sorted."""
    src_0, src_1 = src_0 * given[0], src_1 * given[0]
    dst_0, dst_1 = dst_0 * given[1], dst_1 * given[1]
    src_port, dst_port = np.uint64(src_port) * given[2], np.uint64(dst_port) * given[3]
    rest = np.uint64(protocol) * given[4]
    alike = given[0] == given[1] and given[2] == given[3]
    if alike and (src_0, src_1, src_port) > (dst_0, dst_1, dst_port):
        src_0, src_1, src_port, dst_0, dst_1, dst_port = dst_0, dst_1, dst_port, src_0, src_1, src_port
    rest |= (src_port << np.uint64(32)) | (dst_port << np.uint64(16))
    return src_0, src_1, dst_0, dst_1, rest


@numba.njit(nogil=True, cache=True, inline="always")
def _hash(key):
    return mix(mix(mix(key[0] ^ mix(key[1])) + key[2] ^ mix(key[3])) + key[4])


@numba.njit(nogil=True, cache=True)
def _window_keys(src, dst, src_port, dst_port, protocol, given, keys, hashes):
    """Writes the canonical key of each window and its hash."""
    for i in range(len(hashes)):
        key = _canonical(
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], src_port[i], dst_port[i], protocol[i], given.astype(np.uint64)
        )
        for part in range(5):
            keys[i, part] = key[part]
        hashes[i] = _hash(key)


@numba.njit(nogil=True, cache=True)
def _merge(new, first_ns, last_ns):
    """Returns true for each window that begins a merged window, and the ends of the merged windows."""
    kept = np.empty(len(new), np.bool_)
    ends = np.empty(len(new), np.int64)
    count = 0
    for i in range(len(new)):
        kept[i] = new[i] or first_ns[i] > ends[count - 1]
        if kept[i]:
            ends[count] = last_ns[i]
            count += 1
        else:
            ends[count - 1] = max(ends[count - 1], last_ns[i])
    return kept, ends[:count]


@numba.njit(nogil=True, cache=True, inline="always")
def _not_before(values, begin, end, limit):
    """Returns the first position of ascending values[begin:end] whose value is at least `limit`."""
    while begin < end:
        middle = (begin + end) >> 1
        if values[middle] < limit:
            begin = middle + 1
        else:
            end = middle
    return begin


@numba.njit(nogil=True, cache=True)
def _shared(start_ns, end_ns, begin, end, first_ns, last_ns, before):
    """Returns the time that a group's windows share with a flow, or minus the distance to the nearest window."""
    low = _not_before(last_ns, begin, end, start_ns)
    high = _not_before(first_ns, low, end, end_ns + 1)
    if low < high:
        outside = max(start_ns - first_ns[low], 0) + max(last_ns[high - 1] - end_ns, 0)
        return before[high] - before[low] - outside
    distance = np.iinfo(np.int64).max
    if low > begin:
        distance = start_ns - last_ns[low - 1]
    if low < end:
        distance = min(distance, first_ns[low] - end_ns)
    return -distance


@numba.njit(nogil=True, cache=True)
def _surest(start_ns, end_ns, begin, end, first_ns, last_ns, confidence):
    """Returns the maximum confidence of a group's windows that a flow touches, or that of the nearest window."""
    low = _not_before(last_ns, begin, end, start_ns)
    high = _not_before(first_ns, low, end, end_ns + 1)
    if low == high:
        if low == end or (low > begin and start_ns - last_ns[low - 1] <= first_ns[low] - end_ns):
            low -= 1
        high = low + 1
    return confidence[low:high].max()


@numba.njit(nogil=True, cache=True)
def _match(
    src, dst, src_port, dst_port, protocol, start_ns, end_ns, given, keys, codes, starts, directory, shift,
    first_ns, last_ns, confidence, before, tolerance_ns, last_resort,
    code_out, shared_out, several_out, confidence_out,
):  # fmt: skip
    mask = given.astype(np.uint64)
    for i in range(len(start_ns)):
        best, most, matched, several, chosen = NO_WINDOW, np.int64(0), NO_WINDOW, False, -1
        ahead = _canonical(
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], src_port[i], dst_port[i], protocol[i], mask
        )  # fmt: skip
        back = _canonical(
            dst[i, 0], dst[i, 1], src[i, 0], src[i, 1], dst_port[i], src_port[i], protocol[i], mask
        )  # fmt: skip
        key = ahead
        for turn in range(2):
            if turn == 1:
                if back == ahead:  # always, if both ends have the same given columns
                    break
                key = back
            bucket = np.int64(_hash(key) >> shift)
            for group in range(directory[bucket], directory[bucket + 1]):
                held = keys[group]
                if (held[0], held[1], held[2], held[3], held[4]) != key:
                    continue
                shared = _shared(start_ns[i], end_ns[i], starts[group], starts[group + 1], first_ns, last_ns, before)
                if shared < -tolerance_ns:
                    continue
                code = codes[group]
                several |= matched != NO_WINDOW and matched != code
                matched = code
                resort = code == last_resort
                if (
                    best == NO_WINDOW
                    or (best == last_resort and not resort)
                    or (resort == (best == last_resort) and (shared > most or (shared == most and code < best)))
                ):
                    best, most, chosen = code, shared, group
        code_out[i], shared_out[i], several_out[i] = best, most, several
        if len(confidence_out) and chosen >= 0:
            begin, end = starts[chosen], starts[chosen + 1]
            confidence_out[i] = _surest(start_ns[i], end_ns[i], begin, end, first_ns, last_ns, confidence)
