"""Tunnels: a record is its innermost whole packet, and nothing is counted twice."""

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydantic
import pytest
from capture_files import ACK, SYN, ethernet, ipv4, ipv6, pcap, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from tunnel_packets import FORMS

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.corpus.flow_definition import TUNNELS, FlowDefinition
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable

NS = 1_700_000_000_000_000_000
INNER = ipv4(tcp(b"abc", 4000, 443, SYN | ACK, seq=7, window=99), "192.168.0.1", "192.168.0.2", ttl=33, ip_id=5)
INNER_6 = ipv6(udp(b"abcd", 5000, 53), "2001:db8::1", "2001:db8::2", next_header=17, hop_limit=9)


def gtp_u(payload: bytes, teid: int, *, sequence: int | None = None, extensions: list[bytes] = ()) -> bytes:
    """Returns a G-PDU; each extension is its content, padded to whole words with its length and the next type."""
    flags = 0x30 | (0x04 if extensions else 0) | (0x02 if sequence is not None else 0)
    optional = b""
    if flags & 7:
        optional = struct.pack(">HBB", sequence or 0, 0, 0x85 if extensions else 0)
    for left, content in zip(reversed(range(len(extensions))), extensions, strict=True):
        words = (len(content) + 5) // 4
        optional += bytes([words]) + content.ljust(words * 4 - 2, b"\0") + bytes([0x85 if left else 0])
    return struct.pack(">BBHI", flags, 255, len(optional) + len(payload), teid) + optional + payload


def vxlan(frame: bytes, vni: int) -> bytes:
    return struct.pack(">II", 0x08 << 24, vni << 8) + frame


def gre(payload: bytes, kind: int, *, key: int | None = None, checksum: bool = False, sequence: bool = False) -> bytes:
    flags = 0x8000 * checksum | 0x2000 * (key is not None) | 0x1000 * sequence
    options = bytes(4) * checksum + (b"" if key is None else struct.pack(">I", key)) + bytes(4) * sequence
    return struct.pack(">HH", flags, kind) + options + payload


AUTHENTICATED = b"\x00\x01\x02\x03" + b"id" + b"key" + bytes(8) + b"\x00"
ORIGIN = b"\x00\x00" + struct.pack(">H", 1234 ^ 0xFFFF) + bytes(4)

# name: (frame, kind of tunnel, tunnel identifier, whether the inner packet is the IPv6 one)
TUNNELLED: dict[str, tuple[bytes, str, int, bool]] = {
    "4in4": (ethernet(ipv4(INNER, protocol=4)), "ip-in-ip", 0, False),
    "6in4": (ethernet(ipv4(INNER_6, protocol=41)), "ip-in-ip", 0, True),
    "4in6": (ethernet(ipv6(INNER, next_header=4)), "ip-in-ip", 0, False),
    "6in6": (ethernet(ipv6(b"\x29\x00" + bytes(6) + INNER_6, next_header=60)), "ip-in-ip", 0, True),
    "gre": (ethernet(ipv4(gre(INNER, 0x0800), protocol=47)), "gre", 0, False),
    "gre-key": (ethernet(ipv4(gre(INNER_6, 0x86DD, key=0xDEADBEEF), protocol=47)), "gre", 0xDEADBEEF, True),
    "gre-all": (
        ethernet(ipv4(gre(INNER, 0x0800, key=9, checksum=True, sequence=True), protocol=47)), "gre", 9, False,
    ),
    "gre-ethernet": (ethernet(ipv6(gre(ethernet(INNER), 0x6558, key=3), next_header=47)), "gre", 3, False),
    "gtp": (ethernet(ipv4(udp(gtp_u(INNER, 0xFFFFFFFF), 2152, 2152), protocol=17)), "gtp-u", 0xFFFFFFFF, False),
    "gtp-sequence": (ethernet(ipv4(udp(gtp_u(INNER, 1, sequence=8), 9, 2152), protocol=17)), "gtp-u", 1, False),
    "gtp-extension": (
        ethernet(ipv4(udp(gtp_u(INNER_6, 2, extensions=[b"\x10\x01"]), 2152, 9), protocol=17)), "gtp-u", 2, True,
    ),
    "gtp-extensions": (
        ethernet(ipv6(udp(gtp_u(INNER, 3, sequence=1, extensions=[b"\x10\x01", b"123456"]), 9, 2152), next_header=17)),
        "gtp-u", 3, False,
    ),
    "vxlan": (
        ethernet(ipv4(udp(vxlan(ethernet(INNER), 0xABCDEF), 55555, 4789), protocol=17)), "vxlan", 0xABCDEF, False,
    ),
    "teredo": (ethernet(ipv4(udp(INNER_6, 3544, 50_000), protocol=17)), "teredo", 0, True),
    "teredo-origin": (ethernet(ipv4(udp(ORIGIN + INNER_6, 50_000, 3544), protocol=17)), "teredo", 0, True),
    "teredo-authenticated": (
        ethernet(ipv4(udp(AUTHENTICATED + ORIGIN + INNER_6, 50_000, 3544), protocol=17)), "teredo", 0, True,
    ),
    **{
        name: (ethernet(form.around(INNER)), form.kind, form.number, False)
        for name, form in FORMS.items()
    },
    **{
        f"{name}-of-6": (ethernet(form.around(INNER_6)), form.kind, form.number, True)
        for name, form in FORMS.items()
    },
}  # fmt: skip


def decode(
    folder: Path, frames: list[bytes], tunnels: Any = TUNNELS, *, snap: int = 262_144, join_fragments: bool = True
):
    path = folder / "c.pcap"
    path.write_bytes(pcap([(NS + i, f) for i, f in enumerate(frames)], snap=snap))
    decoder = PacketDecoder(IpFragmentTable() if join_fragments else None, tunnels=tunnels)
    scanner, rows = open_records(CaptureBytes(str(path))), []
    while len(records := scanner.scan()):
        rows += decoder.decode(records).to_pylist()
    drops = {DropReason(code): int(n) for code, n in enumerate(decoder.dropped) if n}
    assert decoder.records == len(frames) == len(rows) + sum(drops.values())
    return rows, drops


def shown(row: dict[str, Any], *names: str) -> list[Any]:
    return [row[name] for name in names]


def alone(folder: Path, packet: bytes) -> dict[str, Any]:
    """Returns the row of a packet outside any tunnel."""
    return decode(folder, [ethernet(packet)], ())[0][0]


@pytest.mark.parametrize("name", TUNNELLED)
def test_the_inner_packet_stands_for_the_record(tmp_path, name):
    frame, kind, tunnel_id, is_6 = TUNNELLED[name]
    expected = alone(tmp_path, INNER_6 if is_6 else INNER) | {"tunnel_id": tunnel_id, "wire_bytes": len(frame)}
    for tunnels in ([kind], TUNNELS):
        assert decode(tmp_path, [frame], tunnels) == ([expected], {})


@pytest.mark.parametrize("name", TUNNELLED)
def test_a_tunnel_that_is_not_asked_for_is_left_alone(tmp_path, name):
    frame, kind, _, _ = TUNNELLED[name]
    (kept,), _ = decode(tmp_path, [frame], ())
    assert kept["tunnel_id"] == 0
    assert kept["ip_bytes"] == len(frame) - 14
    others = [other for other in TUNNELS if other != kind]
    assert decode(tmp_path, [frame], others) == ([kept], {})


@pytest.mark.parametrize("name", TUNNELLED)
def test_a_tunnel_cut_anywhere_is_one_packet_at_most(tmp_path, name):
    frame, _, _, is_6 = TUNNELLED[name]
    inner = alone(tmp_path, INNER_6 if is_6 else INNER)
    for snap in range(len(frame)):
        plain, plain_drops = decode(tmp_path, [frame], (), snap=snap)
        rows, drops = decode(tmp_path, [frame], snap=snap)
        assert drops == plain_drops, "what is metered without unwrapping is metered with it"
        if rows and rows != plain:
            assert shown(rows[0], "src_ip", "dst_port", "payload_bytes") == shown(
                inner, "src_ip", "dst_port", "payload_bytes"
            )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(TUNNELLED)), st.lists(st.tuples(st.integers(14, 130), st.integers(0, 255)), max_size=4))
def test_damaged_tunnels_never_break_the_accounting(tmp_path_factory, name, damage):
    frame = bytearray(TUNNELLED[name][0])
    for at, value in damage:
        frame[at % len(frame)] = value
    decode(tmp_path_factory.getbasetemp(), [bytes(frame), bytes(frame) + bytes(30)])


def test_tunnels_in_tunnels_are_unwrapped_to_a_bounded_depth(tmp_path):
    wrapped = ethernet(
        ipv4(udp(vxlan(ethernet(ipv4(udp(gtp_u(INNER, 77), 1, 2152), protocol=17)), 5), 1, 4789), protocol=17)
    )
    (row,), _ = decode(tmp_path, [wrapped])
    assert row == alone(tmp_path, INNER) | {"tunnel_id": 77, "wire_bytes": len(wrapped)}
    (row,), _ = decode(
        tmp_path, [ethernet(ipv4(udp(vxlan(ethernet(ipv4(INNER, protocol=4)), 5), 1, 4789), protocol=17))]
    )
    assert row["tunnel_id"] == 5, "the innermost identifier there is"
    deep = INNER
    for _ in range(12):
        deep = ipv4(deep, protocol=4)
    (row,), _ = decode(tmp_path, [ethernet(deep)])
    assert shown(row, "protocol", "ip_bytes") == [4, len(INNER) + 4 * 20], "eight of twelve are off"


def test_the_inner_vlan_goes_before_the_outer_one(tmp_path):
    def both(outer: list[int], inner: list[int]) -> int:
        packet = ipv4(udp(vxlan(ethernet(INNER, vlans=inner), 1), 1, 4789), protocol=17)
        return decode(tmp_path, [ethernet(packet, vlans=outer)])[0][0]["vlan"]

    assert [both([7], [8]), both([7], []), both([], [8]), both([], [])] == [8, 7, 8, 0]


@pytest.mark.parametrize(
    "inner",
    [
        b"\x55" + bytes(60),  # no IP version
        b"\x46" + bytes(3),  # too short
        INNER[:2] + b"\xff\xff" + INNER[4:],  # longer than the packet around it
        INNER[:2] + b"\x00\x15" + INNER[4:],  # no room for TCP
        INNER[:-20],
    ],
)
def test_what_is_no_whole_packet_inside_stays_the_outer_packet(tmp_path, inner):
    frames = [
        ethernet(ipv4(inner, protocol=4)),
        ethernet(ipv4(gre(inner, 0x0800), protocol=47)),
        ethernet(ipv4(udp(gtp_u(inner, 4), 1, 2152), protocol=17)),
        ethernet(ipv4(udp(vxlan(ethernet(inner), 4), 1, 4789), protocol=17)),
        ethernet(ipv4(udp(b"no tunnel at all", 4789, 4789), protocol=17)),
    ]
    assert decode(tmp_path, frames) == decode(tmp_path, frames, ())


def test_an_inner_packet_as_long_as_its_ethernet_frame_does_not_fit_into_it(tmp_path):
    inner = INNER[:2] + struct.pack(">H", len(INNER) + 1) + INNER[4:]  # the missing byte follows the outer packet
    frame = ethernet(ipv4(udp(vxlan(ethernet(inner), 4), 1, 4789), protocol=17)) + b"trailer"
    assert decode(tmp_path, [frame]) == decode(tmp_path, [frame], ())
    whole = ethernet(ipv4(udp(vxlan(ethernet(INNER), 4), 1, 4789), protocol=17)) + b"trailer"
    assert decode(tmp_path, [whole]) != decode(tmp_path, [whole], ())


@pytest.mark.parametrize("flags", [0x4000, 0x0001], ids=["source routing", "version 1"])
def test_other_versions_of_gre_stay_the_outer_packet(tmp_path, flags):
    (row,), _ = decode(tmp_path, [ethernet(ipv4(struct.pack(">HH", flags, 0x0800) + INNER, protocol=47))])
    assert row["protocol"] == 47


def test_gtp_messages_without_a_packet_stay_the_outer_packet(tmp_path):
    echo = struct.pack(">BBHI", 0x32, 1, 4, 0) + bytes(4)
    (row,), _ = decode(tmp_path, [ethernet(ipv4(udp(echo, 2152, 2152), protocol=17))])
    assert shown(row, "protocol", "dst_port", "payload_bytes") == [17, 2152, 12]


def test_fragments_of_the_outer_packet_stay_together(tmp_path):
    datagram = udp(gtp_u(INNER + bytes(1000), 4), 2152, 2152)
    frames = [ethernet(ipv4(datagram[:800], protocol=17, ip_id=3, fragment=0x2000)),
              ethernet(ipv4(datagram[800:], protocol=17, ip_id=3, fragment=100))]  # fmt: skip
    rows, drops = decode(tmp_path, frames)
    assert not drops
    assert [shown(r, "src_port", "dst_port", "tunnel_id") for r in rows] == [[2152, 2152, 0]] * 2


def test_fragments_of_the_inner_packet_join_inside(tmp_path):
    datagram = udp(bytes(1000), 777, 53)
    frames = [
        ethernet(ipv4(gre(ipv4(part, "192.168.0.1", protocol=17, ip_id=3, fragment=where), 0x0800), protocol=47))
        for part, where in ((datagram[:800], 0x2000), (datagram[800:], 100))
    ]
    rows, drops = decode(tmp_path, frames)
    assert not drops
    assert [shown(r, "src_port", "dst_port", "payload_bytes") for r in rows] == [[777, 53, 792], [777, 53, 208]]
    assert decode(tmp_path, frames, join_fragments=False)[1] == {DropReason.FRAGMENT_DROPPED: 1}


def test_the_tunnel_identifier_separates_flows_when_it_is_in_the_key(tmp_path):
    path = tmp_path / "c.pcap"
    frames = [ethernet(ipv4(udp(vxlan(ethernet(INNER), vni), 1, 4789), protocol=17)) for vni in (1, 2, 1)]
    path.write_bytes(pcap([(NS + i, frame) for i, frame in enumerate(frames)]))

    def flows(**options: Any) -> list[list[Any]]:
        definition = FlowDefinition.of(tunnels=["vxlan"], **options)
        table = pa.Table.from_batches(GroupReader([CaptureRange(str(path))], "0" * 16, definition).flows())
        assert len(set(table["flow_id"].to_pylist())) == table.num_rows
        return [shown(row, "tunnel_id", "packets_fwd") for row in table.drop_columns("start").to_pylist()]

    assert flows() == [[1, 3]]
    assert flows(tunnel_in_key=True) == [[1, 2], [2, 1]]


def test_definitions_write_tunnels_in_one_way():
    assert FlowDefinition.of(tunnels="all").tunnels == TUNNELS
    assert FlowDefinition.of(tunnels=["vxlan", "gre", "gre"]) == FlowDefinition.of(tunnels=("gre", "vxlan"))
    with pytest.raises(pydantic.ValidationError, match="'capwap' or 'amt'"):
        FlowDefinition.of(tunnels=["wireguard"])
    with pytest.raises(pydantic.ValidationError, match="tunnel_in_key needs tunnels, got none"):
        FlowDefinition.of(tunnel_in_key=True)
