"""Index of label windows: exact joins to flows by time and five-tuple in either direction.

The index has disjoint windows of each key and label in order of time. The time that a label shares with a flow is then
one difference of running sums, whatever the number of windows. Keys are found by hash, times by binary search. Windows
that know different parts of the five-tuple have different masks; a flow is looked up once for each mask.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.label_windows import WINDOW_KEY, label_windows
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.kernels import mix

WHOLE_KEY = (1 << len(WINDOW_KEY)) - 1
"""Mask of windows that have all columns of `WINDOW_KEY`."""

Measure = Literal["time", "windows"]
"""Measure of a label's share in a flow: the time that windows share with the flow, or the number of windows in it."""

RECORD = np.dtype(
    [
        ("hash", np.uint64), ("key", np.uint64, 5), ("first_ns", np.int64), ("last_ns", np.int64), ("code", np.int32),
        ("confidence", np.uint8),
    ]
)  # fmt: skip
"""One label window with its key as it is compared, and the hash of the key."""

PARTS = {
    "keys": np.dtype((np.uint64, 5)), "hashes": np.dtype(np.uint64), "codes": np.dtype(np.int32),
    "starts": np.dtype(np.int64), "first_ns": np.dtype(np.int64), "last_ns": np.dtype(np.int64),
    "confidence": np.dtype(np.uint8), "before": np.dtype(np.int64), "row_starts": np.dtype(np.int64),
    "row_first_ns": np.dtype(np.int64), "row_last_ns": np.dtype(np.int64), "row_ends_ns": np.dtype(np.int64),
}  # fmt: skip
"""Arrays of an index that grow by groups of windows, in the order of the hashes of their keys."""


@dataclasses.dataclass(frozen=True)
class WindowIndex:
    """The windows of one source and task, ready to be joined. A group has one key and one label.

    Attributes:
      masks: uint8 [masks], sets of columns of `WINDOW_KEY` that windows have, a bit for each.
      keys: uint64 [groups, 5], addresses, ports and protocol of each group, and its mask.
      codes: int32 [groups], label number of each group.
      starts: int64 [groups + 1], first window of each group.
      directory: int64 [buckets + 1], first group of each bucket; the leading bits of its key's hash are the bucket.
      shift: number of bits of a hash after the bucket's bits.
      first_ns, last_ns: int64 [windows], disjoint and ascending within a group, if measured by time.
      confidence: uint8 [windows], the maximum of merged windows; [0] if the source has no confidence.
      before: int64 [windows + 1], running sum of the measure.
      row_starts: int64 [groups + 1], first row of each group before merging; [1] if rows are not counted.
      row_first_ns, row_last_ns: int64 [rows], periods of the rows in the order of their begins within a group.
      row_ends_ns: int64 [rows], their ends in order within a group.
    """

    masks: np.ndarray
    keys: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    directory: np.ndarray
    shift: np.uint64
    first_ns: np.ndarray
    last_ns: np.ndarray
    confidence: np.ndarray
    before: np.ndarray
    row_starts: np.ndarray
    row_first_ns: np.ndarray
    row_last_ns: np.ndarray
    row_ends_ns: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows that are counted."""
        return len(self.row_first_ns)


def window_batch(
    key: Mapping[str, np.ndarray],
    first_ns: np.ndarray,
    last_ns: np.ndarray,
    codes: np.ndarray,
    confidence: np.ndarray | None = None,
    masks: np.ndarray | None = None,
) -> pa.RecordBatch:
    """Returns columns as label windows.

    Args:
      key: any columns of `WINDOW_KEY`, addresses as uint64 [n, 2].
      masks: uint8, the columns that count in each window, a bit for each of `WINDOW_KEY`; None for all that `key` has.
    """
    schema = label_windows(tuple(key))
    values = {**key, "first_ns": first_ns, "last_ns": last_ns, "code": codes}
    arrays = [column(values[field.name], field.type) for field in schema if field.name in values]
    missing = pa.nulls(len(codes), pa.uint8())
    arrays += [missing if each is None else column(each, pa.uint8()) for each in (confidence, masks)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def window_records(windows: pa.RecordBatch) -> np.ndarray:
    """Returns label windows as `RECORD`, in their order; a confidence that is null is 0."""
    records = np.empty(windows.num_rows, RECORD)
    given = sum(1 << at for at, name in enumerate(WINDOW_KEY) if name in windows.schema.names)
    masks = np.full(windows.num_rows, given, np.uint8)
    if not windows["mask"].null_count:
        masks &= view(windows["mask"])
    keys, hashes = np.empty((windows.num_rows, 5), np.uint64), np.empty(windows.num_rows, np.uint64)
    _window_keys(*(_key_column(windows, name) for name in WINDOW_KEY), masks, keys, hashes)
    records["key"], records["hash"] = keys, hashes
    for name in ("first_ns", "last_ns", "code"):
        records[name] = view(windows[name])
    records["confidence"] = 0 if windows["confidence"].null_count else view(windows["confidence"])
    return records


def index_windows(windows: pa.RecordBatch, measure: Measure = "time", *, counted: bool = False) -> WindowIndex:
    """Returns the index of label windows in any order.

    With the measure `time`, windows of the same key and label that overlap or touch are merged.

    Args:
      counted: whether the rows that flows match can be counted.
    """
    confident = not windows["confidence"].null_count
    parts = list(index_parts([window_records(windows)], measure, confident=confident, counted=counted))
    return complete_index({name: np.concatenate([part[name] for part in parts]) for name in PARTS})


def index_parts(
    sorted_parts: Iterable[np.ndarray], measure: Measure, *, confident: bool, counted: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Yields pieces of the arrays of `PARTS`, to be joined one after the other.

    Args:
      sorted_parts: `RECORD`; all hashes of a part are below those of the next one, and none is in two parts.
      confident: whether windows have a confidence.
      counted: whether the rows that flows match can be counted.
    """
    nothing = np.empty(0, RECORD)
    yield {**_part(nothing, measure, 0, 0, 0, confident, counted), **dict.fromkeys(_LED, np.zeros(1, np.int64))}
    windows, rows, sum_before = 0, 0, 0
    for records in sorted_parts:
        part = _part(records, measure, windows, rows, sum_before, confident, counted)
        yield part
        windows, rows = windows + len(part["first_ns"]), rows + len(part["row_first_ns"])
        sum_before = int(part["before"][-1]) if len(part["before"]) else sum_before


_LED = ("starts", "before", "row_starts")
"""Arrays that begin with a zero: they have one more value than groups or windows."""


def _part(
    records: np.ndarray, measure: Measure, windows: int, rows: int, before: int, confident: bool, counted: bool
) -> dict[str, np.ndarray]:
    """Returns the arrays of some windows; positions continue from numbers of windows and rows before them."""
    records = records[np.lexsort((records["first_ns"], records["code"], records["hash"]))]
    keys, codes = records["key"], records["code"]
    first_ns, last_ns = np.ascontiguousarray(records["first_ns"]), np.ascontiguousarray(records["last_ns"])
    new = np.ones(len(records), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1) | (codes[1:] != codes[:-1])
    begins = np.flatnonzero(new)
    part = {"keys": keys[begins], "hashes": records["hash"][begins], "codes": codes[begins]}
    kept, merged_ns = (_merge(new, first_ns, last_ns)) if measure == "time" else (np.ones(len(new), bool), last_ns)
    confidence = records["confidence"] if confident else np.empty(0, np.uint8)
    if len(confidence):
        confidence = np.maximum.reduceat(confidence, np.flatnonzero(kept))
    begun_ns = first_ns[kept]
    weight = merged_ns - begun_ns if measure == "time" else np.ones(len(begun_ns), np.int64)
    part |= {
        "starts": windows + np.append(np.flatnonzero(new[kept])[1:], len(begun_ns))[: len(begins)],
        "first_ns": begun_ns,
        "last_ns": merged_ns,
        "confidence": confidence,
        "before": before + np.cumsum(weight),
    }
    none = np.empty(0, np.int64)
    if not counted:
        return {**part, "row_starts": none, "row_first_ns": none, "row_last_ns": none, "row_ends_ns": none}
    groups = np.cumsum(new) - 1
    return part | {
        "row_starts": rows + np.append(begins[1:], len(records))[: len(begins)],
        "row_first_ns": first_ns,
        "row_last_ns": last_ns,
        "row_ends_ns": last_ns[np.lexsort((last_ns, groups))],
    }


def complete_index(parts: Mapping[str, np.ndarray]) -> WindowIndex:
    """Returns the index of joined `PARTS`."""
    directory, shift = group_directory(len(parts["hashes"]), [parts["hashes"]])
    held = {name: values for name, values in parts.items() if name != "hashes"}
    masks = np.array(sorted(masks_of(parts["keys"])), np.uint8)
    return WindowIndex(masks=masks, directory=directory, shift=shift, **held)


def masks_of(keys: np.ndarray) -> set[int]:
    """Returns the sets of columns that keys have."""
    return set(np.unique(keys[:, 4] >> np.uint64(_MASK_AT)).tolist())


def group_directory(groups: int, hashes: Iterable[np.ndarray]) -> tuple[np.ndarray, np.uint64]:
    """Returns the first group of each bucket and the shift of a hash (see `WindowIndex`).

    Args:
      groups: number of groups.
      hashes: hashes of the groups in order, in pieces.
    """
    bits = max(1, groups.bit_length() - 2)
    directory, shift = np.zeros((1 << bits) + 1, np.int64), np.uint64(64 - bits)
    for step in hashes:
        found, counts = np.unique(step >> shift, return_counts=True)
        directory[found.astype(np.int64) + 1] += counts
    np.cumsum(directory, out=directory)
    return directory, shift


_MASK_AT = 48
"""First bit of the mask in the last part of a key, behind protocol and ports."""


def _key_column(windows: pa.RecordBatch, name: str) -> np.ndarray:
    """Returns a key column, zeros if the windows do not have it."""
    if name in windows.schema.names:
        return view(windows[name])
    kind = label_windows(WINDOW_KEY).field(name).type
    shape = (windows.num_rows, 2) if pa.types.is_fixed_size_binary(kind) else windows.num_rows
    return np.zeros(shape, np.uint64 if pa.types.is_fixed_size_binary(kind) else str(kind))


@numba.njit(nogil=True, cache=True, inline="always")
def canonical(src_0, src_1, dst_0, dst_1, src_port, dst_port, protocol, mask):
    """Returns the columns of a key that a mask has as five integers; ends with the same columns are sorted."""
    given = np.uint64(mask)
    one = np.uint64(1)
    has_src, has_dst = given & one, (given >> one) & one
    has_src_port, has_dst_port = (given >> np.uint64(2)) & one, (given >> np.uint64(3)) & one
    src_0, src_1 = src_0 * has_src, src_1 * has_src
    dst_0, dst_1 = dst_0 * has_dst, dst_1 * has_dst
    src_port, dst_port = np.uint64(src_port) * has_src_port, np.uint64(dst_port) * has_dst_port
    rest = np.uint64(protocol) * (given >> np.uint64(4)) | given << np.uint64(_MASK_AT)
    alike = has_src == has_dst and has_src_port == has_dst_port
    if alike and (src_0, src_1, src_port) > (dst_0, dst_1, dst_port):
        src_0, src_1, src_port, dst_0, dst_1, dst_port = dst_0, dst_1, dst_port, src_0, src_1, src_port
    rest |= (src_port << np.uint64(32)) | (dst_port << np.uint64(16))
    return src_0, src_1, dst_0, dst_1, rest


@numba.njit(nogil=True, cache=True, inline="always")
def hash_of(key):
    """Returns the hash of a canonical key."""
    return mix(mix(mix(key[0] ^ mix(key[1])) + key[2] ^ mix(key[3])) + key[4])


@numba.njit(nogil=True, cache=True)
def _window_keys(src, dst, src_port, dst_port, protocol, masks, keys, hashes):
    """Writes the canonical key of each window and its hash."""
    for i in range(len(hashes)):
        key = canonical(src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], src_port[i], dst_port[i], protocol[i], masks[i])
        for part in range(5):
            keys[i, part] = key[part]
        hashes[i] = hash_of(key)


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


@numba.njit(nogil=True)
def groups_of(src, dst, src_port, dst_port, protocol, i, masks, keys, directory, shift):
    """Yields the groups of an index whose key has the columns of flow `i`, in either direction, for each mask."""
    for mask in masks:
        ahead = canonical(
            src[i, 0], src[i, 1], dst[i, 0], dst[i, 1], src_port[i], dst_port[i], protocol[i], mask
        )  # fmt: skip
        back = canonical(
            dst[i, 0], dst[i, 1], src[i, 0], src[i, 1], dst_port[i], src_port[i], protocol[i], mask
        )  # fmt: skip
        key = ahead
        for turn in range(2):
            if turn == 1:
                if back == ahead:  # always, if both ends have the same given columns
                    break
                key = back
            bucket = np.int64(hash_of(key) >> shift)
            for group in range(directory[bucket], directory[bucket + 1]):
                held = keys[group]
                if (held[0], held[1], held[2], held[3], held[4]) == key:
                    yield group
