"""Arrow columns as NumPy values that share their memory; the first `to_numpy` of a process imports pandas, for 2 s."""

import numpy as np
import pyarrow as pa


def integers(column: pa.Array) -> np.ndarray:
    """Return integers without nulls; they may not be written to."""
    dtype = np.dtype(str(column.type))
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def list_offsets(lists: pa.ListArray) -> np.ndarray:
    """Return where each list begins and the last one ends among `integers(lists.values)`, int32 [rows + 1]."""
    return integers(lists.offsets)
