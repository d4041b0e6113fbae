"""Parquet files of flows with columns of the user's own: the same flows give the same bytes."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import write_parquet
from flowloom.transforms.arrays.digests import keyed_hash
from flowloom.transforms.io.filesystems import is_url, locate

_PART = ".unfinished-"
_ORDER = ("start", "flow_id")


class UnnamedFile(NamedTuple):
    """File under a temporary name, the name that it will have, and its columns."""

    path: str
    name: str
    schema: pa.Schema


def write_flows(batches: Iterable[pa.RecordBatch], folder: str, files: int) -> list[str]:
    """Writes batches of flows as at most `files` Parquet files of a folder, and returns their paths.

    Raises:
      FlowloomError: if the folder has flows already, or batches lack a column or have different ones.
    """
    require_no_flows(folder)
    rows: dict[int, list[pa.RecordBatch]] = {}
    for number, part in (each for batch in batches for each in split_by_file(batch, files)):
        rows.setdefault(number, []).append(part)
    return finish_files([write_file(number, parts, folder, files) for number, parts in rows.items()], folder)


def require_no_flows(folder: str) -> None:
    """Checks that a folder has no files of flows.

    Raises:
      FlowloomError: if it has one.
    """
    if found := sorted(info.base_name for info in _listed(folder) if info.base_name.startswith("flows-")):
        raise FlowloomError(f"{folder} must have no flows yet, got {found[0]}; remove it, or choose another folder")


def split_by_file(batch: pa.RecordBatch, files: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields the rows of each file; a hash of the flow's id is its number.

    Raises:
      FlowloomError: if a column is missing by which flows are ordered.
    """
    if missing := [name for name in _ORDER if name not in batch.schema.names]:
        raise FlowloomError(f"batches of flows must have the column {missing[0]}, got {', '.join(batch.schema.names)}")
    numbers = (keyed_hash(batch["flow_id"], "file") % np.uint64(files)).astype(np.int64)
    for number in np.unique(numbers).tolist():
        yield number, batch.take(pa.array(np.flatnonzero(numbers == number)))


def write_file(number: int, batches: Sequence[pa.RecordBatch], folder: str, files: int) -> UnnamedFile:
    """Writes one file under a temporary name.

    Raises:
      FlowloomError: if batches have different columns.
    """
    _require_one_schema([batch.schema for batch in batches])
    table = pa.Table.from_batches(batches).sort_by([(name, "ascending") for name in _ORDER])
    system, place = _located(folder)
    system.create_dir(place, recursive=True)
    part = f"{place}/{_PART}{uuid.uuid4().hex}"
    with system.open_output_stream(part) as file:
        write_parquet(file, table.combine_chunks())
    return UnnamedFile(part, f"flows-{number:05d}-of-{files:05d}.parquet", table.schema)


def finish_files(parts: Iterable[UnnamedFile], folder: str) -> list[str]:
    """Gives files their names, removes what repeated attempts left, and returns the paths.

    Raises:
      FlowloomError: if files have different columns.
    """
    system, place = _located(folder)
    ordered = sorted(parts, key=lambda part: part.name)
    _require_one_schema([part.schema for part in ordered])
    paths = []
    for part in ordered:
        system.move(part.path, f"{place}/{part.name}")
        paths.append(f"{folder}/{part.name}")
    for info in _listed(folder):
        if info.base_name.startswith(_PART):
            system.delete_file(info.path)
    return paths


def _require_one_schema(schemas: Sequence[pa.Schema]) -> None:
    if other := next((schema for schema in schemas if not schema.equals(schemas[0])), None):
        raise FlowloomError(
            f"batches of flows must have the same columns, got {', '.join(schemas[0].names)} and "
            f"{', '.join(other.names)}, or the same names with other types"
        )


def _located(folder: str) -> tuple[fs.FileSystem, str]:
    return locate(folder) if is_url(folder) else (fs.LocalFileSystem(), folder)


def _listed(folder: str) -> list[fs.FileInfo]:
    system, place = _located(folder)
    return system.get_file_info(fs.FileSelector(place, allow_not_found=True))
