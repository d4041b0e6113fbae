"""ICMP in flows: type, code and identifier, messages in the key, and errors about flows."""

import itertools
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, ipv6, pcap, udp
from cut_captures import GROUP, Cut, assert_equal, metered
from random_captures import SECOND, START
from reference_meter import reference_meter

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.packet_reader import PacketReader

CLIENT, SERVER, ROUTER = "10.0.0.1", "10.0.0.2", "10.0.0.9"
QUERY = ipv4(udp(bytes(16), 4000, 53), CLIENT, SERVER, 17)
OTHER = ipv4(udp(bytes(16), 5000, 53), CLIENT, SERVER, 17)


def error(quote: bytes, kind: int = 3) -> bytes:
    return ipv4(struct.pack(">BBHI", kind, 3, 0, 0) + quote[:28], ROUTER, CLIENT, 1)


def echo(kind: int, identifier: int, src: str, dst: str) -> bytes:
    return ipv4(struct.pack(">BBHHH", kind, 0, 0, identifier, 1) + bytes(32), src, dst, 1)


def write(path: Path, packets: Iterable[tuple[int, bytes]]) -> list[list[int] | None]:
    """Writes (second, packet) pairs, and returns the edges to cut at: nowhere, at each record, at all records."""
    frames = [(START + second * SECOND, ethernet(packet)) for second, packet in packets]
    path.write_bytes(pcap(frames))
    ends = list(itertools.accumulate([24, *(16 + len(frame) for _, frame in frames)]))
    return [None, [], *([end] for end in ends), ends]


def test_errors_count_in_the_flow_that_they_quote(tmp_path):
    """Two are of no flow: the one at 230 s, whose flow is idle, and one without a flow."""
    path = tmp_path / "0.capture"
    packets = [(0, QUERY), (1, error(QUERY)), (2, error(QUERY, 11)), (5, error(OTHER)), (100, QUERY)]
    packets += [(110, error(QUERY)), (230, error(QUERY)), (300, QUERY), (301, error(QUERY))]
    edges = write(path, packets)
    definition = FlowDefinition.of(icmp_errors="count")
    expected = reference_meter([path.read_bytes()], definition, GROUP)
    assert [(flow["packets_fwd"], flow["icmp_errors"]) for flow in expected.flows] == [(2, 3), (1, 1)]
    assert expected.captures[0].dropped == {DropReason.ICMP_ERROR: 6}
    for edge in edges:
        assert_equal(metered([str(path)], definition, Cut([edge])), expected)


def test_errors_open_flows_unless_they_are_counted(tmp_path):
    path = tmp_path / "0.capture"
    write(path, [(0, QUERY), (1, error(QUERY))])
    flows = metered([str(path)], FlowDefinition.of(), Cut([None])).flows
    assert [(flow["icmp_type"], flow["icmp_code"], flow["icmp_id"], flow["icmp_errors"]) for flow in flows] == [
        (None, None, None, None),
        (3, 3, None, None),
    ]


@pytest.mark.parametrize(
    "quote",
    [QUERY[:20], QUERY[:23], b"", ipv4(bytes(8), protocol=17, fragment=3), error(QUERY), ipv6(udp(), next_header=17)],
    ids=["no ports", "one port", "none", "later fragment", "error", "IPv6"],
)
def test_errors_whose_quote_names_no_flow_are_packets(tmp_path, quote):
    path = tmp_path / "0.capture"
    write(path, [(0, ipv4(struct.pack(">BBHI", 3, 3, 0, 0) + quote, ROUTER, CLIENT, 1))])
    (flow,) = metered([str(path)], FlowDefinition.of(icmp_errors="count"), Cut([None])).flows
    assert (flow["protocol"], flow["icmp_type"], flow["icmp_errors"]) == (1, 3, 0)


@pytest.mark.parametrize("orient", ["first-packet", "client"])
def test_messages_in_the_key(tmp_path, orient):
    """Two pings at a time: a reply belongs to its request, and an error to the message that it quotes."""
    path = tmp_path / "0.capture"
    packets = [echo(8, 7, CLIENT, SERVER), echo(8, 9, CLIENT, SERVER), echo(0, 9, SERVER, CLIENT)]
    packets += [echo(0, 7, SERVER, CLIENT), error(packets[0], 11), error(packets[1], 11), error(packets[1], 11)]
    edges = write(path, enumerate(packets))
    definition = FlowDefinition.of(icmp_in_key=True, icmp_errors="count", orient=orient)
    columns = ("icmp_type", "icmp_code", "icmp_id", "icmp_errors", "packets_fwd", "packets_bwd", "src_port", "dst_port")
    for edge in edges:
        found = metered([str(path)], definition, Cut([edge])).flows
        assert sorted(tuple(flow[name] for name in columns) for flow in found) == [
            (8, 0, 7, 1, 1, 1, 0, 0),
            (8, 0, 9, 2, 1, 1, 0, 0),
        ]
    (flow,) = metered([str(path)], FlowDefinition.of(icmp_errors="count"), Cut([None])).flows
    assert (flow["packets_fwd"], flow["packets_bwd"], flow["icmp_id"], flow["icmp_errors"]) == (2, 2, 7, 3)


def test_the_packets_view_has_no_rows_of_counted_errors(tmp_path):
    path = tmp_path / "0.capture"
    write(path, [(0, QUERY), (1, error(QUERY)), (2, QUERY)])
    definition = FlowDefinition.of(icmp_errors="count")
    reader = PacketReader([CaptureRange(str(path))], GROUP, definition, PacketView(length=80, name_service_ports=()))
    views = list(reader.views())
    assert [rows["record"].to_pylist() for name, rows in views if name == "packets"] == [[0, 2]]
    assert reader.dropped.sum() == 0
    (account,) = reader.captures().to_pylist()
    assert (account["records"], account["metered"], account["dropped_icmp_error"]) == (3, 2, 1)
