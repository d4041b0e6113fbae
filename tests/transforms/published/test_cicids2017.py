"""CICIDS2017 tables: every variant of headers and labels, numbers that are none, and the published counts."""

import collections
import tarfile

import polars as pl
import pyarrow as pa
import pytest

from flowloom.schemas.arrow.feature_tables import CICIDS_FEATURES, feature_columns
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.published.cicids2017 import read_cicids_tables
from flowloom.transforms.published.published_rejects import Rejects

SOME = ("flow_duration", "flow_bytes_per_s", "fwd_header_length", "fwd_header_length_1")


def read(path, **how) -> tuple[list[dict], Rejects]:
    rejects = Rejects()
    rows = [row for batch in read_cicids_tables(str(path), rejects, **how) for row in batch.to_pylist()]
    return rows, rejects


@pytest.mark.parametrize(
    "header",
    [
        b"Flow Duration,Flow Bytes/s,Fwd Header Length,Fwd Header Length,Label",
        b" Flow Duration,Flow Bytes/s, Fwd Header Length, Fwd Header Length.1, Label",
        b"\xef\xbb\xbfFlow Duration,Flow Bytes/s,Fwd Header Length,Fwd Header Length.1,Attack Type",
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_header_variants_mean_the_same(tmp_path, header, end):
    (tmp_path / "t.csv").write_bytes(end.join([header, b"1,2.5,20,20,BENIGN", b" 3,4e3,32,32,Bot "]) + end)
    rows, rejects = read(tmp_path / "t.csv", features=SOME)
    assert rejects.counts() == {}
    assert [[row[name] for name in (*SOME, "word_attack")] for row in rows] == [
        [1.0, 2.5, 20.0, 20.0, "benign"], [3.0, 4000.0, 32.0, 32.0, "bot"],
    ]  # fmt: skip
    shuffled = b"\n".join(
        [b"Label,Fwd Header Length,x,Flow Bytes/s,Fwd Header Length.1,Flow Duration", b"Bot,32,?,4e3,32,3"]
    )
    (tmp_path / "t.csv").write_bytes(shuffled)
    again, _ = read(tmp_path / "t.csv", features=SOME)
    assert [again[0][name] for name in (*SOME, "word_attack")] == [rows[1][name] for name in (*SOME, "word_attack")]


@pytest.mark.parametrize(
    ("label", "attack", "family"),
    [
        (b"Web Attack \x96 XSS", "web-attack-xss", "web-attack"),
        (b"Web Attack \xc2\x96 XSS", "web-attack-xss", "web-attack"),
        (b"Web Attack \xe2\x80\x93 XSS", "web-attack-xss", "web-attack"),
        (b"Web Attack \xef\xbf\xbd Sql Injection", "web-attack-sql-injection", "web-attack"),
        (b"WebAttack", "webattack", "web-attack"),
        (b"DoS Slowhttptest", "dos-slowhttptest", "dos"),
        (b"Normal Traffic", "normal-traffic", "benign"),
        (b"FTP-Patator", "ftp-patator", "brute-force"),
        (b"Something new", "something-new", None),
    ],
)
def test_labels_get_one_spelling_and_a_family(tmp_path, label, attack, family):
    (tmp_path / "t.csv").write_bytes(b"Flow Duration,Label\n5," + label + b"\n")
    (row,), _ = read(tmp_path / "t.csv", features=["flow_duration"])
    assert (row["word_attack"], row["word_family"]) == (attack, family)


TABLE = b"Flow Duration,Flow Bytes/s,Label\n1,2,A\n1,NaN,A\n1,Infinity,A\n1,,A\n1,x,A\n1,2\n1,2,\n\n,,\n9,9,A\n"


@pytest.mark.parametrize(
    ("non_finite", "rates", "counts"),
    [
        ("set-aside", [2.0, 9.0], {"not-finite": 3, "bad-row": 5}),
        ("zero", [2.0, 0.0, 0.0, 0.0, 9.0], {"bad-row": 5}),
        ("null", [2.0, None, None, None, 9.0], {"bad-row": 5}),
    ],
)
def test_what_is_no_number_is_rejected_or_replaced(tmp_path, non_finite, rates, counts):
    (tmp_path / "t.csv").write_bytes(TABLE)
    rows, rejects = read(tmp_path / "t.csv", features=["flow_duration", "flow_bytes_per_s"], non_finite=non_finite)
    assert [row["flow_bytes_per_s"] for row in rows] == rates
    assert rejects.counts() == counts
    assert len(rows) + rejects.rows().num_rows == 10
    offsets = {row["offset"] for row in rejects.rows().to_pylist() if row["reason"] == "bad-row"}
    assert offsets == {4, 5, 6, 7, 8}


def test_tables_without_a_feature_or_a_label_are_rejects(tmp_path):
    for header in (b"Flow Duration,Label\n1,A\n", b"Flow Duration,Flow Bytes/s\n1,2\n", b"\n", b"\x00\x01\x02"):
        (tmp_path / "t.csv").write_bytes(header)
        rows, rejects = read(tmp_path / "t.csv", features=["flow_duration", "flow_bytes_per_s"])
        assert (rows, rejects.counts()) == ([], {"other-format": 1})


@pytest.mark.parametrize("bad", [{"features": ["flow_durations"]}, {"non_finite": "drop"}])
def test_bad_arguments_raise_at_once(bad):
    with pytest.raises(FlowloomError, match="got"):
        read_cicids_tables("t.csv", Rejects(), **bad)


def test_the_published_tables(real_data):
    rejects = Rejects()
    archive = str(real_data / "cicids2017-subset.tar.xz")
    rows = pa.Table.from_batches(read_cicids_tables(archive, rejects))
    assert len(CICIDS_FEATURES) == len(set(CICIDS_FEATURES)) == 77
    assert rows.num_rows == 68_910
    assert rejects.counts() == {"not-finite": 67, "other-format": 1}  # 59,993 + 6,311 + 2,673 rows; dicot lacks 26
    (other,) = (row for row in rejects.rows().to_pylist() if row["reason"] == "other-format")
    assert other["uri"].endswith("!dicot.csv")
    assert collections.Counter(rows["word_family"].to_pylist()) == {
        "benign": 60_155, "web-attack": 2_853, "bot": 1_956, "dos": 1_953, "portscan": 1_404, "brute-force": 553,
        "infiltration": 36,
    }  # fmt: skip
    assert rows["fwd_header_length"] == rows["fwd_header_length_1"]
    assert all(rows[name].null_count == 0 for name in CICIDS_FEATURES)
    assert len(set(rows["flow_id"].to_pylist())) == rows.num_rows


def test_the_published_duplicates_and_the_narrow_table(real_data, tmp_path):
    with tarfile.open(real_data / "cicids2017-subset.tar.xz") as archive:
        names = {name.rpartition("/")[2]: name for name in archive.getnames()}
        for name in ("starrix.csv", "dicot.csv"):
            member = archive.extractfile(names[name])
            assert member is not None
            (tmp_path / name).write_bytes(member.read())
    rows = pa.Table.from_batches(read_cicids_tables(str(tmp_path / "starrix.csv"), Rejects(), non_finite="null"))
    table = pl.DataFrame({name: rows[name] for name in (*CICIDS_FEATURES, "word_attack")})
    assert (len(table), len(table) - len(table.unique())) == (6_311, 1_015)
    header = (tmp_path / "dicot.csv").read_text().splitlines()[0].split(",")
    narrow = [name for name in feature_columns(header) if name in CICIDS_FEATURES]
    rows = pa.Table.from_batches(read_cicids_tables(str(tmp_path / "dicot.csv"), Rejects(), features=narrow))
    assert (len(narrow), rows.num_rows) == (51, 12_000)
    assert None not in rows["word_family"].to_pylist()
