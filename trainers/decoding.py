"""Row groups out of Parquet, of which the first that fit in memory are decoded once."""

import threading
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.trainers.dataset import RowGroup


class RowGroups:
    """Decoded row groups.

    As many are kept as fit; later ones are decoded whenever they are read. Epochs read all of them in turn, so that
    whatever one gave way to would be read before it is needed again.

    Args:
      columns: those to be decoded; of a stripe those that it has.
      memory_bytes: what may be kept.
    """

    def __init__(self, columns: Collection[str], memory_bytes: int) -> None:
        self._columns = frozenset(columns)
        self._free = memory_bytes
        self._kept: dict[RowGroup, pa.Table] = {}
        self._lock = threading.Lock()

    def read(self, groups: Sequence[RowGroup]) -> pa.RecordBatch:
        """Return the rows of some row groups; columns that a stripe lacks are null."""
        with self._lock:
            tables = [self._read(group) for group in groups]
        return pa.concat_tables(tables, promote_options="default").combine_chunks().to_batches()[0]

    def _read(self, group: RowGroup) -> pa.Table:
        if (table := self._kept.get(group)) is None:
            with pq.ParquetFile(group.path, pre_buffer=True) as file:
                columns = [name for name in file.schema_arrow.names if name in self._columns]
                table = file.read_row_group(group.index, columns=columns)
            if table.nbytes <= self._free:
                self._free -= table.nbytes
                self._kept[group] = table
        return table
