"""Cache of decoded row groups: the first that fit in memory are decoded once, the others on every read."""

import threading
from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from flowloom.schemas.parquet_files import read_row_group
from flowloom.trainers.feed.dataset import RowGroup


class RowGroups:
    """Decoded and prepared row groups.

    The cache evicts nothing: epochs read all row groups in turn, so an evicted one would be read again before the one
    that took its place.

    Args:
      columns: the columns to decode; a stripe may lack some.
      memory_bytes: size of the cache.
      prepare: function of a decoded row group (`RowSpec.prepared`).
    """

    def __init__(
        self,
        columns: Collection[str],
        memory_bytes: int,
        prepare: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda rows: rows,
    ) -> None:
        self._columns = frozenset(columns)
        self._prepare = prepare
        self._free = memory_bytes
        self._kept: dict[RowGroup, pa.Table] = {}
        self._lock = threading.Lock()

    def read(self, groups: Sequence[RowGroup]) -> pa.RecordBatch:
        """Returns the rows of some row groups as one batch; columns that a stripe lacks are null.

        Raises:
          FlowloomError: if a shard cannot be read.
        """
        with self._lock:
            tables = [self._read(group) for group in groups]
        return pa.concat_tables(tables, promote_options="default").combine_chunks().to_batches()[0]

    def _read(self, group: RowGroup) -> pa.Table:
        if (table := self._kept.get(group)) is None:
            rows = read_row_group(group.path, group.index, self._columns).combine_chunks().to_batches()[0]
            table = pa.Table.from_batches([self._prepare(rows)])
            if table.nbytes <= self._free:
                self._free -= table.nbytes
                self._kept[group] = table
        return table
