"""Rows as text: columns that CSV can hold, and lines of JSON."""

import json

import pyarrow as pa
import pyarrow.compute as pc

LIST_SEPARATOR = "|"
"""Character between the items of a list in CSV: `60|52|1500`."""


def csv_columns(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns rows whose columns CSV can hold.

    Bytes become hexadecimal digits, times `2023-11-14 22:13:20.000000000Z`, and lists their items with `|` between
    them; null stays null.
    """
    columns = [_csv_column(column) for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def csv_schema(schema: pa.Schema) -> pa.Schema:
    """Returns the schema that `csv_columns` gives rows of a schema."""
    return csv_columns(pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)).schema


def json_lines(rows: pa.RecordBatch) -> bytes:
    """Returns one JSON object for each row, each on a line of its own.

    Bytes are hexadecimal digits, times as in RFC 3339, lists arrays, and null is null.
    """
    if not rows.num_rows:
        return b""
    parts: list[pa.Array | str] = []
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        parts += [f"{',' if parts else '{'}{json.dumps(name)}:", pc.fill_null(_json_column(column), "null")]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    return "".join(lines.to_pylist()).encode()


def _csv_column(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind):
        return pc.binary_join(pc.cast(column, pa.list_(pa.string())), LIST_SEPARATOR)
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return _hexadecimal(column)
    if pa.types.is_timestamp(kind):
        return pc.cast(column, pa.string())
    return column


def _json_column(column: pa.Array) -> pa.Array:
    """Returns values as the text of JSON; null stays null."""
    kind = column.type
    if pa.types.is_list(kind):
        items = pc.binary_join(pc.cast(column, pa.list_(pa.string())), ",")
        return pc.binary_join_element_wise("[", items, "]", "")
    if pa.types.is_string(kind):
        coded = column.dictionary_encode()
        return pa.array([json.dumps(text) for text in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)
    if pa.types.is_integer(kind):
        return pc.cast(column, pa.string())
    text = _hexadecimal(column) if pa.types.is_fixed_size_binary(kind) else _rfc3339(column)
    return pc.binary_join_element_wise('"', text, '"', "")


def _hexadecimal(column: pa.Array) -> pa.Array:
    return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())


def _rfc3339(column: pa.Array) -> pa.Array:
    return pc.replace_substring(pc.cast(column, pa.string()), " ", "T", max_replacements=1)
