"""Files of tables: what is read in pieces is what other readers read whole; damage and second headers are reported."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import polars as pl
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.labels.table_files import table_of


def read(path: Path, columns: list[str], separator: str = ",", *, header: bool = True) -> list[tuple[str | None, ...]]:
    with table_of(str(path), separator, header=header) as reader:
        return [row for batch in reader.batches(columns) for row in batch.rows()]


def cells(draws: random.Random) -> list[str]:
    kinds = ["x" * draws.randrange(40), f' "{draws.random()}', "two\nlines", "a,b", "", " spaced ", '""', "é"]
    return [draws.choice(kinds) for _ in range(4)]


@pytest.mark.parametrize("compressed", [False, True])
def test_pieces_equal_the_whole_file_as_another_reader_reads_it(tmp_path, compressed):
    draws = random.Random(5)
    text = io.StringIO()
    csv.writer(text).writerows([["a", " b ", "b", "c"], *(cells(draws) for _ in range(40_000))])
    content = text.getvalue().encode()
    path = tmp_path / ("t.csv.gz" if compressed else "t.csv")
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert len(content) > 1 << 20, "the file must have several pieces"
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]
    stripped = [tuple(cell.strip() or None for cell in row) for row in rows]
    assert read(path, ["c", "b"]) == [(row[3], row[1]) for row in stripped]


def test_ragged_lines_are_filled_or_cut(tmp_path):
    (tmp_path / "t.csv").write_text("1,2,3\n4,5\n6,7,8,9\n")
    assert read(tmp_path / "t.csv", ["1", "3"], header=False) == [("1", "3"), ("4", None), ("6", "8")]


ZEEK = "#separator \\x09\n#empty_field\t(empty)\n#unset_field\t-\n#fields\tts\tuid\tlabel\n"


def test_a_log_of_zeek_has_one_header_or_the_same_again(tmp_path):
    path = tmp_path / "conn.log"
    path.write_text(ZEEK + '1.5\tC"1\tBenign\n#close\tx\n' + ZEEK + "2.5\t(empty)\t-\n")
    assert read(path, ["ts", "uid", "label"]) == [("1.5", 'C"1', "Benign"), ("2.5", None, None)]
    path.write_text(ZEEK + "1.5\tC1\tBenign\n" + ZEEK.replace("uid", "host"))
    with pytest.raises(FlowloomError, match=r"conn.log: .*a second header with other columns, ts, host, label"):
        read(path, ["ts"])


def test_json_keeps_the_digits_of_times_and_may_omit_keys(tmp_path):
    rows = [{"ts": 1499256000.123456, "a": at, "b": None} | ({"late": "x"} if at > 1 else {}) for at in range(3)]
    (tmp_path / "conn.log").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read(tmp_path / "conn.log", ["ts", "late"]) == [
        ("1499256000.123456", None), ("1499256000.123456", None), ("1499256000.123456", "x"),
    ]  # fmt: skip
    (tmp_path / "conn.log").write_text('{"ts": 1}\n[2]\n')
    with pytest.raises(FlowloomError, match=r"each line must be a JSON object, got '\[2\]'"):
        read(tmp_path / "conn.log", ["ts"])


@pytest.mark.parametrize("content", [b"#separator \\x09\n", b"#separator \\x09\\x09\n#fields\ta\n"])
def test_a_log_of_zeek_without_columns_is_reported(tmp_path, content):
    (tmp_path / "conn.log").write_bytes(content)
    with pytest.raises(FlowloomError, match=r"conn.log: the table cannot be read \(the header of a log of Zeek must"):
        read(tmp_path / "conn.log", ["a"])


def test_a_damaged_file_is_reported_after_what_was_read(tmp_path):
    content = gzip.compress("\n".join(["a,b", *(f"{at},{at * 7919}" for at in range(90_000))]).encode())
    (tmp_path / "t.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(FlowloomError, match=r"t.csv.gz: the table cannot be read \(the gz stream is damaged"):
        read(tmp_path / "t.csv.gz", ["a"])


def test_parquet_is_read_in_batches(tmp_path):
    pl.DataFrame({" a ": list(range(300_000)), "b": ["x", ""] * 150_000}).write_parquet(tmp_path / "t.parquet")
    with table_of(str(tmp_path / "t.parquet"), ",", header=True) as reader:
        batches = list(reader.batches(["b", "a"]))
    assert len(batches) > 1
    assert pl.concat(batches).rows() == [("x" if at % 2 == 0 else None, str(at)) for at in range(300_000)]
