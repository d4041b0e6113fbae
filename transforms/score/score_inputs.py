"""Inputs of scoring: captures, and row groups of finished datasets and other Parquet files."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.captures.groups import GroupPlan, plan_captures, reject_rows

BATCH_ROWS = 1 << 14
"""Rows of a row group that are scored at a time, as many as a meter yields."""


@dataclasses.dataclass(frozen=True)
class RowGroupPart:
    """A row group of a Parquet file, and the columns to read."""

    path: str
    index: int
    rows: int
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LostRows:
    """A row group that cannot be read: its number of rows, and its reject row."""

    rows: int
    reject: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class Needs:
    """Requirements of a model on the rows that it scores.

    Attributes:
      columns: columns that the model uses.
      wanted: columns that are read if a file has them.
      definition: flow definition of its training, with the k packets that it uses of each flow.
    """

    view: View
    columns: tuple[str, ...]
    wanted: tuple[str, ...]
    definition: FlowDefinition


@dataclasses.dataclass(frozen=True)
class ScoreInputs:
    """Captures and row groups to score."""

    captures: GroupPlan
    parts: tuple[RowGroupPart, ...]

    @property
    def rows(self) -> int:
        """Number of rows in the row groups."""
        return sum(part.rows for part in self.parts)


def plan_inputs(inputs: Sequence[str], needs: Needs, split: str | None = None, workers: int = 1) -> ScoreInputs:
    """Plans the inputs of a scoring, after a look at each capture, dataset and Parquet file.

    Args:
      inputs: dataset directories, `.parquet` files, or captures by path or glob.
      needs: the requirements of the model.
      split: the split of datasets to score; None for all.
      workers: threads that look at captures.

    Raises:
      FlowloomError: if an input does not have the columns or the flow definition of the model.
    """
    if split is not None and split not in SPLITS:
        raise FlowloomError(f"split must be one of {', '.join(SPLITS)}, got {split!r}{did_you_mean(split, SPLITS)}")
    parts: list[RowGroupPart] = []
    captures = []
    for name in inputs:
        if os.path.isdir(name):
            parts += _dataset_parts(Path(name), needs, split)
        elif name.endswith(".parquet"):
            parts += _file_parts(name, needs)
        else:
            captures.append(CaptureSource(glob=name))
    if captures and needs.view != "flows":
        raise FlowloomError(
            f"{captures[0].glob}: the model scores rows of the {needs.view} view, which captures do not have; build a "
            f"dataset with views: [{needs.view}], and score that"
        )
    return ScoreInputs(plan_captures(captures, os.getcwd(), workers), tuple(dict.fromkeys(parts)))


def _dataset_parts(root: Path, needs: Needs, split: str | None) -> Iterator[RowGroupPart]:
    if not (root / CARD).is_file():
        raise FlowloomError(f"{root}: a folder must be a dataset with {CARD}; for the captures in it write {root}/*")
    card = read_card(root)
    if needs.view not in card.views:
        raise FlowloomError(
            f"{root}: the model scores rows of the {needs.view} view, got a dataset of {', '.join(card.views)}; build "
            f"the dataset with views: [{', '.join([needs.view, *card.views])}]"
        )
    if needs.view == "flows":
        _check_definition(root, card, needs.definition)
    for shard in card.shards:
        if shard.view == needs.view and split in (None, shard.split):
            path = str(root / shard.path)
            columns = _columns(path, needs)
            for index, rows in enumerate(shard.row_groups):
                yield RowGroupPart(path, index, rows, columns)


def _check_definition(root: Path, card: DatasetCard, wanted: FlowDefinition) -> None:
    """Checks that a dataset has the flow definition of the model's training."""
    there = card.definition
    if there.k < wanted.k:
        raise FlowloomError(
            f"{root}: flows must keep at least {wanted.k} packets for this model, got k = {there.k}; build the dataset "
            f"with definition: {{k: {wanted.k}}} or more"
        )
    differing = [name for name, value in wanted if name not in ("k", "preset") and getattr(there, name) != value]
    if differing:
        raise FlowloomError(
            f"{root}: the flow definition must be that of the model's training, but {', '.join(differing)} differ; "
            "build the dataset with the same definition, or score its captures"
        )


def _file_parts(path: str, needs: Needs) -> Iterator[RowGroupPart]:
    columns = _columns(path, needs)
    footer = pq.read_metadata(path)
    for index in range(footer.num_row_groups):
        yield RowGroupPart(path, index, footer.row_group(index).num_rows, columns)


def _columns(path: str, needs: Needs) -> tuple[str, ...]:
    """Returns the columns to read from a Parquet file."""
    try:
        there = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise FlowloomError(
            f"{path}: cannot be read as Parquet ({error}); name another file, or copy it again"
        ) from None
    if missing := [name for name in ("flow_id", "group", *needs.columns) if name not in there]:
        raise FlowloomError(
            f"{path}: the columns {', '.join(missing)} are missing, which the model or its output needs; score a "
            "dataset, or the output of `flowloom flows`"
        )
    return tuple(name for name in needs.wanted if name in there)


def read_part(part: RowGroupPart) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a row group in batches of at most `BATCH_ROWS`.

    Raises:
      OSError, pa.ArrowInvalid: if it cannot be read, before the first batch.
    """
    with pq.ParquetFile(part.path) as file:
        table = file.read_row_group(part.index, columns=list(part.columns)).combine_chunks()
    yield from table.to_batches(BATCH_ROWS)


def read_parts(parts: Iterable[RowGroupPart]) -> tuple[list[pa.RecordBatch], list[LostRows]]:
    """Returns the rows of all row groups, and the row groups that cannot be read."""
    batches: list[pa.RecordBatch] = []
    lost = []
    for part in parts:
        try:
            batches += read_part(part)
        except (OSError, pa.ArrowInvalid) as error:
            lost.append(lost_rows(part, error))
    return batches, lost


def lost_rows(part: RowGroupPart, error: Exception) -> LostRows:
    """Returns the record of a row group that cannot be read because of an error."""
    detail = f"row group {part.index} cannot be read ({error}); copy the file again"
    return LostRows(part.rows, reject_rows([(part.path, part.index, RejectReason.UNREADABLE, detail)]))
