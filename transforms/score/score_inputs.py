"""Inputs of scoring: captures, and row groups of finished datasets and other Parquet files."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from flowloom.schemas.arrow.accounting import REJECTS, RejectReason
from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.capture_limits import NO_LIMITS, CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.dataset.stored_files import check_shards
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.parquet_files import read_footer, read_row_group
from flowloom.schemas.printable import printable
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.capture_files import name_fault
from flowloom.transforms.captures.capture_folders import folder_captures
from flowloom.transforms.captures.groups import GroupPlan, limited, plan_captures, reject_rows

BATCH_ROWS = 1 << 14
"""Number of rows that are scored at a time, as many as a meter yields."""


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
      columns: columns that the model needs.
      wanted: columns that are read if a file has them.
      definition: flow definition of the training, with k packets per flow.
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


def plan_inputs(
    inputs: Sequence[str],
    needs: Needs,
    split: str | None = None,
    workers: int = 1,
    limits: CaptureLimits = NO_LIMITS,
) -> ScoreInputs:
    """Checks captures, datasets and Parquet files, and plans them as inputs of scoring.

    Args:
      inputs: dataset directories, `.parquet` files, or captures by path, glob or folder.
      needs: the requirements of the model.
      split: the split of datasets to score; None for all.
      workers: number of threads that check captures and the digests of shards.
      limits: how many bytes a compressed capture may become.

    Raises:
      FlowloomError: if an input does not have the columns or the flow definition of the model, or a shard is damaged.
    """
    if split is not None and split not in SPLITS:
        raise FlowloomError(f"split must be one of {', '.join(SPLITS)}, got {split!r}{did_you_mean(split, SPLITS)}")
    parts: list[RowGroupPart] = []
    captures = []
    faulty: list[str] = []  # files of folders whose names are not UTF-8
    for name in inputs:
        if (Path(name) / CARD).is_file():
            parts += _dataset_parts(Path(name), needs, split, workers)
        elif os.path.isdir(name):
            paths = _capture_paths(name)
            captures += [CaptureSource(glob=path) for path in paths if not name_fault(path)]
            faulty += [path for path in paths if name_fault(path)]
        elif name.endswith(".parquet"):
            parts += _file_parts(name, needs)
        else:
            captures.append(CaptureSource(glob=name))
    if captures and needs.view != "flows":
        raise FlowloomError(
            f"{captures[0].glob}: input must be a dataset with the view {needs.view} for this model, got a capture; "
            f"build a dataset with views: [{needs.view}], and score that"
        )
    plan = limited(plan_captures(captures, os.getcwd(), workers), limits)
    rejected = [(printable(path), 0, RejectReason.UNREADABLE, str(name_fault(path))) for path in faulty]
    rejects = concatenated([plan.rejects, reject_rows(rejected)], REJECTS)
    return ScoreInputs(GroupPlan(plan.groups, rejects), tuple(dict.fromkeys(parts)))


def _capture_paths(folder: str) -> tuple[str, ...]:
    """Returns the absolute paths of the captures below a folder.

    Raises:
      FlowloomError: if there is none, or a folder cannot be listed.
    """
    found = folder_captures(folder)
    for uri, reason, detail in found.rejects(folder):
        either = f", or name a dataset, which has {CARD}" if reason == RejectReason.NO_MATCH else ""
        raise FlowloomError(f"{uri}: {detail}{either}")
    return tuple(map(os.path.abspath, found.captures))


def _dataset_parts(root: Path, needs: Needs, split: str | None, workers: int) -> Iterator[RowGroupPart]:
    card = read_card(root)
    if needs.view not in card.views:
        raise FlowloomError(
            f"{root}: the dataset must have the view {needs.view} for this model, got {', '.join(card.views)}; build "
            f"the dataset with views: [{', '.join([needs.view, *card.views])}]"
        )
    if needs.view == "flows":
        _check_definition(root, card, needs.definition)
    wanted = [shard for shard in card.shards if shard.view == needs.view and split in (None, shard.split)]
    check_shards(root, wanted, workers)
    for shard in wanted:
        path = str(root / shard.path)
        columns, _ = _columns(path, needs)
        for index, rows in enumerate(shard.row_groups):
            yield RowGroupPart(path, index, rows, columns)


def _check_definition(root: Path, card: DatasetCard, wanted: FlowDefinition) -> None:
    """Checks that a dataset has the flow definition of the model's training."""
    found = card.definition
    if found.k < wanted.k:
        raise FlowloomError(
            f"{root}: flows must have at least k = {wanted.k} packets for this model, got k = {found.k}; build the "
            f"dataset with definition: {{k: {wanted.k}}} or more"
        )
    differing = [name for name, value in wanted if name not in ("k", "preset") and getattr(found, name) != value]
    if differing:
        raise FlowloomError(
            f"{root}: the flow definition must be that of the model's training, got another "
            f"{', '.join(differing)}; build the dataset with the same definition, or score its captures"
        )


def _file_parts(path: str, needs: Needs) -> Iterator[RowGroupPart]:
    columns, row_groups = _columns(path, needs)
    for index, rows in enumerate(row_groups):
        yield RowGroupPart(path, index, rows, columns)


def _columns(path: str, needs: Needs) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the columns to read from a Parquet file, and the rows of its row groups."""
    schema, row_groups = read_footer(path)
    names = schema.names
    if missing := [name for name in ("flow_id", "group", *needs.columns) if name not in names]:
        raise FlowloomError(
            f"{path}: columns must include those of the model and its output, got none named "
            f"{', '.join(missing)}; score a dataset, or the output of `flowloom flows`"
        )
    return tuple(name for name in needs.wanted if name in names), row_groups


def read_part(part: RowGroupPart) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a row group in batches of at most `BATCH_ROWS`.

    Raises:
      FlowloomError: before the first batch, if the row group cannot be read.
    """
    yield from read_row_group(part.path, part.index, part.columns).combine_chunks().to_batches(BATCH_ROWS)


def read_parts(parts: Iterable[RowGroupPart]) -> tuple[list[pa.RecordBatch], list[LostRows]]:
    """Returns the rows of all row groups, and the row groups that cannot be read."""
    batches: list[pa.RecordBatch] = []
    lost = []
    for part in parts:
        try:
            batches += read_part(part)
        except FlowloomError as error:
            lost.append(lost_rows(part, error))
    return batches, lost


def lost_rows(part: RowGroupPart, error: Exception) -> LostRows:
    """Returns the record of a row group whose reading raised an error."""
    detail = f"row group {part.index}: {error}"
    return LostRows(part.rows, reject_rows([(part.path, part.index, RejectReason.UNREADABLE, detail)]))
