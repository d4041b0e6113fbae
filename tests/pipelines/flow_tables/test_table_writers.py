"""Files of rows: one format for each suffix, and all files of a job appear together or none does."""

import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from flowloom.pipelines.flow_tables.table_writers import FORMATS, format_of, written_tables
from flowloom.schemas.errors import FlowloomError

SCHEMA = pa.schema([("n", pa.int64()), ("list", pa.list_(pa.int64()))])
ROWS = [pa.RecordBatch.from_pylist([{"n": at, "list": [at, -at]}], SCHEMA) for at in range(3)]
READERS = {
    ".parquet": pl.read_parquet,
    ".arrow": pl.read_ipc,
    ".jsonl": pl.read_ndjson,
    ".csv": pl.read_csv,
    ".csv.gz": pl.read_csv,
}


def fail_after_a_row(paths: list[Path]) -> None:
    with written_tables(dict.fromkeys(paths, SCHEMA)) as (write, *_):
        write(ROWS[0])
        raise RuntimeError


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_read_by_polars_and_has_the_same_bytes_again(suffix, tmp_path):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}{suffix}"
        with written_tables({path: SCHEMA}) as (write,):
            for rows in ROWS:
                write(rows)
        contents.append(path.read_bytes())
    table = READERS[suffix](path)
    assert table["n"].to_list() == [0, 1, 2]
    lists = table["list"].to_list()
    assert lists == (["0|0", "1|-1", "2|-2"] if "csv" in suffix else [[0, 0], [1, -1], [2, -2]])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_without_rows_has_its_columns(suffix, tmp_path):
    path = tmp_path / f"empty{suffix}"
    with written_tables({path: SCHEMA}):
        pass
    if suffix == ".jsonl":
        assert path.read_bytes() == b""
    else:
        assert READERS[suffix](path).columns == ["n", "list"]


def test_no_file_is_visible_before_all_are_complete(tmp_path):
    paths = [tmp_path / "flows.csv", tmp_path / "captures.parquet"]
    with pytest.raises(RuntimeError):
        fail_after_a_row(paths)
    assert list(tmp_path.iterdir()) == []
    with written_tables(dict.fromkeys(paths, SCHEMA)) as writes:
        for write in writes:
            write(ROWS[0])
        assert not any(path.exists() for path in paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captures.parquet", "flows.csv"]


def test_an_earlier_file_stays_when_a_job_fails(tmp_path):
    path = tmp_path / "flows.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError):
        fail_after_a_row([path])
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("name", ["flows", "flows.txt", "flows.gz", "flows.parquet.zip"])
def test_another_suffix_is_refused_with_those_there_are(name):
    message = (
        f"the name of an output must end in .parquet, .csv, .csv.gz, .arrow, .jsonl, or be -, got {name}; rename it"
    )
    with pytest.raises(FlowloomError, match=f"^{re.escape(message)}$"):
        format_of(name)


def test_a_missing_folder_is_told(tmp_path):
    missing = tmp_path / "none" / "f.csv"
    with pytest.raises(FlowloomError, match="the folder of the output must exist"), written_tables({missing: SCHEMA}):
        pass
    assert format_of(Path("F.PARQUET")) == ".parquet"


WRITING = """
import pathlib, sys, time, pyarrow as pa
from flowloom.pipelines.flow_tables.table_writers import written_tables
path = pathlib.Path(sys.argv[1])
with written_tables({path: pa.schema([("a", pa.int64())])}):
    print("writing", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_does_not_keep_the_next_one_from_writing(tmp_path):
    path = tmp_path / "out.csv"
    killed = subprocess.Popen([sys.executable, "-c", WRITING, path], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "writing\n"
    with pytest.raises(FlowloomError, match=f"in use by process {killed.pid} "), written_tables({path: SCHEMA}):
        pass
    killed.kill()
    killed.communicate()
    assert (tmp_path / ".out.csv.lock").exists(), "what a killed process leaves"
    with written_tables({path: SCHEMA}) as (write,):
        write(ROWS[0])
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
    assert pl.read_csv(path).height == 1
