"""ISCX images: what stays of sessions that are made here, what may not show, and the published counts."""

import collections
import gzip
import struct

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, ipv6, pcap, tcp, udp

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.published.iscx_images import TRAFFIC, read_iscx_images, read_iscx_twelve
from flowloom.transforms.published.published_rejects import Rejects

SIDE = 28
LENGTH = SIDE * SIDE


def write(folder, images: list[bytes], labels: list[int], *, missing: int = 0) -> tuple[str, str]:
    content = b"".join(image[:LENGTH].ljust(LENGTH, b"\0") for image in images)
    idx = struct.pack(">IIII", 0x803, len(images) + missing, SIDE, SIDE) + content
    (folder / "images.gz").write_bytes(gzip.compress(idx))
    (folder / "labels").write_bytes(struct.pack(">II", 0x801, len(labels)) + bytes(labels))
    return str(folder / "images.gz"), str(folder / "labels")


def read(folder, images, labels=None, **how):
    rejects = Rejects()
    paths = write(folder, images, labels or [0] * len(images), missing=how.pop("missing", 0))
    rows = [r for b in read_iscx_images(*paths, rejects, **{"classes": 6} | how) for r in b.to_pylist()]
    return rows, rejects


def session(frames: list[bytes], link_type: int = 1, order: str = ">") -> bytes:
    return pcap(
        [(at * 1000, frame) for at, frame in enumerate(frames)], link_type=link_type, nanoseconds=False, order=order
    )


def masked(packet: bytes) -> bytes:
    first, last = (12, 20) if packet[0] >> 4 == 4 else (8, 40)
    return packet[:first] + bytes(last - first) + packet[last:]


PACKETS = [ipv4(tcp(b"hello"), "192.0.2.1", "192.0.2.2"), ipv6(udp(b"six" * 9), next_header=17), ipv4(tcp(b"x" * 900))]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("link_type", [1, 101])
def test_only_packets_stay_one_behind_the_other(tmp_path, order, link_type):
    wrapped = [ethernet(packet) if link_type == 1 else packet for packet in PACKETS]
    if link_type == 1:
        wrapped[0] += b"\xee" * 6  # padding of a short frame
        wrapped.insert(1, ethernet(b"\xaa" * 28, 0x0806))
    image = session(wrapped, link_type, order)
    (row,), rejects = read(tmp_path, [image])
    # the last packet is cut where the image ends
    cut = LENGTH - (len(image) - len(PACKETS[2]))
    assert row["bytes"] == b"".join(map(masked, [*PACKETS[:2], PACKETS[2][:cut]])).ljust(LENGTH, b"\0")
    assert rejects.counts() == {}
    (row,), _ = read(tmp_path, [image], mask="none")
    assert row["bytes"] == b"".join([*PACKETS[:2], PACKETS[2][:cut]]).ljust(LENGTH, b"\0")


@pytest.mark.parametrize("header", ["strip", "keep"])
def test_addresses_and_in_stripped_images_times_never_show(tmp_path, header):
    def image(src: str, mac: bytes, start: int) -> bytes:
        frames = [mac * 2 + ethernet(ipv4(udp(b"payload"), src, "192.0.2.9", 17))[12:]] * 20
        return pcap([(start + at * 1000, frame) for at, frame in enumerate(frames)], nanoseconds=False, order=">")

    starts = (0, 7 * 10**9) if header == "strip" else (0, 0)
    rows, _ = read(
        tmp_path, [image("10.1.2.3", b"\1" * 6, starts[0]), image("10.9.9.9", b"\2" * 6, starts[1])], header=header
    )
    assert rows[0]["bytes"] == rows[1]["bytes"]
    assert rows[0]["flow_id"] != rows[1]["flow_id"]


ZEROED = {
    4: ((4, 6), (8, 9), (10, 24)), 6: ((2, 4), (7, 40)),
    "tcp": ((0, 12), (16, 18), (20, 32)), "udp": ((0, 4), (6, 8)), "icmp": ((2, 8),), "plain": (),
    "fragment": ((4, 8),),
}  # fmt: skip
"""Bytes of each header that `strict` zeroes; of IPv6's second one the lower half is, too."""


def told_by(end: int, version: int) -> list[tuple[bytes, bytes]]:
    """Returns packets in which everything that `strict` masks depends on `end`, each with what it leaves of them."""
    ports, checksum = struct.pack(">HH", 1000 + end, 2000 + end), bytes([end] * 2)
    options = bytes([8, 10, *[end] * 8, 1, 1])
    segments = {
        "tcp": (6, ports + bytes([end] * 8) + b"\x80\x18\x03\xe7" + checksum + b"\0\7" + options + b"GET /"),
        "udp": (17, ports + struct.pack(">H", 16) + checksum + b"question"),
        "icmp": (1 if version == 4 else 58, bytes([8, 0]) + checksum + b"echo"),
        "plain": (47, b"no transport that is known"),
    }
    packets = []
    for name, (protocol, segment) in segments.items():
        places = [(0, version)]
        if version == 4:
            hosts = f"192.0.2.{end}", f"198.51.100.{end}"
            packet = bytearray(ipv4(segment, *hosts, protocol, ip_id=end, ttl=end, options=bytes([end] * 4)))
            packet[10:12] = checksum
            places.append((24, name))
        else:
            # hop-by-hop, a first fragment, destination options
            extensions = b"\x2c\0" + bytes(6) + b"\x3c\0\0\1" + bytes([end] * 4) + bytes([protocol, 1]) + bytes(14)
            hosts = f"2001:db8::{end}", f"2001:db8:1::{end}"
            packet = bytearray(ipv6(extensions + segment, *hosts, 0, hop_limit=end))
            packet[1:4] = bytes([0x30 | end, end, end])  # traffic class and flow label
            places += [(48, "fragment"), (72, name)]
        kept = bytearray(packet)
        if version == 6:
            kept[1] &= 0xF0
        for at, header in places:
            for first, last in ZEROED[header]:
                kept[at + first : at + last] = bytes(last - first)
        packets.append((bytes(packet), bytes(kept)))
    return packets


@pytest.mark.parametrize("link_type", [1, 101])
@pytest.mark.parametrize("header", ["strip", "keep"])
@pytest.mark.parametrize("version", [4, 6])
def test_strict_leaves_nothing_of_a_connection_or_host_and_all_else(tmp_path, version, header, link_type):
    """Wherever the image ends."""
    images, expected = [], []
    for room in range(34, 450):
        first = ipv4(b"", protocol=47)
        first += bytes(LENGTH - room - len(session([ethernet(first) if link_type == 1 else first], link_type)))
        first = first[:2] + struct.pack(">H", len(first)) + first[4:]
        before = (first, first[:8] + b"\0" + first[9:12] + bytes(8) + first[20:])
        for end in (1, 2):
            packets = [before, *told_by(end, version)]
            frames, left = ([packet[which] for packet in packets] for which in (0, 1))
            if link_type == 1:
                arp = ethernet(bytes([end] * 28), 0x0806), ethernet(bytes(28), 0x0806)
                frames = [ethernet(frame) for frame in frames[:1]] + [arp[0], *map(ethernet, frames[1:])]
                frames = [bytes([end] * 12) + frame[12:] for frame in frames]
                left = [ethernet(left[0]), arp[1], *map(ethernet, left[1:])]
            images.append(session(frames, link_type))
            if header == "keep":
                expected.append(session(left, link_type)[:LENGTH].ljust(LENGTH, b"\0"))
                continue
            kept, at = b"", 24
            for frame in left:
                packet = frame[14:] if link_type == 1 else frame
                if frame != ethernet(bytes(28), 0x0806):
                    kept += packet[: max(LENGTH - at - 16 - len(frame) + len(packet), 0)]
                at += 16 + len(frame)
            expected.append(kept.ljust(LENGTH, b"\0"))
    rows, rejects = read(tmp_path, images, header=header, mask="strict")
    assert rejects.counts() == {}
    assert len(rows) == len(images)
    for row, wanted in zip(rows, expected, strict=True):
        assert row["bytes"] == wanted
    assert rows[0]["bytes"] == rows[1]["bytes"]
    others, _ = read(tmp_path, images, header=header)
    assert others[-1]["bytes"] != others[-2]["bytes"]


def test_strict_keeps_payload_of_later_fragments_and_of_other_protocols(tmp_path):
    later = b"\x11\0\0\x28" + bytes(4) + bytes(range(120, 180))
    packets = [ipv4(bytes(range(1, 60)), protocol=17, fragment=5), ipv6(later, next_header=44)]
    packets.append(ipv4(bytes(range(60, 120)), protocol=47))
    (row,), _ = read(tmp_path, [session(packets, 101)], mask="strict")
    assert bytes(range(1, 60)) in row["bytes"]
    assert bytes(range(60, 120)) in row["bytes"]
    assert bytes(range(120, 180)) in row["bytes"]


def test_a_record_header_that_the_image_cuts_off_is_left_out(tmp_path):
    first = ipv4(udp(b"\xbb" * (LENGTH - 24 - 16 - 28 - 8), dst_port=99), protocol=17)
    (row,), _ = read(tmp_path, [session([first, first], 101)])
    assert row["bytes"] == masked(first).ljust(LENGTH, b"\0")


def test_images_of_payload_stay_as_they_are(tmp_path):
    rows, _ = read(tmp_path, [b"\x16\x03\x01", b"GET /"], [1, 5])
    assert [row["bytes"] for row in rows] == [content.ljust(LENGTH, b"\0") for content in (b"\x16\x03\x01", b"GET /")]
    assert [row["word_traffic"] for row in rows] == ["email", "voip"]


def test_bad_images_are_rejects(tmp_path):
    good = session([ethernet(PACKETS[0])])
    broken = good[:32] + struct.pack(">I", 1 << 20) + good[36:]
    images = [good, b"none", broken, session([ethernet(bytes(28), 0x0806)]), good]
    rows, rejects = read(tmp_path, images, [0, 0, 0, 0, 6])
    assert len(rows) == 1
    assert sorted(rejects.rows()["offset"].to_pylist()) == [1, 2, 3, 4]
    assert rejects.counts() == {"bad-row": 4}
    rows, rejects = read(tmp_path, [good], [0, 0, 0], missing=2)
    assert (rows, rejects.counts()) == ([], {"cut-off": 1, "other-format": 1})


@pytest.mark.parametrize("bad", [{"classes": 7}, {"classes": 12, "tunnel": "vpn"}, {"classes": 6, "tunnel": "x"},
                                 {"classes": 6, "header": "none"}, {"classes": 6, "mask": "all"}])  # fmt: skip
def test_bad_arguments_raise_at_once(bad):
    with pytest.raises(FlowloomError, match="got"):
        read_iscx_images("images", "labels", Rejects(), **bad)


def test_the_twelve_classes_are_put_together(real_data):
    folder, rejects = real_data / "iscx-wang2017", Rejects()
    rows = pa.Table.from_batches(read_iscx_twelve(str(folder), "SessionAllLayers", rejects))
    assert (rows.num_rows, rejects.counts()) == (35_501, {})
    words = [*TRAFFIC, *(f"vpn-{word}" for word in TRAFFIC)]
    stored = gzip.decompress((folder / "12class/SessionAllLayers/train-labels-idx1-ubyte.gz").read_bytes())
    published = np.bincount(np.frombuffer(stored, np.uint8, offset=8))
    counts = collections.Counter(rows["word_tunnel_traffic"].to_pylist())
    assert [counts[word] for word in words] == published.tolist()
    assert collections.Counter(rows["word_tunnel"].to_pylist()) == {"plain": 24_229, "vpn": 11_272}
    content = np.frombuffer(rows["bytes"].combine_chunks().buffers()[1], np.uint8).reshape(-1, LENGTH)
    version = content[:, 0] >> 4
    assert set(version.tolist()) == {4, 6}
    assert not content[version == 4, 12:20].any()
    assert not content[version == 6, 8:40].any()


def test_put_together_payload_images_are_those_published(real_data):
    folder, rejects = str(real_data / "iscx-wang2017"), Rejects()
    built = pa.Table.from_batches(read_iscx_twelve(folder, "SessionL7", rejects, split="t10k"))
    names = [f"{folder}/12class/SessionL7/t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    published = pa.Table.from_batches(read_iscx_images(*names, rejects, classes=12))
    assert rejects.counts() == {}
    columns = ("bytes", "word_traffic", "word_tunnel", "word_tunnel_traffic")
    both = [
        collections.Counter(zip(*(t[name].to_pylist() for name in columns), strict=True)) for t in (built, published)
    ]
    assert both[0] == both[1]
    assert both[0].total() == 3_244
