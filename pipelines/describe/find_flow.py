"""One flow of a dataset by its id or by the beginning of its id, as hexadecimal digits."""

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.dataset.stored_files import shard_file
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import read_footer, read_row_group, read_rows

ID_BYTES = 16
BATCH_ROWS = 1 << 18
"""Ids that are read at a time: 4 MiB."""
SHOWN_IDS = 3
"""Number of ids in the message about a prefix of several flows."""


@dataclasses.dataclass(frozen=True)
class StoredFlow:
    """A flow as its dataset stores it.

    Attributes:
      flow_id: the whole id, 32 hexadecimal digits.
      split: the split of the flow.
      row: values by column, those of the first stripe if the flow is in several; absent columns are missing.
      labels: name of the flow's class by task; None if the label is unknown.
      shards: paths of the shards that have the flow.
    """

    flow_id: str
    split: str
    row: dict[str, Any]
    labels: dict[str, str | None]
    shards: tuple[str, ...]


def find_flow(dataset: str | os.PathLike[str], card: DatasetCard, prefix: str) -> StoredFlow:
    """Returns the only flow whose id begins with a prefix.

    Reads the ids of all shards, a batch at a time, and one row group of each shard that has the flow.

    Args:
      dataset: the dataset directory.
      card: its card.
      prefix: 1 to 32 hexadecimal digits.

    Raises:
      FlowloomError: if the prefix is not hexadecimal, no flow or several flows have it, the dataset has no view of
        flows, or a shard cannot be read.
    """
    digits = prefix.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{1,{2 * ID_BYTES}}}", digits):
        raise FlowloomError(
            f"flow id must be 1 to {2 * ID_BYTES} hexadecimal digits, got {prefix!r}; copy it from the column flow_id"
        )
    if "flows" not in card.views:
        raise FlowloomError(
            f"{dataset} must have the view flows to show a flow, got {', '.join(card.views)}; "
            "build a dataset with views: [flows]"
        )
    rows: list[tuple[Shard, int]] = []
    ids: dict[bytes, None] = {}
    for shard in (each for each in card.shards if each.view == "flows"):
        for found, row in _matches(os.path.join(dataset, shard.path), digits):
            ids[found] = None
            rows.append((shard, row))
            if len(ids) > SHOWN_IDS:
                break
        if len(ids) > SHOWN_IDS or (ids and len(digits) == 2 * ID_BYTES and card.layout == "aurora"):
            break
    if not ids:
        raise FlowloomError(f"{dataset} has no flow whose id begins with {digits}; check the id and the dataset")
    if len(ids) > 1:
        shown = sorted(each.hex() for each in ids)[:SHOWN_IDS]
        raise FlowloomError(
            f"flow id {digits} must belong to one flow of {dataset}, got several, such as {', '.join(shown)}; "
            "give more digits"
        )
    (flow_id,) = ids
    return _stored_flow(dataset, card, flow_id.hex(), rows)


def _matches(path: str, digits: str) -> Iterator[tuple[bytes, int]]:
    """Yields the ids of a shard that begin with hexadecimal digits, and their row in the shard."""
    half = len(digits) % 2
    start = np.frombuffer(bytes.fromhex(digits[: len(digits) - half]), np.uint8)
    begin = 0
    for batch in read_rows(path, BATCH_ROWS, ["flow_id"]):
        ids = _bytes_of(batch["flow_id"])
        same = (ids[:, : len(start)] == start).all(axis=1)
        if half:
            same &= ids[:, len(start)] >> 4 == int(digits[-1], 16)
        yield from ((ids[row].tobytes(), begin + row) for row in np.flatnonzero(same).tolist())
        begin += batch.num_rows


def _bytes_of(ids: pa.Array) -> np.ndarray:
    """Returns ids as uint8 [rows, ID_BYTES]."""
    return np.frombuffer(ids.buffers()[1], np.uint8).reshape(-1, ID_BYTES)[ids.offset : ids.offset + len(ids)]


def _stored_flow(
    dataset: str | os.PathLike[str], card: DatasetCard, flow_id: str, places: list[tuple[Shard, int]]
) -> StoredFlow:
    """Reads the rows of a flow, and names its labels."""
    found = [(shard, _read_row(shard_file(dataset, shard), row)) for shard, row in places]
    labels: dict[str, str | None] = {task.name: None for task in card.tasks}
    for _, row in found:
        for task in card.tasks:
            label = row.get(label_column(task.name))
            if label is not None:
                labels[task.name] = task.vocabulary[label]
    shard, row = found[0]
    return StoredFlow(flow_id, shard.split, row, labels, tuple(dict.fromkeys(each.path for each, _ in found)))


def _read_row(path: str | os.PathLike[str], row: int) -> dict[str, Any]:
    """Returns one row of a Parquet file; times are int64 nanoseconds."""
    _, groups = read_footer(path)
    index = 0
    while row >= groups[index]:
        row -= groups[index]
        index += 1
    table = read_row_group(path, index).slice(row, 1)
    for at, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.int64()))
    (values,) = table.to_pylist()
    return dict(values)
