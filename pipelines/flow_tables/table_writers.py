"""Files of rows in a format chosen by their suffix: Parquet, CSV, Arrow or lines of JSON."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from flowloom.pipelines.flow_tables.text_tables import csv_columns, csv_schema, json_lines
from flowloom.schemas.atomic_files import file_named, replacing
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_output
from flowloom.schemas.parquet_files import parquet_writer

Write = Callable[[pa.RecordBatch], object]
"""Function that adds rows to a file."""


@contextlib.contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with parquet_writer(path, schema) as writer:
        yield writer.write


@contextlib.contextmanager
def _arrow(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer.write


@contextlib.contextmanager
def _csv(path: Path, schema: pa.Schema, compression: str | None = None) -> Iterator[Write]:
    with (
        pa.output_stream(os.fspath(path), compression=compression) as file,
        pyarrow.csv.CSVWriter(file, csv_schema(schema)) as writer,
    ):
        yield lambda rows: writer.write(csv_columns(rows))


@contextlib.contextmanager
def _csv_gz(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with _csv(path, schema, "gzip") as write:
        yield write


@contextlib.contextmanager
def _jsonl(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with path.open("wb") as file:
        yield lambda rows: file.write(json_lines(rows))


@contextlib.contextmanager
def _lines_on_stdout() -> Iterator[Write]:
    def write(rows: pa.RecordBatch) -> None:
        sys.stdout.buffer.write(json_lines(rows))
        sys.stdout.buffer.flush()

    yield write


STANDARD_OUTPUT = Path("-")
"""Name of the output that is lines of JSON on stdout, each there as soon as its flow has ended."""

FORMATS: Mapping[str, Callable[[Path, pa.Schema], contextlib.AbstractContextManager[Write]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".csv.gz": _csv_gz,
    ".arrow": _arrow,
    ".jsonl": _jsonl,
}
"""Writers by the suffix of a file's name."""

TEXT_FORMATS = (".csv", ".csv.gz", ".jsonl")
"""Formats for people and tools of text, where addresses are text unless it is declined."""


def format_of(path: str | os.PathLike[str]) -> str:
    """Returns the format of a file, a key of `FORMATS`.

    Raises:
      FlowloomError: if the name has another suffix.
    """
    name = os.path.basename(os.fspath(path))
    if name == os.fspath(STANDARD_OUTPUT):
        return ".jsonl"
    for suffix in FORMATS:
        if name.lower().endswith(suffix):
            return suffix
    raise FlowloomError(
        f"the name of an output must end in {', '.join(FORMATS)}, or be -, got {os.fspath(path)}; rename it"
    )


@contextlib.contextmanager
def written_tables(schemas: Mapping[Path, pa.Schema]) -> Iterator[list[Write]]:
    """Opens files for rows, in the order of the mapping; all appear under their names when the block succeeds.

    Each is complete before the first is visible, and none is if the block fails. Rows of stdout (`-`) appear at once.

    Args:
      schemas: the columns of each file, by its path.

    Raises:
      FlowloomError: if a name has an unknown suffix, a folder does not exist, or another process writes a file.
    """
    formats = {path: FORMATS[format_of(path)] for path in schemas}
    named = [path for path in schemas if path != STANDARD_OUTPUT]
    for path in named:
        if not path.parent.is_dir():
            raise FlowloomError(f"the folder of the output must exist, got {path}; create {path.parent} first")
    with contextlib.ExitStack() as names:
        hidden = {}
        for path in named:
            names.enter_context(locked_output(path))
            hidden[path] = names.enter_context(replacing(path))
        with contextlib.ExitStack() as files:
            writes = []
            for path, schema in schemas.items():
                if path == STANDARD_OUTPUT:
                    writes.append(files.enter_context(_lines_on_stdout()))
                    continue
                files.enter_context(file_named(path))
                writes.append(files.enter_context(formats[path](hidden[path], schema)))
            yield writes
