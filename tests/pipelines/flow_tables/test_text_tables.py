"""Rows as text: what Python's csv and json modules read back is what was written."""

import csv
import datetime as dt
import io
import json

import pyarrow as pa
import pyarrow.csv
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.pipelines.flow_tables.text_tables import csv_columns, csv_schema, json_lines
from flowloom.schemas.arrow.rows import FLOWS

SCHEMA = pa.schema(
    [
        ("id", pa.binary(4)),
        ("name", pa.string()),
        ("count", pa.uint64()),
        ("time", pa.timestamp("ns", tz="UTC")),
        ("items", pa.list_(pa.field("item", pa.int64(), nullable=False))),
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.binary(min_size=4, max_size=4),
            "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
            "count": st.none() | st.integers(0, 2**64 - 1),
            "time": st.none() | st.integers(0, 2**62),
            "items": st.lists(st.integers(-(2**62), 2**62), max_size=4),
        }
    ),
    max_size=6,
)


def instant(ns: int) -> str:
    """Returns a time as Arrow writes it."""
    seconds, rest = divmod(ns, 10**9)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}Z"


@settings(deadline=None)
@given(ROWS)
def test_json_reads_every_value_back(rows):
    lines = json_lines(pa.RecordBatch.from_pylist(rows, SCHEMA)).decode()
    found = [json.loads(line) for line in lines.split("\n")[:-1]]
    assert found == [
        {
            **row,
            "id": row["id"].hex(),
            "time": None if row["time"] is None else instant(row["time"]).replace(" ", "T"),
        }
        for row in rows
    ]


@settings(deadline=None)
@given(ROWS)
def test_csv_reads_every_value_back(rows):
    file = io.BytesIO()
    with pyarrow.csv.CSVWriter(file, csv_schema(SCHEMA)) as writer:
        writer.write(csv_columns(pa.RecordBatch.from_pylist(rows, SCHEMA)))
    found = csv.DictReader(io.StringIO(file.getvalue().decode(), newline=""))
    assert list(found) == [
        {
            "id": row["id"].hex(),
            "name": row["name"],
            "count": "" if row["count"] is None else str(row["count"]),
            "time": "" if row["time"] is None else instant(row["time"]),
            "items": "|".join(map(str, row["items"])),
        }
        for row in rows
    ]


def test_all_columns_of_flows_have_a_text():
    assert csv_schema(FLOWS).names == FLOWS.names
    assert {str(field.type) for field in csv_schema(FLOWS)} <= {
        "string",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    }
