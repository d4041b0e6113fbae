"""Packet reader: one pass gives flows and packet rows; rows of any range get their flow in the whole group."""

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ACK, FIN, SYN, ethernet, ipv4, pcap, tcp, udp

from flowloom.schemas.arrow.accounting import PacketDrop
from flowloom.schemas.arrow.rows import FLOW_NUMBERS, FLOWS, FRAGMENTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.flow_fragments import join_fragments
from flowloom.transforms.flows.meter import RangePlace
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.packet_flow_ids import RangeFlows, attach_flows
from flowloom.transforms.metering.packet_reader import PacketReader
from flowloom.transforms.packets.byte_rows import no_drops

GROUP = "00c0ffee00c0ffee"
NS = 1_700_000_000_000_000_000
SECOND = 10**9


def read(paths, definition):
    """Returns flows and packet rows of captures with one range each, and the counts of metered and dropped packets."""
    flows, fragments, numbers, clocks, rows = [], [], [], [], []
    metered, dropped, known_before = 0, no_drops(), [None]
    for at, path in enumerate(paths):
        place = RangePlace(at, at == len(paths) - 1, known_before[-1])
        reading = PacketReader([CaptureRange(str(path), origin=at)], GROUP, definition, PacketView(), place=place)
        views = list(reading.views())
        flows += [batch for view, batch in views if view == "flows"]
        rows.append([batch for view, batch in views if view == "packets"])
        numbers.append(reading.numbers())
        fragments += reading.fragments()
        known_before.append(reading.clock_ns)
        clocks.append(np.iinfo(np.int64).min if reading.clock_ns is None else reading.clock_ns)
        metered += sum(row["metered"] for row in reading.captures().to_pylist())
        dropped = dropped + reading.dropped
    joined, _, more, _ = join_fragments(concatenated(fragments, FRAGMENTS), clocks, definition, GROUP)
    known = concatenated([more, *numbers], FLOW_NUMBERS)
    attached = [
        row
        for at, batches in enumerate(rows)
        for batch in batches
        for row in attach_flows(batch, RangeFlows.of(known, at), GROUP, dropped).to_pylist()
    ]
    table = pa.Table.from_batches([*flows, joined], FLOWS).sort_by([("start", "ascending"), ("flow_id", "ascending")])
    return table, attached, metered, dropped


def frames():
    """Two connections of one key, a datagram flow with a long silence, and names."""
    dialogue = [(SYN, b""), (ACK, b"GET"), (ACK, b""), (ACK, b"POST"), (FIN | ACK, b"")]
    segments = [
        (begin + at, tcp(body, 1000, 80, flags, seq=begin + (at > 0)))
        for begin in (0, 40)
        for at, (flags, body) in enumerate(dialogue)
    ]
    made = [(at, ipv4(segment)) for at, segment in segments]
    made += [(at, ipv4(udp(bytes([at % 256]) * 9, 700, 800), protocol=17)) for at in (1, 30, 41, 300, 301)]
    made += [(at, ipv4(udp(b"name", 900, 53), protocol=17)) for at in (2, 43)]
    return [(NS + at * SECOND, ethernet(packet)) for at, packet in sorted(made)]


@pytest.mark.parametrize("min_packets", [1, 4])
@pytest.mark.parametrize("cut", range(0, 18, 3))
def test_cut_captures_give_the_same_packets_and_flows(tmp_path, cut, min_packets):
    definition, captured = FlowDefinition.of("default", min_packets=min_packets), frames()
    for name, part in (("whole", captured), ("first", captured[:cut]), ("second", captured[cut:])):
        (tmp_path / name).write_bytes(pcap(part))
    flows, rows, metered, dropped = read([tmp_path / "whole"], definition)
    assert metered == len(captured) == len(rows) + dropped.sum()
    cut_flows, cut_rows, cut_metered, cut_dropped = read([tmp_path / "first", tmp_path / "second"], definition)
    # ids are of the capture in which a flow begins
    start_of, cut_start_of = (
        dict(zip(table["flow_id"].to_pylist(), table["start"].to_pylist(), strict=True)) for table in (flows, cut_flows)
    )
    assert len(set(start_of.values())) == len(start_of) == flows.num_rows
    assert cut_flows.drop_columns("flow_id").equals(flows.drop_columns("flow_id"))
    for row in rows:
        row["flow_id"] = start_of[row["flow_id"]]
    for row in cut_rows:
        row["flow_id"] = cut_start_of[row["flow_id"]]
    records = [row.pop("record") for row in rows]
    assert records == [row.pop("record") + (cut if at >= sum(r < cut for r in records) else 0)
                       for at, row in enumerate(cut_rows)]  # fmt: skip
    assert (cut_rows, cut_metered, cut_dropped.tolist()) == (rows, metered, dropped.tolist())
    assert len({row["flow_id"] for row in rows}) == (4 if min_packets == 1 else 2)
    short = 0 if min_packets == 1 else 5
    assert dropped[PacketDrop.SHORT_FLOW] == short


def test_flows_equal_those_of_a_group_reader_and_rows_belong_to_them(real_data):
    path = str(real_data / "kitsune-mirai/mirai2000.pcap")
    definition = FlowDefinition()
    flows, rows, metered, dropped = read([path], definition)
    plain = GroupReader([CaptureRange(path)], GROUP, definition)
    assert flows.equals(
        pa.Table.from_batches(plain.flows(), FLOWS).sort_by([("start", "ascending"), ("flow_id", "ascending")])
    )
    assert metered == len(rows) + dropped.sum()
    starts = dict(zip(flows["flow_id"].to_pylist(), flows["start"].cast(pa.int64()).to_pylist(), strict=True))
    times = {row["flow_id"]: row["time"].value for row in reversed(rows)}
    assert times.keys() <= starts.keys()
    assert all(time >= starts[flow] for flow, time in times.items())
