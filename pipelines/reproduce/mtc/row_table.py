"""Row table: all packets or features of a dataset in memory, for experiments with their own splits."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.pipelines.reproduce.engine.repeated_splits import RowSplit, repeated_split
from flowloom.schemas.arrow.rows import View, label_column
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.few_labels import class_ranks

BYTES, RECORD, FLOW_ID = "bytes", "record", "flow_id"


@dataclasses.dataclass(frozen=True)
class RowTable:
    """Rows that have a label of the first task, in the order of their ids; make one with `RowTable.read`.

    Attributes:
      tasks: the tasks in the dataset's order.
      flow_ids: fixed binary of 16 bytes [N]; equal for packets of one flow.
      row_ids: fixed binary of 16 bytes [N], different for each row.
      values: bytes uint8 [N, length], or features float64 [N, F].
      names: names of the features; empty for bytes.
      labels: {task: int32 [N]}, -1 where unknown.
      equal: number of rows that were dropped because an earlier row has equal values.
    """

    tasks: tuple[Task, ...]
    flow_ids: pa.FixedSizeBinaryArray
    row_ids: pa.FixedSizeBinaryArray
    values: npt.NDArray[Any]
    names: tuple[str, ...]
    labels: Mapping[str, npt.NDArray[np.int32]]
    equal: int

    @classmethod
    def read(cls, path: str | Path, view: View, distinct: bool = True) -> Self:
        """Reads the rows of all splits of an Aurora dataset.

        Args:
          path: the dataset directory.
          view: `packets` or `tables`.
          distinct: whether only the first of several equal rows is kept.

        Raises:
          FlowloomError: if the dataset cannot be read, is laid out in stripes, or has no such rows.
        """
        dataset = Dataset.open(path)
        if dataset.card.layout != "aurora":
            raise FlowloomError(
                f"{path}: layout must be aurora, got {dataset.card.layout}; convert it: flowloom weave --layout aurora"
            )
        groups = [g for split in SPLITS if split in dataset.card.splits for g in dataset.row_groups(split, view=view)]
        tables = [read_table(each) for each in dict.fromkeys(group.path for group in groups)]
        rows = pa.concat_tables(tables) if tables else None
        first = label_column(dataset.tasks[0].name)
        rows = None if rows is None else rows.filter(pc.is_valid(rows[first]))
        if not rows:
            raise FlowloomError(
                f"{path}: view {view} must have rows with a label of {dataset.tasks[0].name}, got none; build it with "
                f"views: [{view}]"
            )
        order = [(FLOW_ID, "ascending"), *([(RECORD, "ascending")] if RECORD in rows.column_names else [])]
        rows = rows.sort_by(order).combine_chunks()
        names = () if view == "packets" else dataset.card.features
        values = _bytes(rows) if view == "packets" else _features(rows, names)
        kept = first_of_equal(values) if distinct else np.arange(len(values))
        labels = {
            task.name: pc.fill_null(rows[label_column(task.name)], -1).to_numpy().astype(np.int32)[kept]
            for task in dataset.tasks
        }
        ids = rows[FLOW_ID].combine_chunks().take(pa.array(kept))
        return cls(dataset.tasks, ids, _row_ids(ids), values[kept], names, labels, len(values) - len(kept))

    def limited(self, per_class: int, seed: int) -> "RowTable":
        """Returns at most `per_class` rows of each class of the first task, sampled by a hash of seed and id."""
        ranks = class_ranks(self.row_ids, self.labels[self.tasks[0].name], seed)
        kept = np.flatnonzero(ranks < per_class)
        ids, own = (column.take(pa.array(kept)) for column in (self.flow_ids, self.row_ids))
        labels = {task: column[kept] for task, column in self.labels.items()}
        return dataclasses.replace(self, flow_ids=ids, row_ids=own, values=self.values[kept], labels=labels)

    def split(self, repeat: int, seed: int, together: Literal["flow", "row"] = "flow") -> RowSplit:
        """Splits rows for one repeat, with the same shares of each class of the first task.

        Args:
          repeat: number of the repeat; each has another split.
          seed: seed of all repeats.
          together: `flow` keeps the rows of a flow in one split; `row` splits row by row, which leaks.
        """
        labels = self.labels[self.tasks[0].name]
        if together == "row":
            return repeated_split(self.row_ids, labels, repeat, seed)
        codes = pc.dictionary_encode(self.flow_ids)
        flows, of = codes.dictionary, codes.indices.to_numpy()
        _, first = np.unique(of, return_index=True)
        parts = repeated_split(flows, labels[first], repeat, seed)
        where = np.empty(len(flows), np.int8)
        for number, part in enumerate((parts.train, parts.validation, parts.test)):
            where[part] = number
        return RowSplit(*(np.flatnonzero(where[of] == number) for number in range(3)))


def first_of_equal(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the ascending positions of rows that equal no earlier row: [N, width] -> int64 [M]."""
    rows = np.ascontiguousarray(values)
    _, first = np.unique(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), return_index=True)
    return np.sort(first)


def _bytes(rows: pa.Table) -> npt.NDArray[np.uint8]:
    column = rows[BYTES].combine_chunks()
    width = column.type.byte_width
    return np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)[column.offset : column.offset + len(column)]


def _features(rows: pa.Table, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.column_stack([rows[name].to_numpy() for name in names])


def _row_ids(flow_ids: pa.FixedSizeBinaryArray) -> pa.FixedSizeBinaryArray:
    """Returns ids of rows: the id of the flow plus the position in the flow."""
    words = np.frombuffer(flow_ids.buffers()[1], np.uint64).reshape(-1, 2)
    words = words[flow_ids.offset : flow_ids.offset + len(flow_ids)].copy()
    codes = pc.dictionary_encode(flow_ids).indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    words[:, 1] += (np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))).astype(np.uint64)
    return pa.Array.from_buffers(flow_ids.type, len(words), [None, pa.py_buffer(words.tobytes())])
