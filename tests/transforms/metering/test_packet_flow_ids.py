"""Packet flow ids: packets get the same flow, however their group is cut into ranges."""

import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_rows import GROUP, START, batch_of, in_capture, packet_rows, with_clock

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import FLOW_NUMBERS, FRAGMENTS, numbered_packet_schema
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.flows.flow_fragments import join_fragments
from flowloom.transforms.flows.meter import FlowMeter, RangePlace
from flowloom.transforms.metering.packet_flow_ids import RangeFlows, attach_flows, flow_numbers
from flowloom.transforms.packets.byte_rows import no_drops

DEFINITIONS = [
    FlowDefinition.of("default", k=3),
    FlowDefinition.of("multitask-cnn", min_packets=2),
    FlowDefinition.of("default", tcp_close="none", idle_udp_s=15, min_packets=3),
]


def assigned(packets: pa.RecordBatch, cuts: list[int], definition: FlowDefinition, *, blind: bool):
    """Returns the flow id of each packet by record, sizes of all flows by id, and the dropped packets."""
    edges = [0, *sorted(cut % (packets.num_rows + 1) for cut in cuts), packets.num_rows]
    clock, clocks, sizes = None, [], {}
    rows, numbers, fragments = [], [], []
    for position, (begin, end) in enumerate(itertools.pairwise(edges)):
        last = position == len(edges) - 2
        meter = FlowMeter(definition, GROUP, RangePlace(position, last, None if blind else clock))
        part = with_clock(packets.slice(begin, end - begin), None if blind else clock)
        serials = meter.update(part)
        content = pa.array([bytes([7]) * 80] * part.num_rows, pa.binary(80))
        columns = [part["record"], part["time_ns"], pa.array(serials), content]
        rows.append(pa.RecordBatch.from_arrays(columns, schema=numbered_packet_schema(80)))
        meter.finish()
        while meter.finished:
            flows, taken = meter.take_numbered()
            numbers.append(flow_numbers(position, taken, flows))
            sizes |= sizes_of(flows)
        fragments += meter.take_fragments()
        clock = max([t for t in (clock, meter.clock_ns) if t is not None], default=None)
        clocks.append(np.iinfo(np.int64).min if clock is None else clock)
    joined = join_fragments(concatenated(fragments, FRAGMENTS), clocks, definition, GROUP)
    sizes |= sizes_of(joined.flows)
    known = concatenated([joined.numbers, *numbers], FLOW_NUMBERS)
    dropped = no_drops()
    attached = [attach_flows(part, RangeFlows.of(known, at), GROUP, dropped) for at, part in enumerate(rows)]
    of_packet = {row["record"]: row["flow_id"] for batch in attached for row in batch.to_pylist()}
    assert packets.num_rows == len(of_packet) + dropped[PacketDrop.SHORT_FLOW]
    return of_packet, sizes


def sizes_of(flows: pa.RecordBatch) -> dict[bytes, int]:
    counts = zip(flows["packets_fwd"].to_pylist(), flows["packets_bwd"].to_pylist(), strict=True)
    return {flow: sum(count) for flow, count in zip(flows["flow_id"].to_pylist(), counts, strict=True)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(packet_rows, max_size=50), st.sampled_from(DEFINITIONS), st.lists(st.integers(0, 50), max_size=4),
    st.booleans(),
)  # fmt: skip
def test_packets_get_the_same_flow_however_the_group_is_cut(gaps_and_rows, definition, cuts, blind):
    now, rows = START, []
    for record, (gap, row) in enumerate(gaps_and_rows):
        now += gap
        rows.append(row | {"time_ns": now, "record": record})
    packets = batch_of(in_capture(rows))
    whole, sizes = assigned(packets, [], definition, blind=blind)
    assert assigned(packets, cuts, definition, blind=blind) == (whole, sizes)
    # each flow has as many packets as it counts, unless two flows with the same key, start and SYN share an id
    of_flow = {flow: sum(1 for own in whole.values() if own == flow) for flow in sizes}
    assert sum(of_flow.values()) == len(whole)
    assert all(of_flow[flow] >= size for flow, size in sizes.items())


def test_rows_carry_group_time_and_bytes():
    rows = pa.RecordBatch.from_pylist(
        [{"record": at, "time_ns": START + at, "serial": at, "bytes": bytes([at]) * 80} for at in range(3)],
        schema=numbered_packet_schema(80),
    )
    flows = RangeFlows(np.array([0, 2]), pa.array([b"a" * 16, b"c" * 16], pa.binary(16)))
    dropped = no_drops()
    attached = attach_flows(rows, flows, GROUP, dropped)
    assert attached["flow_id"].to_pylist() == [b"a" * 16, b"c" * 16]
    assert attached["group"].to_pylist() == [GROUP] * 2
    assert attached["time"].cast(pa.int64()).to_pylist() == [START, START + 2]
    assert attached["bytes"].to_pylist() == [bytes([0]) * 80, bytes([2]) * 80]
    assert dropped.tolist() == [0, 0, 0, 0, 0, 0, 1]
