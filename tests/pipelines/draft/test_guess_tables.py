"""Guesses about label tables by their content: logs of Zeek, tables without a header, clocks of twelve hours."""

from pathlib import Path

import pytest

from flowloom.pipelines.draft.guess_tables import TableGuess, guess_table
from flowloom.schemas.corpus.label_table import LabelTable

ZEEK = (
    "#separator \\x09\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration"
    "\ttunnel_parents   label   detailed-label\n"
    "1499256000.000000\t192.0.2.10\t40000\t198.51.100.20\t22\ttcp\t1.0\t-   Benign   -\n"
    "1499256600.000000\t192.0.2.10\t40000\t198.51.100.20\t22\ttcp\t-\t-   Malicious   C&C\n"
)
NO_HEADER = (
    "192.0.2.10,40000,198.51.100.20,22,tcp,CON,1.0,1,1499256000,1499256001,,0\n"
    "192.0.2.10,0x9c40,198.51.100.20,-,udp,CON,1.0,1,1499256600,1499256601, Fuzzers ,1\n"
)
AFTERNOON = (
    "Source IP,Destination IP,Timestamp,Label\n192.0.2.10,198.51.100.20,5/7/2017 8:42,BENIGN\n"
    "192.0.2.10,198.51.100.20,5/7/2017 2:15,DoS\n192.0.2.10,198.51.100.20,05/07/2017 03:30:12,BENIGN\n"
)
BINETFLOW = (
    "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,Label\n"
    "2017/07/05 12:00:00.000000,1.0,tcp,192.0.2.10,40000,   ->,198.51.100.20,22,flow=Background\n"
    "2017/07/05 12:10:00.000000,1.0,tcp,192.0.2.10,40000,   ->,198.51.100.20,22,flow=From-Botnet-V42-TCP\n"
)


def guessed(folder: Path, name: str, text: str) -> TableGuess:
    (folder / name).write_text(text)
    guess = guess_table(str(folder), name)
    assert isinstance(guess, TableGuess), guess
    return guess


def test_a_log_of_zeek_names_its_columns(tmp_path):
    guess = guessed(tmp_path, "conn.log.labeled", ZEEK)
    assert guess.columns == {
        "src_ip": "id.orig_h", "dst_ip": "id.resp_h", "src_port": "id.orig_p", "dst_port": "id.resp_p",
        "protocol": "proto", "start": "ts", "duration_s": "duration",
    }  # fmt: skip
    assert (guess.time_formats, guess.self_described) == (("epoch_s",), True)
    assert guess.tasks["label"] == ("Benign", "Malicious")


def test_a_table_without_a_header_is_known_by_content(tmp_path):
    guess = guessed(tmp_path, "UNSW.csv", NO_HEADER)
    assert guess.columns == {
        "src_ip": 1, "src_port": 2, "dst_ip": 3, "dst_port": 4, "protocol": 5, "start": 9,
    }  # fmt: skip
    assert (guess.header, guess.tasks) == (False, {12: ("0", "1")})


def test_hours_that_go_back_are_of_a_clock_of_twelve(tmp_path):
    guess = guessed(tmp_path, "Wednesday.csv", AFTERNOON)
    assert (guess.twelve_hour_from, guess.tolerance_s) == (8, 60)
    assert set(guess.time_formats) == {"%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S"}
    hours = [start // 3_600_000_000_000 % 24 for start in guess.starts_ns.to_list()]
    assert hours == [8, 14, 15]


def test_labels_of_ctu13_get_patterns(tmp_path):
    guess = guessed(tmp_path, "capture20110810.binetflow", BINETFLOW)
    assert guess.words["Label"]["flow=*Botnet*"] == "positive"
    assert guess.columns["duration_s"] == "Dur"


@pytest.mark.parametrize(("name", "text"), [("a.log", ZEEK), ("a.csv", NO_HEADER), ("b.csv", AFTERNOON)])
def test_what_is_guessed_is_valid_in_a_manifest(tmp_path, name, text):
    guess = guessed(tmp_path, name, text)
    (column, *_) = guess.tasks
    keys = {"header": guess.header, "time_format": guess.time_formats, "twelve_hour_from": guess.twelve_hour_from}
    table = LabelTable.model_validate(
        {"path": name, "task": "t", "columns": {**guess.columns, "label": column}, **keys, "separator": guess.separator}
    )
    assert table.columns.label == column
