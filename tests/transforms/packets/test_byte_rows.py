"""Packet bytes: equal to a plain reference for any packets, masked fields, and every packet accounted for."""

import ipaddress
import struct

import numpy as np
import pytest
from capture_files import ACK, ethernet, ipv4, ipv6, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import open_records
from flowloom.transforms.captures.records import Records
from flowloom.transforms.packets.byte_rows import no_drops, packet_rows
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable

PAPER, STRICT = PacketView(), PacketView(preset="strict")


def located(frames: list[bytes], link_type: int = 1, snap: int = 65_535) -> Records:
    """Returns frames as records of one window, with foreign bytes between them."""
    parts, start, at = [], [], 0
    for frame in frames:
        parts += [b"\xee" * 7, frame[:snap]]
        start.append(at + 7)
        at += 7 + len(frame[:snap])
    window = np.frombuffer(b"".join([*parts, b"\xee" * 7]), np.uint8)
    captured = np.array([len(frame[:snap]) for frame in frames], np.int64)
    wire = np.array([len(frame) for frame in frames], np.int64)
    times = np.arange(len(frames), dtype=np.int64)
    return Records(window, np.array(start, np.int64), captured, wire, times, np.full(len(frames), link_type, np.int32))


def rows_of(frames: list[bytes], packet_view: PacketView = PAPER, **how) -> tuple[dict[int, bytes], dict[str, int]]:
    """Returns the row of each record that has one, and the drops by reason."""
    packets, places = PacketDecoder(IpFragmentTable(), tunnels=how.pop("tunnels", ())).decode_located(
        located(frames, **how)
    )
    dropped = no_drops()
    serials = np.arange(packets.num_rows, dtype=np.int64) * 10
    batches = list(packet_rows(packets, places, serials, packet_view, dropped))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert packets.num_rows == len(rows) + dropped.sum()
    known = zip(packets["record"].to_pylist(), packets["time_ns"].to_pylist(), serials.tolist(), strict=True)
    assert {(row["record"], row["time_ns"], row["serial"]) for row in rows} <= set(known)
    return {row["record"]: row["bytes"] for row in rows}, {r.label: int(dropped[r]) for r in PacketDrop if dropped[r]}


def reference(packet: bytes, captured: int, *, strict: bool, length: int) -> bytes | PacketDrop:
    """Returns the row of one IP packet, slowly, field by field, by MTC, section 3.2.1."""
    if packet[0] >> 4 == 6:
        return PacketDrop.IPV6
    head, _, size, _, fragment, _, kind, _, _, _ = struct.unpack(">BBHHHBBH4s4s", packet[:20])
    options = packet[20 : (head & 15) * 4]
    if kind not in (6, 17):
        return PacketDrop.OTHER_PROTOCOL
    if fragment & 0x1FFF:
        return PacketDrop.LATER_FRAGMENT
    rest = packet[20 + len(options) : size]
    ports = struct.unpack(">HH", rest[:4])
    header = (rest[12] >> 4) * 4 if kind == 6 else 8
    if 53 in ports:
        return PacketDrop.NAME_SERVICE
    if kind == 6 and len(rest) == header:
        return PacketDrop.EMPTY_SEGMENT
    seen = rest[: max(captured - 20 - len(options), 0)]
    network = bytearray(packet[:12] + bytes(8) + options)
    transport = bytearray(seen[: min(header, 20)].ljust(20, b"\0"))
    if strict:
        network[4:6], network[8:9], network[10:12], network[20:] = b"\0\0", b"\0", b"\0\0", bytes(len(options))
        transport[0:4] = bytes(4)
        if kind == 6:
            transport[4:12], transport[16:18] = bytes(8), bytes(2)
        else:
            transport[6:8] = bytes(2)
    return (bytes(network) + bytes(transport) + seen[header:])[:length].ljust(length, b"\0")


ports = st.sampled_from([53, 80, 443, 65_535])
segments = st.builds(
    lambda src, dst, numbers, flags, options, payload: (
        struct.pack(">HHIIBBHHH", src, dst, *numbers[:2], (5 + len(options) // 4) << 4, flags, *numbers[2:])
        + options
        + payload
    ),
    ports, ports, st.tuples(*(st.integers(0, 2**bits - 1) for bits in (32, 32, 16, 16, 16))), st.integers(0, 255),
    st.sampled_from([b"", b"\x01" * 12, b"\x02" * 40]), st.sampled_from([b"", b"x", b"hello" * 9, b"\xab" * 1600]),
)  # fmt: skip
datagrams = st.builds(udp, st.sampled_from([b"", b"y", b"data" * 20, b"\xcd" * 1600]), ports, ports)
hosts = st.integers(1, 2**32 - 2).map(lambda number: str(ipaddress.ip_address(number)))
packets = st.one_of(
    st.builds(
        lambda body, src, dst, ip_id, ttl, options: ipv4(
            body[1], src, dst, body[0], ip_id=ip_id, ttl=ttl, options=options
        ),
        st.one_of(segments.map(lambda s: (6, s)), datagrams.map(lambda d: (17, d)), st.just((1, bytes(8)))),
        hosts, hosts, st.integers(0, 65_535), st.integers(0, 255), st.sampled_from([b"", b"\x07" * 4, b"\x07" * 40]),
    ),
    st.just(ipv6(tcp(b"six"))),
    st.just(ipv6(udp(b"six"), next_header=17)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(packets, st.integers(0, 20)), min_size=1, max_size=12),
    st.sampled_from(["paper", "strict"]),
    st.sampled_from([80, 200, 1500]),
    st.sampled_from([50 + 14 + 60, 300, 65_535]),
)
def test_rows_equal_the_reference(chosen, preset, length, snap):
    frames = [ethernet(packet) + b"\xdd" * padding for packet, padding in chosen]
    rows, dropped = rows_of(frames, PacketView(preset=preset, length=length), snap=snap)
    wanted = [reference(p, snap - 14, strict=preset == "strict", length=length) for p, _ in chosen]
    assert rows == {at: row for at, row in enumerate(wanted) if isinstance(row, bytes)}
    reasons = [row.label for row in wanted if isinstance(row, PacketDrop)]
    assert dropped == {reason: reasons.count(reason) for reason in set(reasons)}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([PAPER, STRICT]), hosts, hosts, st.integers(54, 65_535), st.integers(54, 65_535),
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65_535), st.integers(0, 255),
    st.integers(0, 65_535),
)  # fmt: skip
def test_what_names_a_host_or_a_connection_never_shows(
    packet_view, src, dst, src_port, dst_port, seq, ack, ip_id, ttl, checksum
):
    strict = packet_view.preset == "strict"

    def frames(*how):
        src, dst, src_port, dst_port, seq, ack, ip_id, ttl, checksum = how
        head = struct.pack(">HHIIBBHHH", src_port, dst_port, seq, ack, 0x80, ACK, 9, checksum, 0)
        stamped = head + b"\x01\x01\x08\x0a" + struct.pack(">II", seq, ack)  # TCP timestamps, RFC 7323
        both = [(6, stamped + b"hello"), (17, struct.pack(">HHHH", src_port, dst_port, 13, checksum) + b"hello")]
        made = [bytearray(ipv4(body, src, dst, kind, ip_id=ip_id, ttl=ttl)) for kind, body in both]
        for packet in made:
            packet[10:12] = struct.pack(">H", checksum)
        return [ethernet(bytes(packet)) for packet in made]

    fixed = ("10.0.0.1", "10.0.0.2", 1000, 443, 1, 2, 3, 64, 5)
    told = (src, dst, src_port, dst_port, seq, ack, ip_id, ttl, checksum) if strict else (src, dst, *fixed[2:])
    assert rows_of(frames(*told), packet_view) == rows_of(frames(*fixed), packet_view)


def test_the_paper_keeps_what_strict_masks():
    frames = [ethernet(ipv4(tcp(b"hello", port, 80), ttl=ttl)) for port, ttl in ((1000, 64), (1001, 64), (1000, 63))]
    assert len(set(rows_of(frames)[0].values())) == 3
    assert len(set(rows_of(frames, STRICT)[0].values())) == 1


def test_tunnels_show_the_packet_inside():
    inner = ipv4(udp(b"inside", 700, 800), "192.0.2.1", "192.0.2.2", 17)
    outer = ipv4(inner, protocol=4)
    assert rows_of([ethernet(outer)])[1] == {"other-protocol": 1}
    assert rows_of([ethernet(outer)], tunnels=["ip-in-ip"]) == rows_of([ethernet(inner)])


def test_later_fragments_and_further_names_are_dropped():
    whole = udp(b"\xaa" * 3000, 777, 888)
    parts = [ethernet(ipv4(whole[i : i + 1000], protocol=17, fragment=0x2000 | i // 8)) for i in (0, 1000, 2000)]
    rows, dropped = rows_of(parts)
    assert (list(rows), dropped) == ([0], {"later-fragment": 2})
    local = [ethernet(ipv4(udp(b"m", 5353, 5353), protocol=17))]
    assert rows_of(local)[1] == {}
    assert rows_of(local, PacketView(name_service_ports=(53, 5353)))[1] == {"name-service": 1}


@pytest.mark.parametrize("bad", [{"length": 79}, {"name_service_ports": (0,)}, {"preset": "lax"}])
def test_views_check_themselves(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PacketView(**bad)


def test_rows_do_not_depend_on_batches_nor_on_what_was_in_memory(monkeypatch):
    frames = [ethernet(ipv4(udp(bytes([i]) * (i * 7 % 300), 1000, 2000), protocol=17)) for i in range(200)]
    whole = rows_of(frames)
    for size in (1, 5000):
        monkeypatch.setattr("flowloom.transforms.packets.byte_rows.BATCH_BYTES", size)
        assert rows_of(frames) == whole


@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_accounting_closes_on_real_captures(real_data, preset):
    total = 0
    for path in sorted((real_data / "attacks").glob("*/*.pcap*"))[:12]:
        capture = CaptureBytes(str(path))
        scanner, decoder, dropped = open_records(capture), PacketDecoder(IpFragmentTable()), no_drops()
        rows = seen = 0
        while len(records := scanner.scan()):
            packets, places = decoder.decode_located(records)
            assert (places.end - places.network >= 20).all()
            serials = np.zeros(packets.num_rows, np.int64)
            for batch in packet_rows(packets, places, serials, PacketView(preset=preset), dropped):
                content = np.frombuffer(batch["bytes"].buffers()[1], np.uint8).reshape(-1, 1500)
                assert (content[:, 0] >> 4 == 4).all()
                assert not content[:, 12:20].any()
                rows += len(content)
            seen += packets.num_rows
        capture.close()
        assert seen == rows + dropped.sum()
        total += rows
    assert total > 1000
