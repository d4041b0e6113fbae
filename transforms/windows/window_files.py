"""Files of label windows: an index is written once, in bounded memory, and mapped by every process that joins flows."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from flowloom.schemas.atomic_files import replacing
from flowloom.transforms.windows.window_index import (
    PARTS,
    RECORD,
    Measure,
    WindowIndex,
    group_directory,
    index_parts,
    index_windows,
    masks_of,
    window_records,
)

SORTED_ROWS = 1 << 20
"""Largest number of windows that are sorted in memory, but for those of one key."""

_SPREAD_BITS = 6
_ALIGNED = 64
_STEP = 1 << 20
_KEPT_INDEXES = 16


def write_windows(path: str, windows: pa.RecordBatch, measure: Measure) -> None:
    """Writes the index of label windows."""
    index = vars(index_windows(windows, measure)).copy()
    shift = int(index.pop("shift"))
    _store(path, index, shift)


@contextlib.contextmanager
def window_writer(path: str, rows: int = SORTED_ROWS) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yields a function that takes label windows of a table; the index is written when the block ends.

    Windows are spread over files by the leading bits of their keys' hashes, and each file is sorted alone. Rows are
    counted (`window_rows.py`), and have no confidence.

    Args:
      rows: largest number of windows that are sorted in memory, but for those of one key.
    """
    scratch = f"{path}.parts"
    os.makedirs(scratch)
    try:
        spread = _Spread(os.path.join(scratch, "windows"), rows, 0)
        yield lambda windows: spread.add(window_records(windows))
        joined = {name: _RawArray(os.path.join(scratch, name), dtype) for name, dtype in PARTS.items()}
        masks: set[int] = set()
        with contextlib.ExitStack() as files:
            held = {name: files.enter_context(open(raw.path, "wb")) for name, raw in joined.items()}
            for part in index_parts(spread.sorted_parts(), "time", confident=False, counted=True):
                masks |= masks_of(part["keys"])
                for name, values in part.items():
                    held[name].write(np.ascontiguousarray(values).data)
        hashes = joined.pop("hashes")
        directory, shift = group_directory(hashes.shape[0], hashes.steps())
        _store(path, {"masks": np.array(sorted(masks), np.uint8), "directory": directory, **joined}, int(shift))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Spread:
    """Windows spread over files by bits of their hashes, if they are too many for memory.

    Args:
      path: of the folder of the files.
      rows: largest number of windows that stay in memory.
      depth: number of times that the windows were spread before.
    """

    def __init__(self, path: str, rows: int, depth: int):
        self._path = path
        self._rows = rows
        self._depth = depth
        self._held: list[np.ndarray] = []
        self._spread = False

    def add(self, records: np.ndarray) -> None:
        """Adds `RECORD` in any order."""
        self._held.append(records)
        if sum(map(len, self._held)) > self._rows and self._shift >= 0:
            self._flush()

    def sorted_parts(self) -> Iterator[np.ndarray]:
        """Yields all windows in parts, in the order of their hashes; none is in two parts."""
        if not self._spread:
            yield np.concatenate([np.empty(0, RECORD), *self._held])
            return
        self._flush()
        for name in sorted(os.listdir(self._path)):
            below = _Spread(os.path.join(self._path, f"{name}-"), self._rows, self._depth + 1)
            with open(os.path.join(self._path, name), "rb") as file:
                while len(records := np.fromfile(file, RECORD, max(1, self._rows))):
                    below.add(records)
            os.remove(os.path.join(self._path, name))
            yield from below.sorted_parts()

    @property
    def _shift(self) -> int:
        """Number of bits of a hash behind those that tell the files apart; negative if none are left."""
        return 64 - _SPREAD_BITS * (self._depth + 1)

    def _flush(self) -> None:
        self._spread = True
        os.makedirs(self._path, exist_ok=True)
        records = np.concatenate([np.empty(0, RECORD), *self._held])
        self._held = []
        place = (records["hash"] >> np.uint64(self._shift)) & np.uint64((1 << _SPREAD_BITS) - 1)
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange((1 << _SPREAD_BITS) + 1))
        for at in np.flatnonzero(np.diff(ends)):
            with open(os.path.join(self._path, f"{at:02d}"), "ab") as file:
                records[order[ends[at] : ends[at + 1]]].tofile(file)


def load_index(path: str) -> WindowIndex:
    """Returns the index in a file, mapped once per process."""
    with _LOADING:
        return _loaded(path)


_LOADING = threading.Lock()


def forget_indexes() -> None:
    """Frees all indexes of this process."""
    with _LOADING:
        _loaded.cache_clear()


@functools.lru_cache(_KEPT_INDEXES)
def _loaded(path: str) -> WindowIndex:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    # copied on write, so that kernels see arrays of the same type as those of an index in memory
    content = np.memmap(path, np.uint8, "c")
    arrays, lead = {}, -(-(8 + length) // _ALIGNED) * _ALIGNED
    for name, (dtype, shape, offset) in header["arrays"].items():
        begin, size = lead + offset, math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = np.asarray(content[begin : begin + size]).view(dtype).reshape(shape)
    return WindowIndex(**arrays, shift=np.uint64(header["shift"]))


@dataclasses.dataclass(frozen=True)
class _RawArray:
    """Array in a file of its own, which is read in steps."""

    path: str
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of the array, and lengths within a value."""
        return (os.path.getsize(self.path) // self.dtype.itemsize, *self.dtype.shape)

    def steps(self) -> Iterator[np.ndarray]:
        """Yields the array in steps."""
        with open(self.path, "rb") as file:
            while len(step := np.fromfile(file, self.dtype, _STEP)):
                yield step


def _store(path: str, arrays: Mapping[str, np.ndarray | _RawArray], shift: int) -> None:
    """Writes a header of the arrays' types, shapes and places, and the arrays."""
    places: dict[str, tuple[str, tuple[int, ...], int]] = {}
    end = 0
    for name, values in arrays.items():
        places[name] = (values.dtype.base.str, values.shape, end)
        size = math.prod(values.shape) * values.dtype.base.itemsize
        end += -(-size // _ALIGNED) * _ALIGNED
    header = json.dumps({"shift": shift, "arrays": places}).encode()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for values in arrays.values():
            file.write(bytes(-file.tell() % _ALIGNED))
            for step in values.steps() if isinstance(values, _RawArray) else (values,):
                file.write(np.ascontiguousarray(step).data)
