"""Duplicates, counted or dropped, the same for any cuts; packets put in order."""

import itertools
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, udp
from cut_captures import GROUP, Cut, assert_equal, metered
from random_captures import START
from reference_meter import reference_meter

from flowloom.schemas.corpus.flow_definition import FlowDefinition


def query(ip_id: int, ttl: int = 64, vlan: int = 0, size: int = 16, checksum: int = 0) -> bytes:
    datagram = udp(bytes(size))[:6] + checksum.to_bytes(2) + bytes(size)
    return ethernet(ipv4(datagram, protocol=17, ip_id=ip_id, ttl=ttl), vlans=[vlan] if vlan else [])


def write(path: Path, frames: list[tuple[int, bytes]]) -> list[list[int] | None]:
    """Writes (ns, frame) pairs, and returns the edges to cut at: nowhere, at each record, at all records."""
    path.write_bytes(pcap([(START + at, frame) for at, frame in frames], nanoseconds=True))
    ends = list(itertools.accumulate([24, *(16 + len(frame) for _, frame in frames)]))
    return [None, [], *([end] for end in ends), ends]


TWO = {
    "another TTL": (query(1, ttl=63), 0, 1),
    "another VLAN": (query(1, vlan=9), 0, 1),
    "50 us later": (query(1), 50_000, 1),
    "later than 50 us": (query(1), 50_001, 0),
    "earlier by 50 us": (query(1), -50_000, 1),
    "another identification": (query(2), 0, 0),
    "another length": (query(1, size=17), 0, 0),
    "another checksum": (query(1, checksum=5), 0, 0),
}
"""By name: a second frame, its time after the first, and the duplicates."""


@pytest.mark.parametrize("name", TWO)
def test_a_packet_and_another_one(tmp_path, name):
    frame, later, copies = TWO[name]
    path = tmp_path / "0.capture"
    for edge in write(path, [(0, query(1)), (later, frame)]):
        (flow,) = metered([str(path)], FlowDefinition.of(), Cut([edge])).flows
        assert (flow["duplicates"], flow["packets_fwd"]) == (copies, 2)


@pytest.mark.parametrize(("between", "copies"), [(7, 1), (8, 0)])
def test_copies_are_sought_among_the_last_8_packets(tmp_path, between, copies):
    frames = [query(0), *(query(1 + number) for number in range(between)), query(0)]
    path = tmp_path / "0.capture"
    for edge in write(path, [(number, frame) for number, frame in enumerate(frames)]):
        (flow,) = metered([str(path)], FlowDefinition.of(), Cut([edge])).flows
        assert flow["duplicates"] == copies


@pytest.mark.parametrize("k", [1, 9, 60])
def test_dropped_duplicates_leave_the_flows_of_the_capture_without_them(tmp_path, k):
    """Each packet comes twice, through another router the second time, and a few come in the wrong order."""
    once, twice = [], []
    for number in range(30):
        at = number * 1_000_000 - (1_500_000 if number % 7 == 3 else 0)
        once.append((at, query(number)))
        twice += [(at, query(number)), (at + 20_000, query(number, ttl=63))]
    alone, both = tmp_path / "0.capture", tmp_path / "1.capture"
    write(alone, once)
    edges = write(both, twice)
    definition = FlowDefinition.of(k=k, duplicates="drop")
    (expected,) = metered([str(alone)], definition, Cut([None])).flows
    assert_equal(metered([str(both)], definition, Cut([None])), reference_meter([both.read_bytes()], definition, GROUP))
    for edge in edges:
        (flow,) = metered([str(both)], definition, Cut([edge])).flows
        assert flow["duplicates"] == 30
        assert flow | {"duplicates": 0} == expected
    (flow,) = metered([str(both)], FlowDefinition.of(k=k), Cut([None])).flows
    assert (flow["duplicates"], flow["packets_fwd"], len(flow["pkt_size"])) == (30, 60, min(k, 60))


def test_windows_of_packets_mark_duplicates(tmp_path):
    """Two flows of a host pair with equal packets are no copies of one another."""
    other = ethernet(ipv4(udp(bytes(16), 4321), protocol=17, ip_id=1))
    path = tmp_path / "0.capture"
    write(path, [(0, query(1)), (1, other), (2, query(1)), (3, other), (90_000, query(1))])
    rows = metered([str(path)], FlowDefinition.of("packet-windows", k=2), Cut([None])).flows
    assert [row["duplicates"] for row in sorted(rows, key=lambda row: row["start"])] == [0, 0, 1, 1, 0]


@pytest.mark.parametrize(("reorder_s", "out_of_order"), [(None, 1), (0.002, 1), (0.005, 0), (60.0, 0)])
def test_packets_are_put_in_order_within_a_window(tmp_path, reorder_s, out_of_order):
    """The fourth packet is 5 ms late."""
    path = tmp_path / "0.capture"
    write(path, [(at * 1_000_000, query(at, size=at)) for at in (10, 20, 23, 18, 40)])
    (flow,) = metered([str(path)], FlowDefinition.of(reorder_s=reorder_s), Cut([None])).flows
    assert flow["out_of_order"] == out_of_order
    assert (flow["pkt_payload"] == sorted(flow["pkt_payload"])) == (out_of_order == 0)
