"""Packet windows against the reference meter: any packets, keys and batches."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_rows import (
    GROUP,
    SECOND,
    START,
    A,
    B,
    answered,
    batch_of,
    in_capture,
    packet,
    packet_rows,
    reference_packet,
)  # fmt: skip
from reference_meter import packet_rows as reference_rows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.flows.meter import TAKE_FLOWS, RangePlace
from flowloom.transforms.flows.open_meter import open_meter
from flowloom.transforms.flows.packet_windows import PacketWindows


def windows(packets: list[dict[str, Any]], definition: FlowDefinition, cuts: list[int] = ()) -> pa.Table:
    """Returns the rows of packets that are fed in batches which end at `cuts`."""
    meter = open_meter(definition, GROUP)
    edges = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    packets = in_capture(packets)
    serials = [meter.update(batch_of(packets[a:b])) for a, b in itertools.pairwise(edges)]
    meter.finish()
    assert meter.clock_ns == max((row["time_ns"] for row in packets), default=None)
    taken, numbers = [], []
    while meter.finished:
        rows, of = meter.take_numbered()
        taken.append(rows)
        numbers.append(of)
    assert meter.take_fragments() == []
    np.testing.assert_array_equal(np.concatenate([*serials, []]), np.arange(len(packets)))
    np.testing.assert_array_equal(np.concatenate([*numbers, []]), np.arange(len(packets)))
    table = pa.Table.from_batches(taken, FLOWS)
    return table.set_column(2, "start", table["start"].cast(pa.int64()))


def expected(packets: list[dict[str, Any]], definition: FlowDefinition) -> list[dict[str, Any]]:
    """Returns the reference meter's rows of the same packets."""
    return list(reference_rows(map(reference_packet, in_capture(packets)), definition, GROUP))


definitions = st.builds(
    lambda key, k, options: FlowDefinition.of("packet-windows", key=key, k=k, **options),
    st.sampled_from(["five_tuple", "host_pair", "source"]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from(
        [
            {},
            {"size": "ip", "vlan_in_key": True},
            {"size": "payload", "idle_s": 60, "idle_udp_s": 3, "tunnels": "all", "tunnel_in_key": True},
        ]
    ),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(packet_rows, max_size=40), definitions, st.lists(st.integers(0, 40), max_size=4))
def test_equals_the_reference_however_it_is_cut(gaps_and_rows, definition, cuts):
    times = itertools.accumulate((gap for gap, _ in gaps_and_rows), initial=START)
    packets = [row | {"time_ns": time} for time, (_, row) in zip(times, gaps_and_rows, strict=False)]
    found = windows(packets, definition, cuts)
    assert len(set(found["flow_id"].to_pylist())) == len(packets)
    assert found.to_pylist() == expected(packets, definition)


def test_a_window_by_hand():
    one, two = packet(wire_bytes=60), answered(packet(wire_bytes=70, time_ns=START + 5, src_port=2, protocol=17))
    found = windows([one, two], FlowDefinition.of("packet-windows")).to_pylist()[1]
    assert (found["pkt_size"], found["pkt_dir"], found["pkt_gap_ns"]) == ([60, 70], [1, -1], [0, 5])
    assert (found["src_ip"], found["dst_ip"], found["src_port"], found["protocol"]) == (A, B, 2, 17)
    assert (found["packets_fwd"], found["packets_bwd"], found["bytes_bwd"]) == (0, 1, 70)


def test_idle_keys_are_forgotten_and_others_kept():
    """Two waves have more keys than there is room for at first; the second reuses the places of the first."""
    definition = FlowDefinition.of("packet-windows", key="source", k=2)
    hosts = [bytes(10) + b"\xff\xff" + bytes([10, 0, i // 256, i % 256]) for i in range(1_500)]
    wave = [packet(src_ip=host) for host in hosts]
    packets = [
        *wave,
        *(row | {"time_ns": START + 1} for row in wave[:700]),
        *(row | {"time_ns": START + 200 * SECOND} for row in wave),
    ]
    assert windows(packets, definition).to_pylist() == expected(packets, definition)
    meter = PacketWindows(definition, GROUP)
    for at in range(20):
        later = [row | {"time_ns": START + at * 200 * SECOND, "src_port": at} for row in wave[:1_000]]
        meter.update(batch_of(in_capture(later)))
        while meter.finished:
            meter.take()
    assert len(meter._table.records) == 1_024


def test_many_packets_are_taken_in_bounded_batches():
    meter = PacketWindows(FlowDefinition.of("packet-windows", k=1), GROUP)
    meter.update(batch_of(in_capture([packet()] * (TAKE_FLOWS + 5))))
    assert meter.finished == TAKE_FLOWS + 5
    assert (meter.take().num_rows, meter.take().num_rows, meter.take().num_rows) == (TAKE_FLOWS, 5, 0)


def test_flows_have_another_meter():
    with pytest.raises(ValueError, match="decision must be packet for packet windows, got flow"):
        PacketWindows(FlowDefinition(), GROUP)
    with pytest.raises(ValueError, match="need a whole capture group, got RangePlace"):
        open_meter(FlowDefinition.of("packet-windows"), GROUP, RangePlace(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preset": "default", "key": "host_pair"},
            "key must be five_tuple with decision: flow, got host_pair",
        ),
        (
            {"preset": "default", "decision": "packet"},
            "must have tcp_close: none with decision: packet, got tcp_close: lifecycle",
        ),
        (
            {"preset": "packet-windows", "active_s": 1800, "zero_payload": "skip"},
            "must have active_s: null, zero_payload: keep with decision: packet, "
            "got active_s: 1800, zero_payload: skip",
        ),
    ],
)
def test_what_does_not_go_with_windows_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlowDefinition.of(**options)
