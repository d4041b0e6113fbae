"""Comparison of definitions: every flow of either side counts once, and each option has its own cause."""

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_rows import GROUP, SECOND, START, answered, batch_of, in_capture, packet, packet_rows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import PRESETS, FlowDefinition
from flowloom.transforms.flows.compare_definitions import EQUAL, Cause, compare_flows
from flowloom.transforms.flows.meter import FlowMeter

DEFAULT = FlowDefinition.of()


def flows(packets: list[dict[str, Any]], definition: FlowDefinition) -> pa.Table:
    meter = FlowMeter(definition, GROUP)
    meter.update(batch_of(in_capture(packets)))
    meter.finish()
    batches = []
    while meter.finished:
        batches.append(meter.take())
    return pa.Table.from_batches(batches, FLOWS)


def compared(packets: list[dict[str, Any]], a: FlowDefinition, b: FlowDefinition) -> pl.DataFrame:
    tables = (flows(packets, definition.model_copy(update={"min_packets": 1})) for definition in (a, b))
    return compare_flows(*tables, a, b)


def counts(pairs: pl.DataFrame) -> dict[tuple[str, bool, bool], int]:
    return {key: rows.height for key, rows in pairs.group_by("cause", "in_a", "in_b")}


definitions = st.sampled_from(
    [
        *(FlowDefinition.of(preset) for preset in PRESETS),
        FlowDefinition.of(min_packets=2, vlan_in_key=True, idle_s=60),
        FlowDefinition.of(tunnels="all", tunnel_in_key=True, orient="syn", k=2),
        FlowDefinition.of(active_s=150, size="payload", idle_udp_s=3),
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(packet_rows, max_size=60), definitions, definitions)
def test_every_flow_is_counted_once_from_either_side(gaps_and_rows, a, b):
    now, packets = START, []
    for gap, row in gaps_and_rows:
        now += gap
        packets.append(row | {"time_ns": now})
    pairs = compared(packets, a, b)
    for side, definition in (("a", a), ("b", b)):
        assert pairs[f"in_{side}"].sum() == flows(packets, definition).num_rows
    assert set(pairs["cause"]) <= {EQUAL, *(cause.value for cause in Cause)}
    assert (pairs.filter(pl.col("cause") == EQUAL).select("in_a", "in_b").to_numpy()).all()
    swapped = {(cause, in_a, in_b): n for (cause, in_b, in_a), n in counts(compared(packets, b, a)).items()}
    assert counts(pairs) == swapped
    assert set(compared(packets, a, a)["cause"]) <= {EQUAL}


def at(seconds: float, **fields: Any) -> dict[str, Any]:
    return packet(time_ns=START + round(seconds * SECOND), **fields)


SYN = {"tcp_flags": 2, "payload_bytes": 0}
SCENES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[tuple[str, bool, bool], int]]] = {
    "idle": (
        [at(0), at(70), at(71)],
        {"idle_s": 65},
        {("idle timeout", True, True): 1, ("idle timeout", False, True): 1},
    ),
    "idle of UDP": (
        [at(0, protocol=17), at(20, protocol=17), at(0, src_port=9), at(20, src_port=9)],
        {"idle_udp_s": 15},
        {("idle timeout", True, True): 1, ("idle timeout", False, True): 1, ("equal", True, True): 1},
    ),
    "active": (
        [at(0), at(100), at(200), at(300), at(400)],
        {"active_s": 250},
        {("active timeout", True, True): 1, ("active timeout", False, True): 1},
    ),
    "TCP close": (
        [at(0, **SYN), at(1), at(2, **SYN, tcp_seq=9), at(3)],
        {"tcp_close": "none"},
        {("tcp close", True, True): 1, ("tcp close", True, False): 1},
    ),
    "first FIN": (
        [at(0, **SYN), at(1, tcp_flags=0x11, payload_bytes=0), answered(at(2))],
        {"tcp_close": "fin"},
        {("tcp close", True, True): 1, ("tcp close", False, True): 1},
    ),
    "min packets": (
        [at(0), at(1), at(2, src_port=9)],
        {"min_packets": 2},
        {("equal", True, True): 1, ("min packets", True, False): 1},
    ),
    "VLAN in key": (
        [at(0), at(1, vlan=5), at(2), at(3, src_port=9)],
        {"vlan_in_key": True},
        {("vlan or tunnel in key", True, True): 1, ("vlan or tunnel in key", False, True): 1, ("equal", True, True): 1},
    ),
    "tunnel in key": (
        [at(0), at(1, tunnel_id=5)],
        {"tunnels": "all", "tunnel_in_key": True},
        {("vlan or tunnel in key", True, True): 1, ("vlan or tunnel in key", False, True): 1},
    ),
    "k": ([at(0), at(1), at(2, src_port=9)], {"k": 1}, {("k", True, True): 1, ("equal", True, True): 1}),
    "size": ([at(0)], {"size": "wire"}, {("size", True, True): 1}),
    "zero payload": (
        [at(0, payload_bytes=0), at(1), at(0, src_port=9)],
        {"zero_payload": "skip"},
        {("zero payload", True, True): 1, ("equal", True, True): 1},
    ),
    "timeouts that are reached": (
        [at(0), at(120), at(0, src_port=9)],
        {"timeouts": "reached"},
        {("idle timeout", True, True): 1, ("idle timeout", False, True): 1, ("equal", True, True): 1},
    ),
    "orientation by port": (
        [at(0, src_port=80, dst_port=2000, tcp_flags=0x10), at(0, src_port=9000, tcp_flags=0x10)],
        {"orient": "client"},
        {("orientation", True, True): 1, ("equal", True, True): 1},
    ),
    "orientation": (
        [at(0, tcp_flags=0x12), at(0, src_port=9)],
        {"orient": "syn"},
        {("orientation", True, True): 1, ("equal", True, True): 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
def test_each_option_shows_as_its_own_cause(name):
    packets, options, expected = SCENES[name]
    packets = sorted(packets, key=lambda row: row["time_ns"])
    assert counts(compared(packets, DEFAULT, FlowDefinition.of(**options))) == expected


def test_fragments_and_tunnels_show_where_packets_differ():
    joined, dropped = [at(0), at(1)], [at(0)]
    pairs = compare_flows(flows(joined, DEFAULT), flows(dropped, DEFAULT), DEFAULT, FlowDefinition.of(fragments="drop"))
    assert counts(pairs) == {("fragments", True, True): 1}
    outer, inner = [at(0, protocol=47, src_port=0, dst_port=0), at(500, protocol=47, src_port=0, dst_port=0)], [at(0)]
    pairs = compare_flows(flows(outer, DEFAULT), flows(inner, DEFAULT), DEFAULT, FlowDefinition.of(tunnels=["gre"]))
    assert counts(pairs) == {("tunnels", True, False): 2, ("tunnels", False, True): 1}


def test_a_flow_closed_before_it_went_idle_was_cut_by_the_idle_timeout():
    fin = {"tcp_flags": 0x11, "payload_bytes": 0}
    packets = [at(0, **SYN), at(1, **fin), answered(at(2, **fin)), at(200)]
    assert counts(compared(packets, DEFAULT, FlowDefinition.of(idle_s=1000))) == {
        ("idle timeout", True, True): 1,
        ("idle timeout", True, False): 1,
    }


def test_rows_tell_what_each_side_has():
    (row,) = compared([at(0), answered(at(1)), at(2)], DEFAULT, FlowDefinition.of(k=1)).to_dicts()
    assert row["start_ns"] == START
    assert (row["packets_a"], row["packets_b"], row["duration_ns_a"]) == (3, 3, 2 * SECOND)
    assert (row["low_port"], row["high_port"], row["end_reason_b"], row["forward_is_low_a"]) == (1000, 80, 4, True)
