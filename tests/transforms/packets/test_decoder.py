"""Packet decoder: link types, headers, fragments, and the accounting of records without a packet."""

import ipaddress
import struct
from pathlib import Path

import pytest
from capture_files import ACK, SYN, ethernet, ipv4, ipv6, pcap, tcp, udp
from unusual_frames import FRAMES, ether_type, wifi

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import NO_ICMP
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable

NS = 1_700_000_000_000_000_000


def decode(
    folder: Path,
    frames: list[bytes],
    link_type: int = 1,
    *,
    gap_ns: int = 1,
    snap: int = 262_144,
    join_fragments: bool = True,
):
    """Returns the packet rows and the non-zero drops of frames."""
    path = folder / "c.pcap"
    path.write_bytes(pcap([(NS + i * gap_ns, f) for i, f in enumerate(frames)], link_type=link_type, snap=snap))
    decoder = PacketDecoder(IpFragmentTable() if join_fragments else None)
    scanner, rows = open_records(CaptureBytes(str(path))), []
    while len(records := scanner.scan()):
        rows += decoder.decode(records).to_pylist()
    drops = {DropReason(code): int(n) for code, n in enumerate(decoder.dropped) if n}
    assert decoder.records == len(frames) == len(rows) + sum(drops.values())
    return rows, drops


SEGMENT = ipv4(tcp(b"abc", 4000, 443, SYN | ACK, seq=7, window=99, ack=8), ttl=33, ip_id=5)
SIX = ipv6(udp(b"abcd", 5000, 53), hop_limit=9, next_header=17)

WRAPPED = {
    "ethernet": (1, ethernet),
    "raw": (101, bytes),
    "sll": (113, lambda packet: struct.pack(">HHHQ", 0, 1, 6, 0) + ether_type(packet) + packet),
    "sll2": (276, lambda packet: ether_type(packet) + struct.pack(">HIHBBQ", 0, 1, 1, 0, 6, 0) + packet),
    "padded": (1, lambda packet: ethernet(packet) + bytes(20)),
    **FRAMES,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_link_type_gives_the_same_packet(tmp_path, name):
    link_type, around = WRAPPED[name]
    frame = around(SEGMENT)
    rows, drops = decode(tmp_path, [frame], link_type)
    assert not drops
    assert rows == [
        {
            "record": 0, "time_ns": NS, "clock_ns": NS, "src_ip": ipaddress.ip_address("::ffff:10.0.0.1").packed,
            "dst_ip": ipaddress.ip_address("::ffff:10.0.0.2").packed, "src_port": 4000, "dst_port": 443, "protocol": 6,
            "ip_version": 4, "vlan": 0, "tunnel_id": 0, "wire_bytes": len(frame), "ip_bytes": 43, "payload_bytes": 3,
            "ip_id": 5, "ttl": 33, "tcp_flags": 0x12, "tcp_window": 99, "tcp_seq": 7, "tcp_ack": 8,
            "checksum": 0, "icmp": NO_ICMP, "icmp_error": 0,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_ipv6_on_its_link_types(tmp_path, name):
    link_type, around = WRAPPED[name]
    rows, _ = decode(tmp_path, [around(SIX)], link_type)
    names = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "ip_bytes", "payload_bytes", "ttl")
    addresses = [ipaddress.ip_address(a).packed for a in ("fd00::1", "fd00::2")]
    assert [rows[0][n] for n in names] == [*addresses, 5000, 53, 17, 6, 52, 4, 9]


@pytest.mark.parametrize("name", WRAPPED)
def test_a_header_that_is_cut_anywhere_is_one_drop(tmp_path, name):
    link_type, around = WRAPPED[name]
    frame = around(SEGMENT)
    before = frame.index(SEGMENT)
    for snap in range(before + 24):
        rows, drops = decode(tmp_path, [frame], link_type, snap=snap)
        assert not rows
        assert drops.keys() <= {DropReason.TRUNCATED, DropReason.NOT_IP}


def test_unusual_frames_stay_in_their_places(tmp_path):
    frames = [around(SEGMENT) for link_type, around in WRAPPED.values() if link_type == 1]
    frames = [each for frame in frames for each in (ethernet(SIX), frame, ethernet(bytes(20), 0x7777), frame[:20])]
    rows, drops = decode(tmp_path, frames)
    assert [row["record"] for row in rows] == [number for number in range(len(frames)) if number % 4 < 2]
    assert [row["ip_version"] for row in rows] == [6, 4] * (len(frames) // 4)
    assert drops.keys() <= {DropReason.NOT_IP, DropReason.TRUNCATED}


@pytest.mark.parametrize(
    "frame",
    [
        wifi(SEGMENT, b"\x08\x42"),  # encrypted
        wifi(SEGMENT, b"\x48\x02"),  # without data
        wifi(SEGMENT, b"\x80\x00"),  # a beacon
        wifi(SEGMENT)[:22] + b"\x01\x00" + wifi(SEGMENT)[24:],  # a later fragment
    ],
)
def test_what_80211_does_not_show_is_no_ip(tmp_path, frame):
    assert decode(tmp_path, [frame], 105) == ([], {DropReason.NOT_IP: 1})


def test_vlan_tags_give_the_innermost_identifier(tmp_path):
    rows, _ = decode(tmp_path, [ethernet(SEGMENT, vlans=[100, 42]), ethernet(SEGMENT, vlans=[7])])
    assert [row["vlan"] for row in rows] == [42, 7]


def test_ip_options_and_extension_headers_are_walked(tmp_path):
    extended = b"\x3c\x00" + bytes(6) + b"\x11\x01" + bytes(14) + udp(b"xy", 1, 2)  # hop-by-hop, destination options
    frames = [
        ethernet(ipv4(udp(b"hello", 8, 9), protocol=17, options=bytes(8))),
        ethernet(ipv6(extended, next_header=0)),
    ]
    rows, drops = decode(tmp_path, frames)
    assert not drops
    assert [(r["protocol"], r["src_port"], r["payload_bytes"]) for r in rows] == [(17, 8, 5), (17, 1, 2)]


def test_other_protocols_have_no_ports(tmp_path):
    sctp = struct.pack(">HHII", 11, 22, 0, 0) + b"data"
    frames = [ethernet(ipv4(b"\x08\x00" + bytes(10), protocol=1)), ethernet(ipv4(bytes(9), protocol=47)),
              ethernet(ipv4(sctp, protocol=132))]  # fmt: skip
    rows, _ = decode(tmp_path, frames)
    assert [(r["protocol"], r["src_port"], r["dst_port"], r["payload_bytes"]) for r in rows] == [
        (1, 0, 0, 4), (47, 0, 0, 9), (132, 11, 22, 4),
    ]  # fmt: skip


def test_segmentation_offload_takes_the_length_from_the_wire(tmp_path):
    rows, _ = decode(tmp_path, [ethernet(ipv4(tcp(bytes(60_000)), length=0))])
    assert (rows[0]["ip_bytes"], rows[0]["payload_bytes"]) == (60_040, 60_000)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ethernet(bytes(28), 0x0806), DropReason.NOT_IP),
        (ethernet(b"\x42\x42\x03" + bytes(40), 38), DropReason.NOT_IP),
        (ethernet(b"\x50" + bytes(40), 0x0800), DropReason.NOT_IP),
        (bytes(10), DropReason.TRUNCATED),
        (ethernet(SEGMENT[:19]), DropReason.TRUNCATED),
        (ethernet(SEGMENT[:23]), DropReason.TRUNCATED),
        (ethernet(SIX[:42]), DropReason.TRUNCATED),
        (ethernet(ipv6(b"\x11\x05", next_header=0)), DropReason.TRUNCATED),
        (ethernet(b"\x41" + SEGMENT[1:]), DropReason.MALFORMED),
        (ethernet(ipv4(tcp(), length=12)), DropReason.MALFORMED),
        (ethernet(ipv4(tcp()[:12] + b"\x10" + tcp()[13:])), DropReason.MALFORMED),
        (ethernet(ipv4(tcp()[:12] + b"\xf0" + tcp()[13:])), DropReason.MALFORMED),
        (ethernet(ipv4(bytes(4), protocol=17)), DropReason.MALFORMED),
    ],
)
def test_what_cannot_be_metered_is_counted_by_reason(tmp_path, frame, reason):
    rows, drops = decode(tmp_path, [frame, ethernet(SEGMENT)])
    assert (len(rows), drops) == (1, {reason: 1})
    assert rows[0]["record"] == 1


def test_an_unknown_link_type_is_counted(tmp_path):
    assert decode(tmp_path, [ethernet(SEGMENT)] * 3, 147) == ([], {DropReason.UNSUPPORTED_LINKTYPE: 3})


@pytest.mark.parametrize("snap", range(36, 96))
def test_short_snap_lengths_keep_the_stated_sizes(tmp_path, snap):
    """The ports make the key; every field behind them counts as far as it is captured."""
    segment = tcp(bytes(1000), 1, 2, SYN, seq=7, window=99)
    rows, drops = decode(tmp_path, [ethernet(ipv4(segment))], snap=snap)
    captured = snap - 34
    if captured < 4:
        assert drops == {DropReason.TRUNCATED: 1}
    else:
        assert (rows[0]["ip_bytes"], rows[0]["payload_bytes"], rows[0]["wire_bytes"]) == (1040, 1000, 1054)
        fields = [rows[0][name] for name in ("src_port", "dst_port", "tcp_seq", "tcp_flags", "tcp_window")]
        assert fields == [1, 2, 7 * (captured >= 8), SYN * (captured >= 14), 99 * (captured >= 16)]


@pytest.mark.parametrize("tunnels", [(), ("ip-in-ip",)])
@pytest.mark.parametrize(("captured", "cut"), [(4, 1), (15, 1), (16, 0), (20, 0)])
def test_packets_with_a_cut_header_are_counted(tmp_path, captured, cut, tunnels):
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap([(NS, ethernet(ipv4(tcp(bytes(9)))))] * 3, snap=34 + captured))
    decoder = PacketDecoder(IpFragmentTable(), tunnels=tunnels)
    assert decoder.decode(open_records(CaptureBytes(str(path))).scan()).num_rows == 3
    assert decoder.cut == 3 * cut


MORE = 0x2000


def fragments(ip_id: int = 9, src: str = "10.0.0.1") -> list[bytes]:
    datagram = udp(bytes(3000), 777, 53)
    return [
        ethernet(
            ipv4(datagram[i : i + 1000], src, protocol=17, ip_id=ip_id, fragment=(MORE if i < 2000 else 0) | i // 8)
        )
        for i in range(0, 3000, 1000)
    ]


def test_later_fragments_join_the_flow_of_their_first(tmp_path):
    rows, drops = decode(tmp_path, fragments())
    assert not drops
    assert [(r["src_port"], r["dst_port"], r["payload_bytes"]) for r in rows] == [
        (777, 53, 992), (777, 53, 1000), (777, 53, 1000),
    ]  # fmt: skip


def test_fragments_without_a_first_are_counted(tmp_path):
    first, *later = fragments()
    assert decode(tmp_path, later)[1] == {DropReason.FRAGMENT_WITHOUT_FIRST: 2}
    assert decode(tmp_path, [*later, first])[1] == {DropReason.FRAGMENT_WITHOUT_FIRST: 2}
    assert decode(tmp_path, [first, *fragments(ip_id=10)[1:]])[1] == {DropReason.FRAGMENT_WITHOUT_FIRST: 2}
    assert decode(tmp_path, [first, *later], gap_ns=31 * 10**9)[1] == {DropReason.FRAGMENT_WITHOUT_FIRST: 2}
    assert decode(tmp_path, [first, *later], join_fragments=False)[1] == {DropReason.FRAGMENT_DROPPED: 2}


def test_ipv6_fragments_join_by_identification(tmp_path):
    datagram = udp(bytes(2000), 777, 53)
    frames = [
        ethernet(ipv6(struct.pack(">BBHI", 17, 0, i | (i == 0), 0xABCDEF) + datagram[i : i + 1000], next_header=44))
        for i in (0, 1000)
    ]
    rows, drops = decode(tmp_path, frames)
    assert not drops
    assert [(r["protocol"], r["src_port"], r["ip_id"]) for r in rows] == [(17, 777, 0xABCDEF)] * 2


def test_many_open_fragments_are_kept_and_old_ones_forgotten(tmp_path):
    firsts = [fragments(ip_id=i)[0] for i in range(500)]
    laters = [fragments(ip_id=i)[1] for i in range(500)]
    assert decode(tmp_path, firsts + laters)[1] == {}
    apart = [fragments(ip_id=i)[0] for i in range(500)] + [fragments(ip_id=499)[1], fragments(ip_id=0)[1]]
    assert decode(tmp_path, apart, gap_ns=10**9)[1] == {DropReason.FRAGMENT_WITHOUT_FIRST: 1}
