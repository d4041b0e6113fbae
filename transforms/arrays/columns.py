"""Arrow columns as NumPy views and back, without copies and without pandas.

The first `pa.array`, `pa.scalar` or `to_pandas_dtype` of a process imports pandas, which costs more than metering a
small capture.
"""

import functools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


@functools.cache
def integer_dtype(kind: pa.DataType) -> np.dtype:
    """Returns the NumPy type of an Arrow integer type, or of the int64 inside a timestamp."""
    return np.dtype(np.int64) if pa.types.is_timestamp(kind) else np.dtype(str(kind))


def column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Returns contiguous values, one row per first index, as an Arrow array of a fixed-width type without nulls."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def nullable_column(values: np.ndarray, missing: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Returns the values as an Arrow array of a fixed-width type, null where the mask is set.

    Nulls have zeros as their bytes, so that equal arrays are equal bytes in an Arrow file.
    """
    if not missing.any():
        return column(values, kind)
    whole = column(np.where(missing, values.dtype.type(0), values), kind)
    validity = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [validity, whole.buffers()[1]])


def text_column(values: Sequence[str | None]) -> pa.Array:
    """Returns texts (None = null) as an Arrow string array."""
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = _offsets([len(value) for value in encoded])
    buffers = pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)), _validity(values)
    return pa.StringArray.from_buffers(len(values), *buffers)


def repeated_text(value: str, rows: int) -> pa.Array:
    """Returns one text for every row as an Arrow string array."""
    encoded = value.encode()
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(len(encoded))
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(encoded * rows))


def batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Returns a few rows of texts, bytes, integers (None = null) and lists of integers as one batch of `schema`."""
    return pa.RecordBatch.from_arrays([array([row[f.name] for row in rows], f.type) for f in schema], schema=schema)


def concatenated(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Returns batches of one schema as one contiguous batch, empty if there are none."""
    filled = [one for one in batches if one.num_rows]
    if len(filled) < 2:
        return filled[0] if filled else batch([], schema)
    return pa.Table.from_batches(filled, schema).combine_chunks().to_batches()[0]


class RowBuffer:
    """Batches of one schema, held until they have at least `rows` rows together."""

    def __init__(self, rows: int):
        self._rows = rows
        self._pending: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Adds a batch; returns everything held as one batch if the rows are enough, and nothing otherwise."""
        self._pending.append(batch)
        return self.flush() if sum(held.num_rows for held in self._pending) >= self._rows else []

    def flush(self) -> list[pa.RecordBatch]:
        """Returns the batches that are left as one, and nothing if there are none."""
        pending, self._pending = self._pending, []
        return [concatenated(pending, pending[0].schema)] if pending else []


def filled(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yields batches of one schema joined until each has at least `rows` rows, but for the last."""
    buffer = RowBuffer(rows)
    for one in batches:
        yield from buffer.add(one)
    yield from buffer.flush()


def recut(batches: Iterable[pa.RecordBatch], rows: int) -> Generator[pa.RecordBatch]:
    """Yields the rows of batches of one schema in batches of `rows` rows, but for the last."""
    held: list[pa.RecordBatch] = []
    count = 0
    for one in batches:
        held.append(one)
        count += one.num_rows
        if count < rows:
            continue
        joined, whole = concatenated(held, one.schema), count - count % rows
        for at in range(0, whole, rows):
            yield joined.slice(at, rows)
        held, count = [joined.slice(whole)], count - whole
    if count:
        yield concatenated(held, held[0].schema)


def behind(batches: Iterable[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    """Yields the rows of batches behind the first `count` rows."""
    for one in batches:
        if count < one.num_rows:
            yield one.slice(count)
        count = max(count - one.num_rows, 0)


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns a few texts, bytes, integers (None = null) or lists of integers as an Arrow array."""
    if pa.types.is_string(kind):
        return text_column(values)
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(b"".join(values))])
    if pa.types.is_list(kind):
        items = [item for value in values for item in value]
        return list_column(
            _offsets([len(value) for value in values]), np.array(items, integer_dtype(kind.value_type)), kind
        )
    filled = np.array([0 if value is None else value for value in values], integer_dtype(kind))
    validity = _validity(values)
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(filled)])


def view_or(array: pa.Array, missing: int) -> np.ndarray:
    """Returns integers as NumPy values with `missing` for nulls; without nulls they share the array's memory."""
    if not array.null_count:
        return view(array)
    return np.where(array.is_null().to_numpy(zero_copy_only=False), missing, view(array))


def labels_column(codes: np.ndarray) -> pa.Array:
    """Returns label numbers, int32, as an Arrow array that is null where a number is below 0."""
    validity = pa.py_buffer(np.packbits(codes >= 0, bitorder="little"))
    return pa.Array.from_buffers(pa.int32(), len(codes), [validity, pa.py_buffer(codes)])


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    known = np.array([value is not None for value in values], bool)
    return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])


def list_column(offsets: np.ndarray, values: np.ndarray, kind: pa.ListType) -> pa.Array:
    """Returns an Arrow list array: int32 offsets [rows + 1] into `values`."""
    items = column(values, kind.value_type)
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets)], children=[items])


def view(array: pa.Array) -> np.ndarray:
    """Returns an Arrow array without nulls as NumPy values; binary(8n) becomes uint64 [rows, n].

    The result shares the array's memory and may not be written to.
    """
    kind = array.type
    buffer = array.buffers()[1]
    if pa.types.is_fixed_size_binary(kind):
        words = kind.byte_width // 8
        return np.frombuffer(buffer, np.uint64).reshape(-1, words)[array.offset : array.offset + len(array)]
    return np.frombuffer(buffer, integer_dtype(kind))[array.offset : array.offset + len(array)]
