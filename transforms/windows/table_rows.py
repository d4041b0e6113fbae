"""Account of a table's rows: its index, a sample, the hits of flows, and the counts at the end.

All are files beside the index, so that workers pass on names alone.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.atomic_files import replacing
from flowloom.transforms.windows.row_causes import RowCause, RowSample, TriedRows, find_causes, find_signs, try_rows
from flowloom.transforms.windows.window_files import load_index, window_writer
from flowloom.transforms.windows.window_rows import RowCounts, count_rows, read_hits, touch_rows, write_hits

_KEPT_SAMPLES = 16


@contextlib.contextmanager
def table_writer(path: str) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yields a function that takes the label windows of a table in order, for their index and a sample.

    Args:
      path: of the index.
    """
    sample = RowSample()
    with window_writer(path) as write:

        def add(windows: pa.RecordBatch) -> None:
            write(windows)
            sample.add(windows)

        yield add
    kept = sample.windows()
    if kept is not None:
        with replacing(_sample_file(path)) as temporary, pa.ipc.new_file(str(temporary), kept.schema) as writer:
            writer.write_batch(kept)


def touch_table(flows: pa.RecordBatch, path: str, tolerance_ns: int) -> str:
    """Writes the hits of flows (`schemas.rows.FLOWS`) on the rows of a table, and returns the path of their file.

    Args:
      path: of the index.
      tolerance_ns: maximum distance between flow and row.
    """
    tried = _sample(path)
    signs = None if tried is None else find_signs(flows, tried, tolerance_ns)
    return write_hits(path, touch_rows(flows, load_index(path), tolerance_ns, signs))


def count_table(
    path: str, hits: Sequence[str], spans_ns: np.ndarray, tolerance_ns: int
) -> tuple[RowCounts, tuple[RowCause, ...]]:
    """Returns the numbers of a table's rows by the flows that they match, and causes of those without one.

    Args:
      path: of the index.
      hits: results of `touch_table` for all flows.
      spans_ns: int64 [spans, 2], first and last time of each capture.
    """
    counts = count_rows(load_index(path), lambda: map(read_hits, hits), spans_ns, tolerance_ns)
    tried = _sample(path)
    if tried is None or not counts.unmatched + counts.outside:
        return counts, ()
    return counts, find_causes(tried.rows, (read_hits(each).signs for each in hits))


def summary_file(path: str) -> str:
    """Returns the path of the summary of the table with an index."""
    return f"{path}.json"


def forget_samples() -> None:
    """Frees the samples of all tables of this process."""
    _sample.cache_clear()


def _sample_file(path: str) -> str:
    return f"{path}.sample"


@functools.lru_cache(_KEPT_SAMPLES)
def _sample(path: str) -> TriedRows | None:
    try:
        with pa.memory_map(_sample_file(path)) as file, pa.ipc.open_file(file) as reader:
            return try_rows(reader.get_batch(0))
    except FileNotFoundError:
        return None
