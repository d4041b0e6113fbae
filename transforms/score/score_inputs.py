"""What is to be scored: captures, and row groups of finished datasets and other Parquet files, looked at beforehand."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, read_card
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.captures.groups import GroupPlan, plan_captures

BATCH_ROWS = 1 << 14
"""Rows of a row group that are scored at a time, as many as a meter hands on."""


@dataclasses.dataclass(frozen=True)
class RowGroupPart:
    """A row group of a Parquet file, and the columns that are wanted of it."""

    path: str
    index: int
    rows: int
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a model asks of rows.

    Attributes:
      columns: those that it sees.
      wanted: those that are read where they are there.
      definition: of the flows that it was trained on, with the k packets that it sees of each.
    """

    view: View
    columns: tuple[str, ...]
    wanted: tuple[str, ...]
    definition: FlowDefinition


@dataclasses.dataclass(frozen=True)
class ScoreInputs:
    """Everything that is to be scored; `rows` are those of the row groups."""

    captures: GroupPlan
    parts: tuple[RowGroupPart, ...]

    @property
    def rows(self) -> int:
        """Rows of the row groups."""
        return sum(part.rows for part in self.parts)


def plan_inputs(inputs: Sequence[str], needs: Needs, split: str | None = None, workers: int = 1) -> ScoreInputs:
    """Tell captures, datasets and Parquet files apart, and look at each.

    Args:
      inputs: dataset directories, `.parquet` files, or captures by path or glob.
      split: the split of datasets that is scored; None: all.

    Raises:
      FlowloomError: if a dataset or a Parquet file has not what the model sees, or captures cannot have it.
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
            f"the model sees rows of the {needs.view} view, which captures alone do not have, got {captures[0].glob}; "
            f"build a dataset with views: [{needs.view}], and score that"
        )
    return ScoreInputs(plan_captures(captures, os.getcwd(), workers), tuple(dict.fromkeys(parts)))


def _dataset_parts(root: Path, needs: Needs, split: str | None) -> Iterator[RowGroupPart]:
    if not (root / CARD).is_file():
        raise FlowloomError(
            f"{root} is a folder without {CARD}; name a dataset, or captures by a glob such as {root}/*"
        )
    card = read_card(root)
    if needs.view not in card.views:
        raise FlowloomError(
            f"dataset {root} has no {needs.view} view, only {', '.join(card.views)}, and the model sees that one; "
            f"build the dataset with views: [{', '.join([needs.view, *card.views])}]"
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
    """Refuse flows that are something else than those that the model was trained on."""
    there = card.definition
    if there.k < wanted.k:
        raise FlowloomError(
            f"dataset {root} keeps {there.k} packets of a flow, and the model sees {wanted.k}; build it with "
            f"definition: {{k: {wanted.k}}} or more"
        )
    differing = [name for name, value in wanted if name not in ("k", "preset") and getattr(there, name) != value]
    if differing:
        raise FlowloomError(
            f"dataset {root} was metered by another flow definition than the model was trained on "
            f"({', '.join(differing)} differ); build it with the same definition, or score its captures"
        )


def _file_parts(path: str, needs: Needs) -> Iterator[RowGroupPart]:
    columns = _columns(path, needs)
    footer = pq.read_metadata(path)
    for index in range(footer.num_row_groups):
        yield RowGroupPart(path, index, footer.row_group(index).num_rows, columns)


def _columns(path: str, needs: Needs) -> tuple[str, ...]:
    """Return the columns of a Parquet file that are to be read."""
    try:
        there = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise FlowloomError(
            f"{path} cannot be read as Parquet ({error}); name another file, or copy it again"
        ) from None
    if missing := [name for name in ("flow_id", "group", *needs.columns) if name not in there]:
        raise FlowloomError(
            f"{path} lacks the columns {', '.join(missing)}, which the model sees or rows are known by; score a "
            "dataset, or what `flowloom flows` wrote"
        )
    return tuple(name for name in needs.wanted if name in there)


def read_part(part: RowGroupPart) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group in batches of at most `BATCH_ROWS`.

    Raises:
      OSError, pa.ArrowInvalid: if it cannot be read; then nothing was yielded.
    """
    with pq.ParquetFile(part.path) as file:
        table = file.read_row_group(part.index, columns=list(part.columns)).combine_chunks()
    yield from table.to_batches(BATCH_ROWS)
