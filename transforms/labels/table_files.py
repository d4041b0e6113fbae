"""Files of tables: their columns as texts, in batches of bounded memory, from CSV, logs of Zeek and Parquet.

A log of Zeek is known by its content: `#separator` begins one of tab-separated values, which names its columns, its
empty and its unset values; `{` begins one of JSON.
"""

import contextlib
import csv
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes

_NEWLINE, _QUOTE = ord("\n"), ord('"')
_LONGEST_ROW = 64 << 20
"""Bytes of a row with open quotes from which on quotes are taken for damage."""
_PARQUET_ROWS = 1 << 17
_ZEEK, _MARK = b"#separator", b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """Form of the lines of a table; a cell of `unset` is null, and one of `empty` has no characters."""

    separator: str
    names: tuple[str, ...]
    quoted: bool = True
    unset: str = ""
    empty: str = ""
    joint: bytes = b""
    """Bytes that stand for the separator too."""


@contextlib.contextmanager
def table_of(path: str, separator: str, *, header: bool) -> Iterator["TableReader"]:
    """Yields the reader of a table, whose batches hold a few megabytes of it.

    Raises:
      FlowloomError: if the file cannot be opened, or is damaged where it is read.
    """
    if os.path.splitext(path)[1] in (".parquet", ".pq"):
        yield _ParquetReader(path)
        return
    try:
        with contextlib.closing(CaptureBytes(path)) as file:
            yield _reader(path, file, separator, header)
    except CaptureError as error:
        raise _unreadable(path, error.detail) from None


class TableReader:
    """Reader of a table.

    Attributes:
      names: names of the columns, without the white space around them; positions from 1 as texts without a header.
      self_described: whether the file says its own names and separator, as logs of Zeek do.
      omitted: keys of `columns` whose columns may be nowhere in a file, because it leaves out what is unset.
    """

    names: tuple[str, ...]
    self_described = False
    omitted: tuple[str, ...] = ()

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yields some columns by their names, stripped texts that are null where a cell is empty, or times.

        Raises:
          FlowloomError: if the file is damaged.
        """
        raise NotImplementedError

    def first_row(self) -> tuple[str, ...]:
        """Returns the cells of the first line, which are names if the table has a header."""
        return self.names


def _reader(path: str, file: CaptureBytes, separator: str, header: bool) -> TableReader:
    _grow_to_a_line(file)
    begin = file.window[: len(_ZEEK)].tobytes()
    if begin.startswith(_MARK):
        file.advance(len(_MARK))
    if begin == _ZEEK:
        return _LineReader(path, file, _zeek_dialect(path, file), self_described=True)
    line = _first_line(file)
    if line.lstrip().startswith(b"{") and isinstance(_parsed(line), dict):
        return _JsonReader(path, file)
    cells = next(csv.reader([line.decode(errors="replace")], delimiter=separator), [])
    if not header:
        return _LineReader(
            path, file, _Dialect(separator, tuple(str(at + 1) for at in range(len(cells)))), tuple(cells)
        )
    file.advance(min(len(line) + 1, len(file.window)))
    return _LineReader(path, file, _Dialect(separator, tuple(cell.strip() for cell in cells)), tuple(cells))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _grow_to_a_line(file: CaptureBytes) -> None:
    while not file.complete and not (file.window == _NEWLINE).any() and len(file.window) < _LONGEST_ROW:
        file.grow()


def _first_line(file: CaptureBytes) -> bytes:
    """Returns the first line without its end; a quoted cell of it may have line ends."""
    content = file.window.tobytes()
    end = content.find(b"\n")
    while end >= 0 and content.count(b'"', 0, end) % 2:
        end = content.find(b"\n", end + 1)
    return content if end < 0 else content[:end]


def _zeek_dialect(path: str, file: CaptureBytes) -> _Dialect:
    """Returns the form that the header of a log of Zeek describes."""
    while not file.complete and not re.search(rb"\n[^#]", file.window.tobytes()):
        file.grow()
    lines = file.window.tobytes().decode(errors="replace").split("\n")
    said: dict[str, str] = {}
    separator = lines[0].removeprefix("#separator").strip().encode().decode("unicode_escape")
    for line in lines[1:]:
        if not line.startswith("#"):
            break
        key, _, value = line.removeprefix("#").rstrip("\r").partition(separator)
        said.setdefault(key, value)
    if len(separator) != 1 or "fields" not in said:
        raise _unreadable(path, "the header of a log of Zeek must have #separator of one character and #fields")
    # IoT-23 has blanks between the last three columns
    joint = re.search("   +", said["fields"])
    names = re.split("   +|" + re.escape(separator), said["fields"]) if joint else said["fields"].split(separator)
    return _Dialect(
        separator, tuple(names), quoted=False, unset=said.get("unset_field", "-"),
        empty=said.get("empty_field", "(empty)"), joint=joint[0].encode() if joint else b"",
    )  # fmt: skip


class _LineReader(TableReader):
    """Reader of separated values."""

    def __init__(
        self,
        path: str,
        file: CaptureBytes,
        dialect: _Dialect,
        first: tuple[str, ...] = (),
        *,
        self_described: bool = False,
    ):
        self.names = dialect.names
        self.self_described = self_described
        self._path = path
        self._file = file
        self._dialect = dialect
        self._first = first

    def first_row(self) -> tuple[str, ...]:
        """Returns the cells of the first line."""
        return self._first

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yields some columns."""
        dialect = self._dialect
        schema = {f"column_{at + 1}": pl.String() for at in range(len(dialect.names))}
        places = {name: f"column_{dialect.names.index(name) + 1}" for name in columns}
        for lines in _pieces(self._path, self._file, quoted=dialect.quoted):
            if self.self_described:
                self._require_one_header(lines)
            if dialect.joint:
                lines = lines.replace(dialect.joint, dialect.separator.encode())
            try:
                frame = pl.read_csv(
                    lines, has_header=False, schema=schema, columns=sorted({*places.values()}, key=list(schema).index),
                    separator=dialect.separator, quote_char='"' if dialect.quoted else None, encoding="utf8-lossy",
                    comment_prefix="#" if self.self_described else None, truncate_ragged_lines=True,
                    missing_columns="insert", raise_if_empty=False,
                )  # fmt: skip
            except pl.exceptions.PolarsError as error:
                raise _unreadable(self._path, str(error).splitlines()[0]) from None
            unset = [text for text in (dialect.unset, dialect.empty) if text]
            yield frame.select(**{name: _text(pl.col(place), unset) for name, place in places.items()})

    def _require_one_header(self, lines: bytes) -> None:
        """Checks that logs which were joined to one have the same columns."""
        if b"\n#fields" not in lines and not lines.startswith(b"#fields"):
            return
        separator, joint = self._dialect.separator, self._dialect.joint.decode()
        for line in re.findall(rb"(?m)^#fields(.*)$", lines):
            text = line.decode(errors="replace").strip("\r" + separator)
            names = (text.replace(joint, separator) if joint else text).split(separator)
            if tuple(names) != self.names:
                raise _unreadable(
                    self._path,
                    f"it has a second header with other columns, {', '.join(names)}; split it into one log each",
                )


class _JsonReader(TableReader):
    """Reader of objects, one a line; its names are the keys of the first thousand."""

    self_described = True
    omitted = ("src_port", "dst_port", "protocol", "end", "duration_s", "duration_ms", "duration_us")

    def __init__(self, path: str, file: CaptureBytes):
        self._path = path
        self._file = file
        lines = file.window.tobytes().split(b"\n")
        rows = [_parsed(line) for line in lines[: 1000 if file.complete or len(lines) > 1000 else -1] or lines]
        self.names = tuple(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yields some columns."""
        schema = {name: pl.String() for name in columns}
        for lines in _pieces(self._path, self._file, quoted=False):
            try:
                frame = pl.read_ndjson(lines, schema=schema)
            except pl.exceptions.PolarsError:
                raise _unreadable(self._path, _bad_line(lines)) from None
            yield frame.select(**{name: _text(pl.col(name), ["-"]) for name in columns})


def _bad_line(lines: bytes) -> str:
    bad = next((line for line in lines.split(b"\n") if line.strip() and not isinstance(_parsed(line), dict)), b"")
    return f"each line must be a JSON object, got {bad[:80].decode(errors='replace')!r}"


class _ParquetReader(TableReader):
    """Reader of Parquet."""

    def __init__(self, path: str):
        self._path = path
        self._frame = pl.scan_parquet(path)
        try:
            self._schema = self._frame.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(path, str(error).splitlines()[0]) from None
        self._found: dict[str, str] = {}
        for name in self._schema.names():
            self._found.setdefault(name.strip(), name)
        self.names = tuple(self._found)

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yields some columns."""
        wanted = {}
        for name in columns:
            column = pl.col(self._found[name])
            wanted[name] = column if self._schema[self._found[name]].is_temporal() else _text(column)
        try:
            yield from self._frame.select(**wanted).collect_batches(chunk_size=_PARQUET_ROWS, maintain_order=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(self._path, str(error).splitlines()[0]) from None


def _pieces(path: str, file: CaptureBytes, *, quoted: bool) -> Iterator[bytes]:
    """Yields the content of a file in pieces of whole lines."""
    while len(file.window):
        cut = len(file.window) if file.complete else _last_line_end(file.window, quoted=quoted)
        if cut == 0 and len(file.window) < _LONGEST_ROW:
            file.grow()
            continue
        if cut == 0:
            cut = _last_line_end(file.window, quoted=False) or len(file.window)
        yield file.window[:cut].tobytes()
        file.advance(cut)
        if not len(file.window) and not file.complete:
            file.grow()
    if file.damage:
        raise _unreadable(path, file.damage.detail)


def _last_line_end(window: np.ndarray, *, quoted: bool) -> int:
    """Returns the number of bytes up to the last line end outside quotes; 0 if there is none."""
    ends = np.flatnonzero(window == _NEWLINE)
    if quoted and len(ends):
        quotes = np.flatnonzero(window == _QUOTE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return int(ends[-1]) + 1 if len(ends) else 0


def _text(column: pl.Expr, unset: Sequence[str] = ()) -> pl.Expr:
    text = column.cast(pl.String).str.strip_chars()
    return pl.when((text != "") & ~text.is_in(list(unset)) if unset else text != "").then(text)


def _unreadable(path: str, reason: str) -> FlowloomError:
    return FlowloomError(f"{path}: the table cannot be read ({reason}); correct its path, or copy it again")
