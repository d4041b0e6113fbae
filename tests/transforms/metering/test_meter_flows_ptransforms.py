"""Flows of captures in a pipeline of one's own: those of the function, for any ranges, with closed accounts."""

import logging

import apache_beam as beam
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.groups import read_captures
from flowloom.transforms.metering.meter_flows import meter_flows
from flowloom.transforms.metering.meter_flows_ptransforms import COUNTERS, MeterFlows

NS = 1_700_000_000_000_000_000


@pytest.fixture
def plans(tmp_path):
    """A capture of 60 flows that ends in damage, one of a single packet, one that is no capture."""
    frames = [
        (NS + at * 1_000_000, ethernet(ipv4(udp(bytes(200), 1_000 + at % 60, 4_000), protocol=17))) for at in range(600)
    ]
    (tmp_path / "long.pcap").write_bytes(pcap(frames)[:-100])
    (tmp_path / "short.pcap").write_bytes(pcap([frames[0], (NS, ethernet(b"ARP", 0x806))]))
    (tmp_path / "text.pcap").write_bytes(b"not a capture" * 9)
    return read_captures([str(tmp_path), str(tmp_path / "none.pcap")])


def rows(batches, schema) -> list[dict]:
    return sorted(pa.Table.from_batches(batches, schema).to_pylist(), key=str)


@pytest.mark.parametrize("split_bytes", [None, 1_024, 50_000])
@pytest.mark.parametrize("bound", [1_000_000, 32])
def test_flows_and_accounts_are_those_of_the_function(plans, split_bytes, bound):
    """Also where flows end for lack of resources, which ranges cannot know."""
    definition = FlowDefinition(max_open_flows=bound)
    expected = meter_flows(plans, definition)
    metered = plans | MeterFlows(definition, split_bytes).with_accounts()
    assert rows(metered.flows, FLOWS) == rows(expected.flows, FLOWS)
    assert rows(metered.captures, CAPTURES) == rows([expected.captures], CAPTURES)
    assert rows(metered.rejects, REJECTS) == rows([expected.rejects], REJECTS)
    ended = [row["end_reason"] for row in rows(metered.flows, FLOWS)]
    assert (5 in ended) == (bound == 32)


def test_flows_of_captures_count_every_packet_and_reject(plans, caplog):
    flows = meter_flows(plans, FlowDefinition())
    assert flows.captures["metered"].to_pylist() == [599, 1] or flows.captures["metered"].to_pylist() == [1, 599]
    assert sum(batch.num_rows for batch in flows.flows) == 61
    assert sorted(flows.rejects["reason"].to_pylist()) == ["cut-off", "not-a-capture", "unreadable"]
    caplog.set_level(logging.WARNING)
    pipeline = beam.Pipeline("FnApiRunner")
    pipeline | beam.Create(plans) | MeterFlows()
    result = pipeline.run()
    result.wait_until_finish()
    counts = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(COUNTERS))["counters"]
    assert {each.key.metric.name: each.committed for each in counts} == {
        "captures": 2, "records": 601, "metered": 600, "dropped-not-ip": 1, "flows": 61,
        "rejects-cut-off": 1, "rejects-not-a-capture": 1, "rejects-unreadable": 1,
    }  # fmt: skip
    assert sum("cut-off at byte" in message for message in caplog.messages) == 1


def test_unknown_presets_and_small_ranges_are_errors():
    with pytest.raises(FlowloomError, match="preset must be one of"):
        MeterFlows("defualt")
    with pytest.raises(FlowloomError, match="split_bytes must be at least 1024, got 5"):
        MeterFlows("default", 5)
