"""Arrow columns as NumPy values that share their memory, and back.

The first `to_numpy` or `pa.array` of a process imports pandas, for 2 s.
"""

import numpy as np
import pyarrow as pa


def numbers(column: pa.Array) -> np.ndarray:
    """Return integers or float32 without nulls; they may not be written to."""
    dtype = np.dtype(np.float32) if pa.types.is_float32(column.type) else np.dtype(str(column.type))
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def list_offsets(lists: pa.ListArray) -> np.ndarray:
    """Return where each list begins and the last one ends among `numbers(lists.values)`, int32 [rows + 1]."""
    return numbers(lists.offsets)


def arrow_array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return values as an Arrow array of their type."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
