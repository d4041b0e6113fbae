"""The meter: flow ids, end reasons, bounds of memory; `test_reference_meter.py` compares its flows with an oracle."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from packet_rows import GROUP, SECOND, START, answered, batch_of, in_capture, packet

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition
from flowloom.transforms.arrays.kernels import nth
from flowloom.transforms.flows.meter import FlowMeter


def meter(packets: list[dict[str, Any]], definition: FlowDefinition, cuts: list[int] = ()) -> list[dict[str, Any]]:
    """Returns the meter's flows of packets that are fed in chunks which end at `cuts`."""
    flow_meter = FlowMeter(definition, GROUP)
    packets = in_capture(packets)
    batches = []
    edges = [0, *sorted(cut % (len(packets) + 1) for cut in cuts), len(packets)]
    for begin, end in itertools.pairwise(edges):
        flow_meter.update(batch_of(packets[begin:end]))
        if begin % 2:
            batches.append(flow_meter.take())
    flow_meter.finish()
    while flow_meter.finished:
        batches.append(flow_meter.take())
    table = pa.Table.from_batches(batches, FLOWS)
    table = table.set_column(2, "start", table["start"].cast(pa.int64()))
    return table.to_pylist()


def test_flow_ids_are_unique_and_do_not_depend_on_chunks():
    rng = np.random.default_rng(1)
    packets = [
        packet(time_ns=START + i * SECOND // 10, src_port=int(port), tcp_flags=2, tcp_seq=i)
        for i, port in enumerate(rng.integers(1, 65_535, 3000))
    ]
    whole = meter(packets, FlowDefinition.of())
    cut = meter(packets, FlowDefinition.of(), [500, 999, 2000])
    ids = {row["flow_id"] for row in whole}
    assert len(ids) == len(whole) == 3000
    assert ids == {row["flow_id"] for row in cut}


def test_flow_ids_differ_between_groups():
    def ids(group: str) -> list[bytes]:
        flow_meter = FlowMeter(FlowDefinition.of(), group)
        flow_meter.update(batch_of([packet()]))
        flow_meter.finish()
        return flow_meter.take()["flow_id"].to_pylist()

    assert ids("0" * 16) != ids("1" * 16)


@pytest.mark.parametrize(
    ("flags", "reasons"),
    [
        ([0x02, 0x12, 0x10], [EndReason.FORCED_END]),
        ([0x02, 0x12, 0x11], [EndReason.FORCED_END]),
        ([0x02, 0x12, 0x14], [EndReason.END_DETECTED]),
        ([0x02, 0x02], [EndReason.FORCED_END]),
    ],
)
def test_tcp_end_reasons(flags, reasons):
    packets = [packet(tcp_flags=f, time_ns=START + i) for i, f in enumerate(flags)]
    packets[1] = answered(packets[1]) if flags[1] == 0x12 else packets[1]
    assert [row["end_reason"] for row in meter(packets, FlowDefinition.of())] == reasons


def test_both_fins_end_a_flow_and_stray_packets_still_belong_to_it():
    fin = packet(tcp_flags=0x11)
    packets = [packet(tcp_flags=2), fin, answered(fin), packet(), packet(tcp_flags=2, tcp_seq=77)]
    rows = meter([p | {"time_ns": START + i} for i, p in enumerate(packets)], FlowDefinition.of())
    assert [(r["packets_fwd"], r["packets_bwd"], r["end_reason"]) for r in rows] == [(3, 1, 3), (1, 0, 4)]


def test_under_tcp_close_fin_only_what_tears_a_connection_down_follows_a_fin():
    fin, data = packet(tcp_flags=0x11, payload_bytes=0), packet(tcp_flags=0x18, payload_bytes=9)
    ack, rst, syn = (packet(tcp_flags=flags, payload_bytes=0) for flags in (0x10, 0x04, 0x02))
    rows = meter(
        [
            p | {"time_ns": START + i}
            for i, p in enumerate([syn, data, fin, answered(ack), answered(fin), ack, data, rst, syn])
        ],
        FlowDefinition.of("multitask-cnn"),
    )
    assert [(r["packets_fwd"], r["packets_bwd"], r["end_reason"]) for r in rows] == [
        (6, 2, EndReason.END_DETECTED),
        (1, 0, EndReason.FORCED_END),
    ]


def test_multitask_cnn_ends_udp_flows_after_15_seconds_and_tcp_flows_after_120():
    packets = [
        packet(time_ns=START + gap * SECOND, protocol=kind, tcp_flags=0) for gap in (0, 15, 31) for kind in (6, 17)
    ]
    rows = meter(packets, FlowDefinition.of("multitask-cnn"))
    assert [(r["protocol"], r["packets_fwd"]) for r in rows] == [(17, 2), (6, 3), (17, 1)]


def test_a_flow_exactly_at_the_idle_timeout_goes_on():
    idle = 120 * SECOND
    packets = [packet(time_ns=START), packet(time_ns=START + idle), packet(time_ns=START + 2 * idle + 1)]
    rows = meter(packets, FlowDefinition.of())
    assert [(r["packets_fwd"], r["end_reason"]) for r in rows] == [
        (2, EndReason.IDLE_TIMEOUT),
        (1, EndReason.FORCED_END),
    ]


def test_an_elephant_keeps_state_of_k_packets_only():
    flow_meter = FlowMeter(FlowDefinition.of(k=60), GROUP)
    chunk = batch_of(in_capture(packet(time_ns=START + i) for i in range(20_000)))
    held = set()
    for _ in range(20):
        flow_meter.update(chunk)
        held.add(len(flow_meter._pool.entries))
    assert max(held) < 2 * 8 * 20_000, "room for one more chunk, whatever came before"
    assert len(held) <= 2
    flow_meter.finish()
    row = flow_meter.take().to_pylist()[0]
    assert row["packets_fwd"] == 20 * 20_000
    assert len(row["pkt_size"]) == 60


def test_memory_is_bounded_by_open_flows_not_by_flows_seen():
    flow_meter = FlowMeter(FlowDefinition.of(), GROUP)
    for round_ in range(30):
        time_ns = START + round_ * 200 * SECOND
        rows = [packet(time_ns=time_ns, src_port=port) for port in range(1, 3001)]
        flow_meter.update(batch_of(in_capture(rows)))
        while flow_meter.finished:
            flow_meter.take()
    assert len(flow_meter._table.flows) <= 5 * 3000


@pytest.mark.parametrize("low", [0, 1_700_000_000_000_000_000])
@pytest.mark.parametrize("high", [3, 1 << 61])
def test_the_nth_value_is_that_of_the_sorted_ones(low, high):
    draws = np.random.default_rng(high)
    for _ in range(30):
        values = low + draws.integers(0, high, draws.integers(1, 300))
        rank = int(draws.integers(len(values)))
        expected = np.sort(values)[rank]
        assert nth(values, rank) == (expected, rank - np.count_nonzero(values < expected))
