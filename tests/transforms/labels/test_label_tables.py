"""Flow tables and packet tables: times, zones, addresses and labels in common formats; every row is accounted for."""

import gzip
import ipaddress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from flowloom.schemas.arrow.label_windows import WINDOW_KEY
from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.labels.label_tables import TableSummary, read_label_table, read_packet_labels
from flowloom.transforms.labels.table_times import TimeReader

ATTACK = Task(name="attack", kind="binary")
HEADER = "Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration, Label"
COLUMNS = {
    "src_ip": "Source IP", "dst_ip": "Destination IP", "src_port": "Source Port", "dst_port": "Destination Port",
    "protocol": "Protocol", "start": "Timestamp", "duration_us": "Flow Duration", "label": "Label",
}  # fmt: skip
SECOND = 1_000_000_000
NINE_O_CLOCK_S = 1_499_072_158
"""2017-07-03 08:55:58 UTC."""


def table(**fields) -> LabelTable:
    described = {
        "path": "labels.csv", "task": "attack", "columns": COLUMNS, "time_format": "%d/%m/%Y %H:%M:%S",
        "words": {"BENIGN": "negative", "DoS Hulk": True},
    }  # fmt: skip
    return LabelTable.model_validate(described | fields)


def read(tmp_path: Path, rows: list[str], described: LabelTable | None = None, header: str = HEADER):
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    windows, summary = windows_of(described or table(), tmp_path / "labels.csv")
    return windows, summary.rejects("labels.csv").to_pylist()


def windows_of(described: LabelTable, path: Path) -> tuple[list[dict[str, Any]], TableSummary]:
    """Returns the label windows of a table, without columns that do not count, and its summary."""
    batches: list[pa.RecordBatch] = []
    summary = read_label_table(described, str(path), ATTACK, batches.append)
    rows = [row for batch in batches for row in batch.to_pylist()]
    for row in rows:
        mask = row.pop("mask")
        for at, name in enumerate(WINDOW_KEY):
            if not mask >> at & 1:
                del row[name]
    return rows, summary


GOOD = "x,10.0.0.1,1234,fd00::2,80,6,03/07/2017 08:55:58,1500000,BENIGN"


def test_a_row_becomes_a_window(tmp_path):
    (window,), rejects = read(tmp_path, [GOOD])
    assert rejects == []
    assert window == {
        "src_ip": ipaddress.ip_address("::ffff:10.0.0.1").packed, "dst_ip": ipaddress.ip_address("fd00::2").packed,
        "src_port": 1234, "dst_port": 80, "protocol": 6, "first_ns": NINE_O_CLOCK_S * SECOND,
        "last_ns": NINE_O_CLOCK_S * SECOND + 3 * SECOND // 2, "code": 0, "confidence": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "moved_s"),
    [
        ({"clock_offset_s": -10800}, 10800),
        ({"clock_offset_s": 0.5}, -0.5),
        ({"time_zone": "America/Halifax"}, 10800),
        ({"time_zone": "Europe/Berlin"}, -7200),
        ({"time_zone": "America/Halifax", "clock_offset_s": 10800}, 0),
    ],
)
def test_times_are_moved_to_the_clock_of_the_capture(tmp_path, fields, moved_s):
    (window,), _ = read(tmp_path, [GOOD], table(**fields))
    assert window["first_ns"] == (NINE_O_CLOCK_S + moved_s) * SECOND


def test_clocks_that_change_skip_or_repeat_an_hour(tmp_path):
    rows = [GOOD.replace("03/07/2017 08:55:58", time) for time in ("26/03/2017 02:30:00", "29/10/2017 02:30:00")]
    (window,), (reject,) = read(tmp_path, rows, table(time_zone="Europe/Berlin"))
    assert window["first_ns"] == 1_509_237_000 * SECOND  # 00:30 UTC, the earlier of the two
    assert (reject["offset"], reject["reason"]) == (1, "label-rows")


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("epoch_s", "1499072158"), ("epoch_s", "1499072158.000000000"), ("epoch_ms", "1499072158000"),
        ("epoch_us", "1499072158000000"), ("epoch_ns", "1499072158000000000"), ("%s", "1499072158"),
        ("%Y-%m-%d %H:%M:%S%.f", "2017-07-03 08:55:58.000"), ("%Y-%m-%d %H:%M:%S%.f", "2017-07-03 08:55:58"),
        ("%Y-%m-%dT%H:%M:%S%z", "2017-07-03T10:55:58+0200"), ("%d/%m/%Y %I:%M:%S %p", "3/7/2017 08:55:58 AM"),
    ],
)  # fmt: skip
def test_time_formats(tmp_path, time_format, text):
    (window,), _ = read(tmp_path, [GOOD.replace("03/07/2017 08:55:58", text)], table(time_format=time_format))
    assert window["first_ns"] == NINE_O_CLOCK_S * SECOND


def test_fractions_are_exact(tmp_path):
    rows = [GOOD.replace("03/07/2017 08:55:58", "1499072158.123456789")]
    (window,), _ = read(tmp_path, rows, table(time_format="epoch_s"))
    assert window["first_ns"] == NINE_O_CLOCK_S * SECOND + 123_456_789


def test_unreadable_rows_are_counted_by_cause(tmp_path):
    rows = [
        GOOD,
        GOOD.replace("10.0.0.1", "10.0.0"),
        GOOD.replace("10.0.0.1", "host"),
        GOOD.replace("08:55:58", "8 o'clock"),
        GOOD.replace(",80,", ",65536,"),
        GOOD.replace(",6,", ",tpc,"),
        GOOD.replace("1500000", "-1"),
        GOOD.replace("BENIGN", ""),
        ",,,,,,,,",
        GOOD,
    ]
    windows, rejects = read(tmp_path, rows)
    assert len(windows) == 2
    assert sorted((row["offset"], row["reason"]) for row in rejects) == [
        (at, "label-rows") for at in (2, 4, 5, 6, 7, 8)
    ]
    assert {row["uri"] for row in rejects} == {"labels.csv"}
    by_row = {row["offset"]: row["detail"] for row in rejects}
    assert by_row[2] == "3 rows rejected, first row 2: src_ip must be an IPv4 or IPv6 address, got '10.0.0'"
    assert "got '65536'" in by_row[5]


def test_ports_and_protocols_as_tables_write_them(tmp_path):
    rows = [
        GOOD.replace(",1234,", ",,").replace(",80,", ",443.0,").replace(",6,", f",{name},") for name in ("UDP", "17")
    ]
    windows, rejects = read(tmp_path, rows)
    assert rejects == []
    assert {(w["src_port"], w["dst_port"], w["protocol"]) for w in windows} == {(0, 443, 17)}


@pytest.mark.parametrize("rows", [[], ["x,y,z,,,,,,", "short"]])
def test_a_table_without_readable_rows_labels_nothing(tmp_path, rows):
    windows, rejects = read(tmp_path, rows)
    assert windows == []
    assert sum(int(reject["detail"].split(" ")[0]) for reject in rejects) == len(rows)


def test_a_byte_order_mark_and_windows_line_ends_do_not_count(tmp_path):
    described = table(columns={"dst_ip": "Destination IP", "start": "Timestamp", "label": "Label"})
    text = "Label,Destination IP,Timestamp\r\nBENIGN,10.0.0.1,03/07/2017 08:55:58\r\n"
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    windows, summary = windows_of(described, tmp_path / "labels.csv")
    assert ([window["code"] for window in windows], summary.rejected) == ([0], 0)


def test_unnamed_columns_are_not_compared(tmp_path):
    described = table(columns={"dst_ip": "Destination IP", "start": "Timestamp", "label": "Label"})
    (window,), _ = read(tmp_path, [GOOD], described)
    assert list(window) == ["dst_ip", "first_ns", "last_ns", "code", "confidence"]
    assert window["first_ns"] == window["last_ns"]


def test_an_undefined_label_is_reported_with_its_row_and_the_nearest(tmp_path):
    rows = [GOOD, GOOD.replace("BENIGN", "DoS Hulc"), GOOD.replace("BENIGN", "Bot")]
    with pytest.raises(FlowloomError) as caught:
        read(tmp_path, rows)
    for part in ("row 2", "'DoS Hulc' (and 1 more", "did you mean 'DoS Hulk'", "unknown_words: unknown"):
        assert part in str(caught.value)
    windows, _ = read(tmp_path, rows, table(unknown_words="unknown"))
    assert [window["code"] for window in windows] == [0, -1, -1]
    windows, _ = read(tmp_path, rows, table(words={"BENIGN": False, "Bot": None, "DoS Hulc": True}))
    assert [window["code"] for window in windows] == [0, 1, -1]


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    described = table(columns={**COLUMNS, "label": "Lable"})
    with pytest.raises(FlowloomError, match=r"the columns 'Lable', got Flow ID, .*; did you mean 'Label'\?"):
        read(tmp_path, [GOOD], described)


@pytest.mark.parametrize("path", ["missing.csv", "missing.parquet", "folder"])
def test_a_table_that_cannot_be_read_is_named(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FlowloomError, match=f"{path}: the table cannot be read"):
        windows_of(table(), tmp_path / path)


def test_parquet_and_compressed_tables_read_the_same(tmp_path):
    windows, _ = read(tmp_path, [GOOD] * 3)
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress((tmp_path / "labels.csv").read_bytes()))
    frame = pl.read_csv(tmp_path / "labels.csv").rename(str.strip)
    frame = frame.with_columns(pl.col("Timestamp").str.strip_chars().str.to_datetime("%d/%m/%Y %H:%M:%S"))
    frame.write_parquet(tmp_path / "labels.parquet")
    for name in ("labels.csv.gz", "labels.parquet"):
        assert windows_of(table(), tmp_path / name)[0] == windows


@pytest.mark.parametrize(
    ("text", "first", "hour"),
    [
        ("03/07/2017 08:55:58", 7, 8), ("03/07/2017 12:10:00", 7, 12), ("03/07/2017 01:10:00", 7, 13),
        ("03/07/2017 06:59:59", 7, 18), ("03/07/2017 07:00:00", 7, 7), ("03/07/2017 13:10:00", 7, 13),
        ("03/07/2017 12:10:00", 0, 0), ("03/07/2017 11:10:00", 0, 11),
    ],
)  # fmt: skip
def test_clocks_of_twelve_hours(tmp_path, text, first, hour):
    (window,), _ = read(tmp_path, [GOOD.replace("03/07/2017 08:55:58", text)], table(twelve_hour_from=first))
    assert window["first_ns"] // (3600 * SECOND) % 24 == hour


@pytest.mark.parametrize(
    ("hours", "first"),
    [
        ((8, 9, 12, 1, 2, 5), 8), ((9, 3), 9), ((8, 9, 12, 13, 1), None), ((1, 2, 8, 9), None), ((8, 0, 2), None),
        ((1, 2, 5), None), ((8, 9, 11), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows_a_batch", [1, 100])
def test_hours_that_go_back_from_morning_to_afternoon_are_found_out(hours, first, rows_a_batch):
    times = [f"03/07/2017 {hour:02d}:10:00" for hour in hours]
    reader = TimeReader(table())
    for at in range(0, len(times), rows_a_batch):
        reader.times_ns(pl.Series(times[at : at + rows_a_batch]), begin=True)
    assert reader.twelve_hour_from == first


def test_several_formats_are_tried_in_their_order(tmp_path):
    texts = ["1499072158", "2017-07-03 08:55:58", "3/7/2017 8:55", "3/7/2017 8:55:58.5", "soon"]
    rows = [GOOD.replace("03/07/2017 08:55:58", text) for text in texts]
    windows, (reject,) = read(tmp_path, rows, table(time_format=["epoch_s", "%d/%m/%Y %H:%M", "%Y-%m-%d %H:%M:%S"]))
    seconds = [window["first_ns"] / SECOND - NINE_O_CLOCK_S for window in windows]
    assert seconds == [0, 0, -58, 0.5]
    assert reject["offset"] == 5


def test_rows_of_protocols_without_ports_match_by_hosts(tmp_path):
    rows = [GOOD.replace(",6,", f",{name},") for name in ("1", "icmp", "ipv6-icmp", "gre", "0")]
    windows, _ = read(tmp_path, rows)
    assert [("src_port" in window, window.get("protocol")) for window in windows] == [
        (False, 1), (False, 1), (False, 58), (False, 47), (True, None),
    ]  # fmt: skip
    assert windows[-1]["src_port"] == 0, "protocol 0 is any protocol whose flows have no ports"


def test_empty_cells_match_any_value_where_the_manifest_says_so(tmp_path):
    rows = [GOOD.replace("10.0.0.1,1234,", ",,"), GOOD.replace(",6,", ",,"), GOOD]
    windows, rejects = read(tmp_path, rows, table(empty_matches_any=True))
    keys = [{name for name in WINDOW_KEY if name in window} for window in windows]
    assert keys == [{"dst_ip", "dst_port", "protocol"}, {*WINDOW_KEY} - {"protocol"}, {*WINDOW_KEY}]
    assert rejects == []
    windows, rejects = read(tmp_path, rows)
    assert len(windows) == 1
    assert len(rejects) == 2


def test_a_row_without_an_end_is_a_moment(tmp_path):
    windows, rejects = read(tmp_path, [GOOD.replace(",1500000,", ",,"), GOOD.replace(",1500000,", ",x,")])
    assert [window["last_ns"] - window["first_ns"] for window in windows] == [0]
    assert [reject["offset"] for reject in rejects] == [2]


def test_rows_of_all_batches_have_their_own_numbers(tmp_path):
    rows = [GOOD] * 30_000
    rows[29_000] = GOOD.replace("10.0.0.1", "host")
    windows, (reject,) = read(tmp_path, rows)
    assert (len(windows), reject["offset"]) == (29_999, 29_001)
    rows[29_500] = GOOD.replace("BENIGN", "Bot")
    with pytest.raises(FlowloomError, match="row 29501: label of task 'attack'"):
        read(tmp_path, rows)


def test_iot23_is_read_as_it_is(real_data):
    keys = {"path": "conn.log.labeled", "task": "attack", "preset": "zeek"}
    described = LabelTable.model_validate({**keys, "words": {"Benign": "negative", "Malicious": "positive"}})
    windows, summary = windows_of(described, real_data / "iot23" / "conn.log.labeled.xz")
    assert (summary.rows, summary.rejected, len(windows)) == (23_145, 0, 23_145)


@pytest.mark.parametrize(
    ("text", "fields", "codes"),
    [
        ("0\r\n1\r\n0\r\n", {}, [0, 1, 0]),
        ("index,label\n1,0\n2,1\n", {"header": True}, [0, 1]),
        ("label,index\n1,0\n0,0\n", {"header": True, "column": "label"}, [1, 0]),
        ("benign\nscan\n\nbenign\n", {"words": {"benign": False, "scan": True}}, [0, 1, -1, 0]),
    ],
)
def test_packet_tables(tmp_path, text, fields, codes):
    (tmp_path / "labels.csv").write_text(text, newline="")
    described = PacketTable(path="labels.csv", task="attack", **fields)
    assert read_packet_labels(described, str(tmp_path / "labels.csv"), ATTACK).tolist() == codes


def test_kitsunes_labels_are_read(real_data):
    described = PacketTable(path="labels.csv", task="attack")
    codes = read_packet_labels(described, str(real_data / "kitsune-mirai" / "mirai_labels.csv.xz"), ATTACK)
    assert (len(codes), int(codes.argmax()), int(codes.sum())) == (764_137, 121_621, 642_516)
