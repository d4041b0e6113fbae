"""NumPy views of Arrow columns that share their memory, and back.

They avoid `to_numpy` and `pa.array`, whose first call in a process imports pandas for 2 s.
"""

import numpy as np
import pyarrow as pa


def numbers(column: pa.Array) -> np.ndarray:
    """Returns a read-only view of integers or float32 without nulls."""
    dtype = np.dtype(np.float32) if pa.types.is_float32(column.type) else np.dtype(str(column.type))
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def list_offsets(lists: pa.ListArray) -> np.ndarray:
    """Returns the bounds of the lists in `numbers(lists.values)`, int32 [rows + 1]."""
    return numbers(lists.offsets)


def arrow_array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Returns values as an Arrow array of type `kind`."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
