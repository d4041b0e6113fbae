"""Flow fragments: joined, the ranges of any cuts of a capture group give the flows of the whole."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_rows import GROUP, SECOND, START, batch_of, in_capture, packet, packet_rows, with_clock

from flowloom.schemas.arrow.rows import FLOWS, FRAGMENTS, PACKETS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.flow_fragments import join_fragments
from flowloom.transforms.flows.meter import FlowMeter, RangePlace
from flowloom.transforms.metering.group_reader import GroupReader

ASSOCIATIVE = [
    FlowDefinition.of("default", k=5),
    FlowDefinition.of("multitask-cnn"),
    FlowDefinition.of("default", tcp_close="fin", k=3, min_packets=2),
    FlowDefinition.of("default", size="payload", idle_udp_s=15, min_packets=2, vlan_in_key=True),
    FlowDefinition.of("default", size="wire", orient="syn", k=1, zero_payload="skip"),
    FlowDefinition.of("default", tcp_close="none", tunnels="all", tunnel_in_key=True, k=9),
]


def whole(packets: pa.RecordBatch, definition: FlowDefinition) -> pa.Table:
    meter = FlowMeter(definition, GROUP)
    meter.update(packets)
    return ordered(pa.Table.from_batches(taken(meter), FLOWS))


def taken(meter: FlowMeter) -> list[pa.RecordBatch]:
    meter.finish()
    batches = []
    while meter.finished:
        batches.append(meter.take())
    return batches


def ordered(flows: pa.Table) -> pa.Table:
    return flows.sort_by([("start", "ascending"), ("flow_id", "ascending")]).combine_chunks()


def in_ranges(packets: pa.RecordBatch, cuts: list[int], definition: FlowDefinition, *, blind: bool, shuffle: int = 0):
    """Meters the ranges between the cuts apart, and joins their fragments in some order."""
    edges = [0, *sorted(cut % (packets.num_rows + 1) for cut in cuts), packets.num_rows]
    clock, clocks = None, []
    flows, fragments = [], []
    for position, (begin, end) in enumerate(itertools.pairwise(edges)):
        place = RangePlace(position, position == len(edges) - 2, None if blind else clock)
        meter = FlowMeter(definition, GROUP, place)
        meter.update(with_clock(packets.slice(begin, end - begin), None if blind else clock))
        flows += taken(meter)
        fragments += meter.take_fragments()
        latest = max([t for t in (clock, meter.clock_ns) if t is not None], default=None)
        clock = latest
        clocks.append(np.iinfo(np.int64).min if latest is None else latest)
    pieces = concatenated(fragments, FRAGMENTS)
    pieces = pieces.take(pa.array(np.random.default_rng(shuffle).permutation(pieces.num_rows)))
    joined = join_fragments(pieces, clocks, definition, GROUP).flows
    return ordered(pa.Table.from_batches([*flows, joined], FLOWS)), pieces.num_rows


@settings(max_examples=400, deadline=None)
@given(
    st.lists(packet_rows, max_size=60),
    st.sampled_from(ASSOCIATIVE),
    st.lists(st.integers(0, 60), max_size=6),
    st.booleans(),
    st.integers(0, 9),
)
def test_any_ranges_join_to_the_flows_of_the_whole(gaps_and_rows, definition, cuts, blind, shuffle):
    now, rows = START, []
    for gap, row in gaps_and_rows:
        now += gap
        rows.append(row | {"time_ns": now})
    packets = batch_of(in_capture(rows))
    expected = whole(packets, definition)
    flows, _ = in_ranges(packets, cuts, definition, blind=blind, shuffle=shuffle)
    assert flows.equals(expected)


SEGMENTS = {
    "SYN": {"tcp_flags": 0x02, "payload_bytes": 0},
    "data": {"tcp_flags": 0x18, "payload_bytes": 60},
    "ACK": {"tcp_flags": 0x10, "payload_bytes": 0},
    "FIN": {"tcp_flags": 0x11, "payload_bytes": 0},
}


@pytest.mark.parametrize("tcp_close", ["fin", "lifecycle"])
@pytest.mark.parametrize("cuts", [[1], [2], [3], [1, 2, 3]])
def test_ranges_cut_anywhere_in_any_four_segments_join_to_the_whole(tcp_close, cuts):
    definition = FlowDefinition.of(tcp_close=tcp_close)
    every = itertools.product(SEGMENTS, repeat=4)
    rows = [
        packet(time_ns=START + i, src_port=1 + connection, **SEGMENTS[kind])
        for i, kinds in enumerate(zip(*every, strict=True))
        for connection, kind in enumerate(kinds)
    ]
    packets = batch_of(in_capture(rows))
    connections = len(rows) // 4
    for blind in (False, True):
        flows, fragments = in_ranges(packets, [cut * connections for cut in cuts], definition, blind=blind)
        assert fragments >= 2 * connections
        assert flows.equals(whole(packets, definition))


@pytest.mark.parametrize("name", ["skype.pcap", "dnscrypt-v1-and-resolver-pings.pcap", "http_ipv6.pcap", "quic.pcap"])
@pytest.mark.parametrize("cuts", [[100], list(range(0, 3000, 37)), list(range(200))])
def test_real_captures_join_to_the_flows_of_the_whole(real_data, name, cuts):
    uri = str(real_data / "nfstream-tests/pcaps" / name)
    definition = FlowDefinition.of(k=20)
    packets = concatenated(list(GroupReader([], GROUP, definition).packets(CaptureRange(uri))), PACKETS)
    expected = whole(packets, definition)
    for blind in (False, True):
        flows, _ = in_ranges(packets, cuts, definition, blind=blind)
        assert flows.equals(expected)


def test_only_flows_near_a_cut_are_fragments():
    rows = []
    for second in range(1000):
        rows += [
            packet(time_ns=START + second * SECOND + i, src_port=1 + second, tcp_flags=2 if i == 0 else 16)
            for i in range(5)
        ]
    packets = batch_of(in_capture(rows))
    flows, fragments = in_ranges(packets, [2500], FlowDefinition.of(), blind=False)
    assert flows.num_rows == 1000
    assert fragments <= 2 * 121, "those within the idle timeout of the cut, on either side"


def test_definitions_that_are_not_associative_have_no_fragments():
    with pytest.raises(ValueError, match="reorder_s must be null to meter a range of a capture group, got 5"):
        FlowMeter(FlowDefinition.of(reorder_s=5), GROUP, RangePlace(1, False, START))
    with pytest.raises(ValueError, match="active_s must be null to meter a range of a capture group, got 1800"):
        FlowMeter(FlowDefinition.of("nfstream"), GROUP, RangePlace(1, False, START))
