"""Tables of packets: one row for each record, and damage is a warning."""

import pytest
from capture_files import ethernet, ipv4, pcap, tcp

from flowloom.pipelines.demo_corpus import CORPUS
from flowloom.pipelines.flow_tables.flow_scan import RejectWarning, read_flows
from flowloom.pipelines.flow_tables.packet_table import read_packets
from flowloom.schemas.errors import FlowloomError

CAPTURE = CORPUS / "captures/web/nginx/plain-01.pcap.zst"
NS = 1_700_000_000_000_000_000


def test_packets_are_those_of_the_flows():
    packets, flows = read_packets(CAPTURE, text_addresses=True), read_flows(CAPTURE, text_addresses=True)
    count = sum(flows["packets_fwd"].to_pylist()) + sum(flows["packets_bwd"].to_pylist())
    assert packets.num_rows - packets["drop_reason"].drop_null().length() == count
    sizes = sum(flows["bytes_fwd"].to_pylist()) + sum(flows["bytes_bwd"].to_pylist())
    assert sum(packets["ip_bytes"].drop_null().to_pylist()) == sizes
    ends = set(flows["src_ip"].to_pylist()) | set(flows["dst_ip"].to_pylist())
    assert set(packets["src_ip"].to_pylist()) <= ends


def test_records_before_damage_are_read_and_damage_is_a_warning(tmp_path):
    frames = [(NS + at, ethernet(ipv4(tcp(seq=at)))) for at in range(3)]
    (tmp_path / "cut.pcap").write_bytes(pcap(frames)[:-1])
    with pytest.warns(RejectWarning, match=r"cut\.pcap: cut-off at byte \d+: the capture ends inside a record"):
        table = read_packets(tmp_path / "cut.pcap")
    assert table["tcp_seq"].to_pylist() == [0, 1]


def test_wrong_arguments_are_refused(tmp_path):
    (tmp_path / "x.pcap").write_bytes(b"nothing of the kind")
    with pytest.raises(FlowloomError, match=r"x\.pcap: not-a-capture at byte 0"):
        read_packets(tmp_path / "x.pcap")
    with pytest.raises(FlowloomError, match=r"none\.pcap: unreadable"):
        read_packets(tmp_path / "none.pcap")
    with pytest.raises(FlowloomError, match="tunnels must be among ip-in-ip, gre"):
        read_packets(CAPTURE, tunnels=["wireguard"])


def test_an_empty_capture_is_a_table_without_rows(tmp_path):
    (tmp_path / "e.pcap").write_bytes(pcap([]))
    assert read_packets(tmp_path / "e.pcap").num_rows == 0
