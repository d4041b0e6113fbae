"""Builds with labels of single flows: from tables beside the captures to labels in shards and card."""

import collections
import glob
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from capture_files import ACK, SYN, ethernet, ipv4, pcap, tcp, udp

from flowloom.pipelines.build import BuildOptions, build
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.errors import FlowloomError

pytestmark = pytest.mark.timeout(120)

NS = 1_700_000_000_000_000_000
QUERY = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")
COLUMNS = {"src_ip": "src", "dst_ip": "dst", "src_port": "sp", "dst_port": "dp", "protocol": "proto"}
TABLE = {
    "path": "labels.csv", "task": "attack",
    "columns": {**COLUMNS, "start": "time", "duration_s": "lasts", "label": "word"},
    "clock_offset_s": -3600, "words": {"scan": True, "odd": None},
}  # fmt: skip


def frames(host: int, flows: int, packets: int = 4) -> list[tuple[int, bytes]]:
    """Returns conversations that start a second apart, with a packet a millisecond, in turn from either side."""
    made = []
    for flow in range(flows):
        for packet in range(packets):
            ends = (f"10.0.{host}.1", "10.0.9.9", 1000 + flow, 80)
            src, dst, src_port, dst_port = ends if packet % 2 == 0 else (ends[1], ends[0], ends[3], ends[2])
            segment = ipv4(tcp(b"", src_port, dst_port, SYN if packet == 0 else ACK), src, dst)
            made.append((NS + flow * 1_000_000_000 + packet * 1_000_000, ethernet(segment)))
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    """Captures of 8 flows each: table.pcap and packets.pcap, and what is known of them."""
    (tmp_path / "table.pcap").write_bytes(pcap(frames(1, 8)))
    (tmp_path / "packets.pcap").write_bytes(pcap(frames(2, 8)))
    # on a clock an hour behind: a word for flow 0, the answer's direction for 1, two words for 2, a word that means
    # unknown for 3, one that is too late for 4, and a row that is none
    rows = [
        "10.0.1.1,10.0.9.9,1000,80,tcp,21:13:20,0.003,scan",
        "10.0.9.9,10.0.1.1,80,1001,6,21:13:21,0.003,scan",
        "10.0.1.1,10.0.9.9,1002,80,6,21:13:22,0.003,negative",
        "10.0.1.1,10.0.9.9,1002,80,6,21:13:22,0.001,scan",
        "10.0.1.1,10.0.9.9,1003,80,6,21:13:23,0.003,odd",
        "10.0.1.1,10.0.9.9,1004,80,6,21:13:29,0.003,scan",
        "10.0.1.1,10.0.9.9,1005,80,6,yesterday,0.003,scan",
    ]
    lines = ["src,dst,sp,dp,proto,time,lasts,word", *(row.replace(",21:", ",2023-11-14 21:") for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    positive = [packet < flow for flow in range(8) for packet in range(4)]
    (tmp_path / "packets.csv").write_text("".join(f"{int(word)}\r\n" for word in [*positive, False, False]))
    return tmp_path


def made(folder: Path, name: str, captures: list[dict[str, Any]], workers: int = 1, **changes: Any) -> DatasetCard:
    """Builds a dataset of one shard per split."""
    document = {
        "name": "flows", "captures": captures, "tasks": {"attack": {"kind": "binary"}}, "output": {"shards": 1},
        **changes,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return build(BuildOptions(folder / f"{name}.yaml", folder / name, workers=workers, allow_empty=True))


def labels(out: Path, card: DatasetCard, task: str) -> dict[tuple[int, int], int | None]:
    """Returns the label of each flow by the third byte of its host's address and its port."""
    rows = pa.concat_tables(pq.ParquetFile(out / shard.path).read() for shard in card.shards).to_pylist()
    return {(row["src_ip"][14], row["src_port"] - 1000): row[f"label_{task}"] for row in rows}


CAPTURES = [
    {"glob": "table.pcap", "label_tables": [TABLE, TABLE | {"task": "scan", "default": "negative"}]},
    {"glob": "packets.pcap", "packet_table": {"path": "packets.csv", "task": "attack", "rule": "majority"}},
    {"glob": "*.pcap", "labels": {"scan": True}},
]
TASKS = {"attack": {"kind": "binary"}, "scan": {"kind": "binary"}}
DECIDED = {"on_conflict": {"scan": "unknown"}, "missing": "negative"}


def test_every_source_labels_flows_and_is_counted(folder):
    # two workers, stretches of the captures: flows are joined from pieces before they are labelled
    stretches = {"shards": 1, "split_bytes": "1KiB"}
    card = made(folder, "one", CAPTURES, workers=2, tasks=TASKS, output=stretches, **DECIDED)
    attacks, scans = labels(folder / "one", card, "attack"), labels(folder / "one", card, "scan")
    # of the flows that the table does not know and `missing: negative` fills; its unknown word stays unknown
    assert [attacks[1, flow] for flow in range(8)] == [1, 1, 0, None, 0, 0, 0, 0]
    assert [attacks[2, flow] for flow in range(8)] == [0, 0, None, 1, 1, 1, 1, 1]
    # the table's default is a label, so the path contradicts it
    assert [scans[1, flow] for flow in range(8)] == [1, 1, None, 1, None, None, None, None]
    assert [scans[2, flow] for flow in range(8)] == [1] * 8
    keys = ("task", "source", "kind", "flows", "labelled", "conflicts", "ambiguous", "defaulted", "unknown_words")
    assert [tuple(entry.model_dump()[key] for key in keys) for entry in card.coverage] == [
        ("attack", "labels.csv", "table", 8, 3, 0, 1, 0, 1),
        ("scan", "labels.csv", "table", 8, 7, 0, 1, 4, 1),
        ("attack", "packets.csv", "packets", 8, 7, 0, 1, 0, 0),
        ("scan", "*.pcap", "path", 16, 16, 5, 0, 0, 0),
    ]
    rejects = pq.read_table(folder / "one" / "rejects.parquet").to_pylist()
    assert [(row["uri"], row["offset"], row["reason"]) for row in rejects] == [
        ("labels.csv", 7, "label-rows"), ("labels.csv", 7, "label-rows"), ("packets.csv", 33, "label-count"),
    ]  # fmt: skip
    assert (card.split_rule.by, card.accounting.rejects) == ("flow", 3)
    assert "got different ones of: attack, scan" in card.split_rule.reason
    assert {path.name for path in (folder / "one").iterdir()} == {
        "captures.parquet", "dataset.json", "flows", "rejects.parquet", "schema.pbtxt",
    }  # fmt: skip


def test_errors_in_sources_are_found_before_captures_are_read(folder):
    def complaint(entry: dict[str, Any]) -> str:
        with pytest.raises(FlowloomError) as caught:
            made(folder, "bad", [{"glob": "*.pcap", **entry}])
        assert not list(folder.glob(".bad*"))
        return str(caught.value)

    assert "the table cannot be read" in complaint({"label_table": TABLE | {"path": "none.csv"}})
    assert "row 5" in complaint({"label_table": TABLE | {"words": {"scan": True}}})
    packets = {"path": "packets.csv", "task": "attack"}
    assert "must label one capture, got 2 that match '*.pcap'" in complaint({"packet_table": packets})


def test_the_files_of_each_entry_are_listed_once(folder, monkeypatch):
    listed: collections.Counter[str] = collections.Counter()
    find = glob.glob

    def counted(pattern: str, **options: Any) -> list[str]:
        listed[pattern] += 1
        return find(pattern, **options)

    monkeypatch.setattr(glob, "glob", counted)
    captures = [
        {"glob": "packets*.pcap", "packet_table": CAPTURES[1]["packet_table"]},
        {"glob": "t*.pcap", "labels": {"attack": False}},
        {"glob": "*.pcap", "label_from": {"kind": "file-name"}},
    ]
    tasks = TASKS | {"kind": {"kind": "multiclass"}}
    card = made(folder, "listed", captures, tasks=tasks, missing="negative")
    assert card.accounting.captures == 2
    assert {Path(pattern).name: times for pattern, times in listed.items() if "*" in pattern} == {
        "packets*.pcap": 1, "t*.pcap": 1, "*.pcap": 1,
    }  # fmt: skip


def test_dpi_labels_flows_and_rejects_unreadable_captures(tmp_path):
    pytest.importorskip("nfstream", reason="needs NFStream (pip install flowloom[dpi])")
    queries = [(NS + at, ethernet(ipv4(udp(QUERY, 1000 + at, 53), "10.0.1.1", "10.0.9.9", 17))) for at in range(3)]
    (tmp_path / "dns.pcap.gz").write_bytes(gzip.compress(pcap([*queries, *frames(2, 2)])))
    odd = bytearray(pcap(frames(3, 4)))
    odd[4] = 3  # a version that libpcap refuses
    (tmp_path / "odd.pcap").write_bytes(odd)
    (tmp_path / "text.pcap").write_text("no capture at all")
    # a flow over two files of one timeline; nDPI would not know its second half alone
    for at, payload in enumerate((QUERY, bytes(99))):
        packet = ethernet(ipv4(udp(payload, 2000, 53), "10.0.1.1", "10.0.9.9", 17))
        (tmp_path / f"part_0000{at}_20231114221320.pcap").write_bytes(pcap([(NS + at, packet)]))
    entry = {"glob": "*.pcap*", "group": "rotated", "dpi": {"task": "app", "words": {"DNS": "dns"}}}
    tasks = {"app": {"kind": "multiclass", "vocabulary": ["dns", "web"]}, "attack": {"kind": "binary"}}
    card = made(tmp_path, "dpi", [entry], tasks=tasks)
    (said,) = card.coverage
    assert (said.source, said.kind) == ("nDPI application_name", "dpi")
    assert (said.flows, said.labelled, said.unknown_words, said.ambiguous) == (10, 4, 2, 0)
    assert said.confidence == {6: 4}, "nDPI has looked into all of them"
    assert sum(split.classes["app"]["dns"] for split in card.splits.values()) == 4
    rejects = pq.read_table(tmp_path / "dpi" / "rejects.parquet").to_pylist()
    assert [(row["uri"], row["reason"]) for row in rejects] == [("odd.pcap", "dpi"), ("text.pcap", "not-a-capture")]
    assert "version 3.4" in rejects[0]["detail"]
