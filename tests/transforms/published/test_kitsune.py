"""Packets of the Kitsune tables: against the capture they were made from, metered, and with rows rejected."""

import lzma

import numpy as np
import pyarrow as pa
import pytest

from flowloom.schemas.arrow.rows import PACKETS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable
from flowloom.transforms.published.kitsune import (
    check_kitsune_definition,
    read_kitsune_flows,
    read_kitsune_labels,
    read_kitsune_packets,
)
from flowloom.transforms.published.published_rejects import Rejects

DEFINITION = FlowDefinition.of("default", size="wire", tcp_close="none", k=5)
HEADER = [
    "frame.time_epoch",
    "frame.len",
    "eth.src",
    "ip.src",
    "ip.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "icmp.type",
    "ipv6.src",
    "ipv6.dst",
]


def table(path, *rows: dict[str, str]) -> str:
    lines = [
        HEADER,
        *([{"frame.time_epoch": "5.25", "frame.len": "60", **row}.get(h, "") for h in HEADER] for row in rows),
    ]
    path.write_bytes("".join("\t".join(line) + "\n" for line in lines).encode())
    return str(path)


def tcp(src="10.0.0.1", dst="10.0.0.2", src_port="5", dst_port="80", **more) -> dict[str, str]:
    return {"ip.src": src, "ip.dst": dst, "tcp.srcport": src_port, "tcp.dstport": dst_port, **more}


def packets_of(path: str) -> tuple[pa.Table, Rejects]:
    rejects = Rejects()
    return pa.Table.from_batches(read_kitsune_packets(path, rejects), PACKETS), rejects


def test_the_published_table_equals_its_capture(real_data):
    folder = real_data / "kitsune-mirai"
    packets, rejects = packets_of(str(folder / "mirai_head.pcap.tsv.xz"))
    assert packets.num_rows == 35_294
    assert rejects.counts() == {"no-flow-key": 3_069, "bad-row": 1}  # the last line is cut off
    assert packets.num_rows + 3_069 == 38_363
    capture = CaptureBytes(str(folder / "mirai2000.pcap"))
    scanner, decoder, batches = open_records(capture), PacketDecoder(IpFragmentTable()), []
    while len(records := scanner.scan()):
        batches.append(decoder.decode(records))
    capture.close()
    decoded = pa.Table.from_batches(batches)
    assert decoded.num_rows > 1_500
    names = ["record", "time_ns", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "wire_bytes"]
    known = {row["record"]: row for row in decoded.select(names).to_pylist()}
    shared = [row for row in packets.select(names).to_pylist() if row["record"] < 2_000]
    assert shared == [known[row["record"]] for row in shared]
    left = [row for record, row in known.items() if record not in {row["record"] for row in shared}]
    assert all(row["protocol"] not in (1, 6, 17) for row in left)


def test_the_published_labels_and_flows(real_data):
    folder, rejects = real_data / "kitsune-mirai", Rejects()
    labels = read_kitsune_labels(str(folder / "mirai_labels.csv.xz"), rejects)
    assert (len(labels), int(np.argmax(labels)), rejects.counts()) == (764_137, 121_621, {})
    paths = [str(folder / name) for name in ("mirai_head.pcap.tsv.xz", "mirai_labels.csv.xz")]
    flows = pa.Table.from_batches(read_kitsune_flows(*paths, DEFINITION, rejects))
    assert np.sum([flows["packets_fwd"], flows["packets_bwd"]]) == 35_294
    assert set(flows["word_attack"].to_pylist()) == {"negative"}
    assert flows["pkt_ttl"].null_count == flows.num_rows


def test_a_flow_is_an_attack_if_any_of_its_packets_is(tmp_path):
    back = tcp("10.0.0.2", "10.0.0.1", "80", "5")
    path = table(tmp_path / "t.tsv", tcp(), {"frame.len": "42"}, back, tcp(src_port="6"), tcp(src_port="7"))
    (tmp_path / "l.csv").write_text('"",x\n1,0\n2,0\n3,1\n4,0\n')
    rejects = Rejects()
    (tmp_path / "l.csv").write_text("0\n0\n1\n0\n")
    flows = [r for b in read_kitsune_flows(path, str(tmp_path / "l.csv"), DEFINITION, rejects) for r in b.to_pylist()]
    words = {row["src_port"]: row["word_attack"] for row in flows}
    assert words == {5: "positive", 6: "negative", 7: None}
    assert {
        row["word_attack"] for b in read_kitsune_flows(path, None, DEFINITION, Rejects()) for row in b.to_pylist()
    } == {None}


def test_numbered_labels_are_read_too(tmp_path):
    (tmp_path / "l.csv.xz").write_bytes(lzma.compress(b'"1","0"\r\n"2","1"\r\n"3","x"\r\n4,1'))
    rejects = Rejects()
    assert read_kitsune_labels(str(tmp_path / "l.csv.xz"), rejects).tolist() == [0, 1, -1, 1]
    assert rejects.rows()["offset"].to_pylist() == [2]


def test_rows_without_a_key_and_bad_rows_are_rejects(tmp_path):
    six = {"ipv6.src": "fd00::1", "ipv6.dst": "fd00::2", "udp.srcport": "9", "udp.dstport": "10"}
    quoted = {**tcp(), "icmp.type": "3"}
    path = table(
        tmp_path / "t.tsv", tcp(), six, quoted, {"frame.len": "42"}, {"ip.src": "10.0.0.1", "ip.dst": "10.0.0.2"},
        tcp(src="10.0.0.256"), tcp(src="10.0.0.1,10.0.0.2"), tcp(src_port="65536"), tcp(dst_port="http"),
        {**tcp(), "frame.len": "x"}, {**tcp(), "frame.time_epoch": "1e9"}, {**six, "ipv6.src": "fd00::x"},
    )  # fmt: skip
    packets, rejects = packets_of(path)
    rows = packets.select(["record", "protocol", "src_port", "ip_version", "time_ns"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (0, 6, 5, 4, 5_250_000_000), (1, 17, 9, 6, 5_250_000_000), (2, 1, 0, 4, 5_250_000_000),
    ]  # fmt: skip
    assert rejects.counts() == {"no-flow-key": 2, "bad-row": 7}
    assert sorted(rejects.rows()["offset"].to_pylist()) == list(range(3, 12))


def test_another_table_is_a_reject_and_definitions_are_checked(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n")
    packets, rejects = packets_of(str(tmp_path / "t.tsv"))
    assert (packets.num_rows, rejects.counts()) == (0, {"other-format": 1})
    with pytest.raises(FlowloomError, match="must have size=wire, tcp_close=none, got size=ip, tcp_close=lifecycle"):
        check_kitsune_definition(FlowDefinition())
