"""Session bytes: the images of flows however their group is cut, and as a plain concatenation gives them."""

import itertools
import struct

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, ipv6, pcap, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.ip_fragments import IpFragmentTable
from flowloom.transforms.packet_flows import RangeFlows
from flowloom.transforms.packets import PacketDecoder
from flowloom.transforms.published_iscx import read_iscx_images
from flowloom.transforms.records import Records
from flowloom.transforms.session_bytes import SessionCutter, join_sessions
from flowloom.transforms.set_aside import SetAside

GROUP = "00c0ffee00c0ffee"


def flow_id(flow: int) -> bytes:
    return struct.pack(">QQ", flow * 7 % 5, flow)


def masked(packet: bytes) -> bytes:
    first, last = (12, 20) if packet[0] >> 4 == 4 else (8, 40)
    return packet[:first] + bytes(last - first) + packet[last:]


def records_of(frames: list[bytes]) -> Records:
    start = np.cumsum([0, *map(len, frames)])[:-1].astype(np.int64)
    sizes = np.array([len(frame) for frame in frames], np.int64)
    window = np.frombuffer(b"".join(frames), np.uint8)
    return Records(window, start, sizes, sizes, np.arange(len(frames)), np.ones(len(frames), np.int32))


def images(packets: list[bytes], flows: list[int], cuts: list[int], length: int, known: set[int]) -> dict[bytes, bytes]:
    """The image of each known flow, from ranges between the cuts that number their flows by themselves."""
    edges = sorted({0, len(packets), *(cut % (len(packets) + 1) for cut in cuts)})
    pieces, ranges = [], []
    for begin, end in itertools.pairwise(edges):
        # padding behind the packet is no part of it
        records = records_of([ethernet(packet) + b"\xdd" * 3 for packet in packets[begin:end]])
        batch, places = PacketDecoder(IpFragmentTable()).decode_located(records)
        numbered = {flow: serial for serial, flow in enumerate(dict.fromkeys(flows[begin:end]))}
        serials = np.array([numbered[flow] for flow in flows[begin:end]], np.int64)
        pieces.append(SessionCutter(length).cut(batch, places, serials))
        named = [(serial, flow_id(flow)) for flow, serial in numbered.items() if flow in known]
        ids = np.frombuffer(b"".join(name for _, name in named), np.uint64).reshape(-1, 2)
        ranges.append(RangeFlows(np.array([serial for serial, _ in named], np.int64), binary_16(ids)))
    rows = join_sessions(pieces, ranges, GROUP, length).to_pylist()
    assert [row["flow_id"] for row in rows] == sorted(row["flow_id"] for row in rows)
    return {row["flow_id"]: row["bytes"] for row in rows}


def binary_16(words: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), len(words), [None, pa.py_buffer(words)])


kinds = st.builds(
    lambda size, kind: (
        ipv4(tcp(b"\xaa" * size)) if kind == 4 else ipv6(udp(b"\xbb" * size, 7, 8), next_header=17)
    ),
    st.sampled_from([0, 1, 50, 300]), st.sampled_from([4, 6]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(kinds, st.integers(0, 4)), max_size=25), st.lists(st.integers(0, 25), max_size=3),
    st.sampled_from([1, 15, 100, 784]), st.sets(st.integers(0, 4)),
)  # fmt: skip
def test_images_are_the_packets_of_a_flow_one_behind_the_other(chosen, cuts, length, known):
    packets, flows = [packet for packet, _ in chosen], [flow for _, flow in chosen]
    wanted = {
        flow_id(flow): b"".join(masked(p) for p, own in chosen if own == flow)[:length].ljust(length, b"\0")
        for flow in known & set(flows)
    }
    assert images(packets, flows, cuts, length, known) == wanted


def test_images_equal_those_of_a_published_session(tmp_path):
    packets = [ipv4(tcp(bytes([at]) * 90, 1000, 80, seq=at)) for at in range(9)]
    session = pcap([(at, ethernet(packet)) for at, packet in enumerate(packets)], nanoseconds=False)[:784]
    (tmp_path / "images").write_bytes(struct.pack(">IIII", 0x803, 1, 28, 28) + session)
    (tmp_path / "labels").write_bytes(struct.pack(">II", 0x801, 1) + b"\0")
    paths = [str(tmp_path / name) for name in ("images", "labels")]
    (published,) = (row for b in read_iscx_images(*paths, SetAside(), classes=2) for row in b.to_pylist())
    (ours,) = images(packets, [0] * 9, [4], 784, {0}).values()
    held = len(published["bytes"].rstrip(b"\0"))
    assert held > 500
    assert ours[:held] == published["bytes"][:held]


def test_an_image_has_bytes():
    with pytest.raises(FlowloomError, match="at least 1, got 0"):
        SessionCutter(0)
