"""Keyed hashes: inputs that collide without a key do not collide, and no output depends on the key."""

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.arrow.rows import FLOWS, PACKETS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.arrays.hash_table import HASH_KEY
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.open_flow_table import key_tags
from flowloom.transforms.flows.packet_steps import key_options, packet_columns
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.packets import ip_fragments
from flowloom.transforms.packets.afterimage import AfterImage

ALL, GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15
GROUP = "00c0ffee00c0ffee"


@pytest.fixture
def another_key():
    before = HASH_KEY.copy()
    HASH_KEY[:] = np.random.default_rng(1).integers(0, ALL, len(HASH_KEY), np.uint64)
    yield
    HASH_KEY[:] = before


def ipv6(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64) + source + target + payload


def flood(path: Path, flows: int) -> Path:
    """Writes flows whose addresses share one sum of products, by which a table without a key would place them."""
    frames = []
    for number in range(flows):
        low = (number * 0x1000003 + 7) & ALL
        source = struct.pack("<QQ", low, (0x1234567 - low * GOLDEN) & ALL)
        packet = ipv6(source, b"\x20" + bytes(14) + b"\x01", 17, struct.pack(">HHHH", 1000, 53, 8, 0))
        frames.append((1_600_000_000_000_000_000, packet))
    path.write_bytes(pcap(frames, link_type=101))
    return path


def test_flows_of_a_flood_have_different_tags(tmp_path):
    part = CaptureRange(str(flood(tmp_path / "flood.pcap", 20_000)))
    definition = FlowDefinition.of()
    packets = concatenated(list(GroupReader([part], GROUP, definition).packets(part)), PACKETS)
    tags = key_tags(tuple(packet_columns(packets, definition)), key_options(definition), HASH_KEY)
    assert len(np.unique(tags)) > 19_900
    assert len(np.unique(tags & np.uint32(0xFFFF))) > 15_000, "a random function reaches 17,000 of 65,536 slots"


def test_first_fragments_of_a_flood_have_different_slots():
    """Words that cancel out one after another in a chain of mixers without a key."""

    def mixed(word: int) -> int:
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & ALL
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & ALL
        return word ^ (word >> 31)

    free = np.zeros(1 << 16, ip_fragments._ENTRY)
    slots = set()
    for number in range(5_000):
        word = (mixed(number + 1) + 5) & ALL
        last = (42 - mixed((mixed(word) + 6) & ALL)) & ALL
        slots.add(
            int(
                ip_fragments._slot(
                    free, *np.array([number + 1, 5, 6, last], np.uint64), np.uint8(0), np.uint32(7), HASH_KEY
                )
            )
        )
    assert len(slots) > 4_500


def outputs(path: Path) -> list:
    """Returns all batches of flows and of packet decisions of a capture, in their order, and features of packets."""
    part = CaptureRange(str(path))
    definitions = (
        FlowDefinition.of(k=3),
        FlowDefinition.of(idle_s=0.5, max_open_flows=50),
        FlowDefinition.of("packet-windows", k=3, max_open_flows=40),
    )
    tables = [pa.Table.from_batches(GroupReader([part], GROUP, each).flows(), FLOWS) for each in definitions]
    afterimage = AfterImage()
    packets = list(GroupReader([part], GROUP, FlowDefinition.of()).packets(part))
    assert all(table.num_rows > 50 for table in tables)
    return [*tables, *(afterimage.update(batch).tolist() for batch in packets)]


def test_outputs_do_not_depend_on_the_key(tmp_path, request):
    draws = np.random.default_rng(7)
    frames = []
    for number, (host, port, gap) in enumerate(zip(*draws.integers(0, [[60], [5], [40]], (3, 3_000)), strict=True)):
        packet = ipv4(udp(bytes(20), 1000 + port, 53), f"10.0.{host}.1", "10.9.0.1", protocol=17)
        frames.append((1_600_000_000_000_000_000 + number * 3_000_000 + int(gap), ethernet(packet)))
    path = tmp_path / "random.pcap"
    path.write_bytes(pcap(frames))
    one = outputs(path)
    request.getfixturevalue("another_key")
    assert outputs(path) == one
