"""Packet decoder: link types, headers, fragments, and the accounting of records without a packet."""

import ipaddress
import struct
from pathlib import Path

import pytest
from capture_files import ACK, SYN, ethernet, ipv4, ipv6, pcap, tcp, udp

from flowloom.schemas.arrow.accounting import DropReason
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


SEGMENT = ipv4(tcp(b"abc", 4000, 443, SYN | ACK, seq=7, window=99), ttl=33, ip_id=5)
SIX = ipv6(udp(b"abcd", 5000, 53), hop_limit=9, next_header=17)
LLC_SNAP = b"\xaa\xaa\x03\x00\x00\x00\x08\x00"

WRAPPED = {
    "ethernet": (1, ethernet(SEGMENT)),
    "raw": (101, SEGMENT),
    "raw-12": (12, SEGMENT),
    "raw-14": (14, SEGMENT),
    "ipv4": (228, SEGMENT),
    "sll": (113, struct.pack(">HHHQH", 0, 1, 6, 0, 0x0800) + SEGMENT),
    "sll2": (276, struct.pack(">HHIHBBQ", 0x0800, 0, 1, 1, 0, 6, 0) + SEGMENT),
    "null-little": (0, struct.pack("<I", 2) + SEGMENT),
    "null-big": (0, struct.pack(">I", 2) + SEGMENT),
    "loop": (108, struct.pack(">I", 2) + SEGMENT),
    "ppp": (9, b"\x00\x21" + SEGMENT),
    "ppp-hdlc": (50, b"\xff\x03\x00\x21" + SEGMENT),
    "ppp-compressed": (9, b"\xff\x03\x21" + SEGMENT),
    "c-hdlc": (104, b"\x0f\x00\x08\x00" + SEGMENT),
    "c-hdlc as ppp": (9, b"\x0f\x00\x08\x00" + SEGMENT),
    "fabric-path": (1, ethernet(b"\x40\x20" + ethernet(SEGMENT), 0x8903)),
    "mpls": (1, ethernet(b"\x00\x01\x00\x40" + b"\x00\x02\x01\x40" + SEGMENT, 0x8847)),
    "pppoe": (1, ethernet(b"\x11\x00\x00\x01" + struct.pack(">H", len(SEGMENT) + 2) + b"\x00\x21" + SEGMENT, 0x8864)),
    "snap": (1, ethernet(LLC_SNAP + SEGMENT, len(SEGMENT) + 8)),
    "padded": (1, ethernet(SEGMENT) + bytes(20)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_link_type_gives_the_same_packet(tmp_path, name):
    link_type, frame = WRAPPED[name]
    rows, drops = decode(tmp_path, [frame], link_type)
    assert not drops
    assert rows == [
        {
            "record": 0, "time_ns": NS, "clock_ns": NS, "src_ip": ipaddress.ip_address("::ffff:10.0.0.1").packed,
            "dst_ip": ipaddress.ip_address("::ffff:10.0.0.2").packed, "src_port": 4000, "dst_port": 443, "protocol": 6,
            "ip_version": 4, "vlan": 0, "tunnel_id": 0, "wire_bytes": len(frame), "ip_bytes": 43, "payload_bytes": 3,
            "ip_id": 5, "ttl": 33, "tcp_flags": 0x12, "tcp_window": 99, "tcp_seq": 7,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [(1, ethernet(SIX)), (229, SIX), (101, SIX), (9, b"\x00\x57" + SIX), (0, struct.pack("<I", 30) + SIX)],
)
def test_ipv6_on_its_link_types(tmp_path, link_type, frame):
    rows, _ = decode(tmp_path, [frame], link_type)
    assert rows[0] | {} == rows[0]
    names = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol", "ip_version", "ip_bytes", "payload_bytes", "ttl")
    addresses = [ipaddress.ip_address(a).packed for a in ("fd00::1", "fd00::2")]
    assert [rows[0][n] for n in names] == [*addresses, 5000, 53, 17, 6, 52, 4, 9]


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
        (ethernet(SEGMENT[:33]), DropReason.TRUNCATED),
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
    assert decode(tmp_path, [ethernet(SEGMENT)] * 3, 105) == ([], {DropReason.UNSUPPORTED_LINKTYPE: 3})


@pytest.mark.parametrize("snap", [40, 54, 60, 96])
def test_short_snap_lengths_keep_the_stated_sizes(tmp_path, snap):
    rows, drops = decode(tmp_path, [ethernet(ipv4(tcp(bytes(1000), 1, 2)))], snap=snap)
    if snap < 14 + 20 + 16:
        assert drops == {DropReason.TRUNCATED: 1}
    else:
        assert (rows[0]["ip_bytes"], rows[0]["payload_bytes"], rows[0]["wire_bytes"]) == (1040, 1000, 1054)


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
