"""A reference meter: the flow rules packet by packet in plain Python, slow and obviously right."""

import dataclasses
import itertools
from typing import Any

from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition

SIZE_COLUMN = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}


@dataclasses.dataclass
class _Open:
    first: dict[str, Any]
    forward_source: tuple[bytes, int]
    packets: list[tuple[dict[str, Any], bool]]
    start_clock: int
    clock: int
    fins: set[bool] = dataclasses.field(default_factory=set)
    closed: bool = False


def reference_flows(packets: list[dict[str, Any]], definition: FlowDefinition) -> list[dict[str, Any]]:
    """Return the flows of packets (`PACKETS` rows as dicts, in captured order), sorted by key and start."""
    open_flows: dict[Any, _Open] = {}
    done: list[dict[str, Any]] = []
    clock = None
    for packet in packets:
        clock = packet["time_ns"] if clock is None else max(clock, packet["time_ns"])
        source = (packet["src_ip"], packet["src_port"])
        target = (packet["dst_ip"], packet["dst_port"])
        vlan = packet["vlan"] if definition.vlan_in_key else 0
        tunnel = packet["tunnel_id"] if definition.tunnel_in_key else 0
        key = (frozenset([source, target]), packet["protocol"], vlan, tunnel)
        flow = open_flows.get(key)
        is_syn = packet["protocol"] == 6 and packet["tcp_flags"] & 0x12 == 0x02
        if flow is not None and (reason := _cut(flow, packet, source, is_syn, clock, definition)):
            done.append(_row(flow, EndReason.END_DETECTED if flow.closed else reason, definition))
            flow = None
        if flow is None:
            answer = definition.orient == "syn" and packet["protocol"] == 6 and packet["tcp_flags"] & 0x12 == 0x12
            flow = _Open(packet, target if answer else source, [], clock, clock)
            open_flows[key] = flow
        forward = source == flow.forward_source
        flow.packets.append((packet, forward))
        flow.clock = clock
        if definition.tcp_close == "lifecycle" and packet["protocol"] == 6:
            if packet["tcp_flags"] & 1:
                flow.fins.add(source <= target)
            if packet["tcp_flags"] & 4 or len(flow.fins) == 2:
                flow.closed = True
        if definition.tcp_close == "fin" and packet["protocol"] == 6 and packet["tcp_flags"] & 1:
            flow.closed = True
    for flow in open_flows.values():
        assert clock is not None
        reason = EndReason.IDLE_TIMEOUT if clock - flow.clock > _idle_ns(flow, definition) else EndReason.FORCED_END
        done.append(_row(flow, EndReason.END_DETECTED if flow.closed else reason, definition))
    return sorted((row for row in done if len(row["times"]) >= definition.min_packets), key=_order)


def _order(row: dict[str, Any]) -> Any:
    return row["src_ip"], row["dst_ip"], row["src_port"], row["dst_port"], row["protocol"], row["start"], row["isn"]


def _idle_ns(flow: _Open, definition: FlowDefinition) -> int:
    if flow.first["protocol"] == 17 and definition.idle_udp_s is not None:
        return round(definition.idle_udp_s * 1e9)
    return round(definition.idle_s * 1e9)


def _cut(flow, packet, source, is_syn, clock, definition) -> EndReason | None:
    if clock - flow.clock > _idle_ns(flow, definition):
        return EndReason.IDLE_TIMEOUT
    if definition.active_s is not None and clock - flow.start_clock > round(definition.active_s * 1e9):
        return EndReason.ACTIVE_TIMEOUT
    if definition.tcp_close == "fin" and flow.closed and packet["protocol"] == 6:
        teardown = packet["tcp_flags"] & 1 or packet["payload_bytes"] == 0
        if packet["tcp_flags"] & 2 or not teardown:
            return EndReason.END_DETECTED
    if definition.tcp_close == "lifecycle" and is_syn:
        first = flow.first
        own = (first["src_ip"], first["src_port"]) == source and first["tcp_flags"] & 0x12 == 0x02
        if not (own and first["tcp_seq"] == packet["tcp_seq"]):
            return EndReason.END_DETECTED
    return None


def _row(flow: _Open, reason: EndReason, definition: FlowDefinition) -> dict[str, Any]:
    size = SIZE_COLUMN[definition.size]
    first = flow.first
    source, target = (first["src_ip"], first["src_port"]), (first["dst_ip"], first["dst_port"])
    if source != flow.forward_source:
        source, target = target, source
    times = [p["time_ns"] for p, _ in flow.packets]
    identities = [(p["time_ns"], p["ip_id"], p["ip_bytes"]) for p, _ in flow.packets]
    neighbours = list(itertools.pairwise(identities))
    kept = [(p, f) for p, f in flow.packets if definition.zero_payload == "keep" or p["payload_bytes"] > 0]
    kept = kept[: definition.k]
    kept_times = [p["time_ns"] for p, _ in kept]
    syn = definition.tcp_close == "lifecycle" and first["protocol"] == 6 and first["tcp_flags"] & 0x12 == 0x02
    return {
        "src_ip": source[0],
        "dst_ip": target[0],
        "src_port": source[1],
        "dst_port": target[1],
        "protocol": first["protocol"],
        "tunnel_id": first["tunnel_id"],
        "start": times[0],
        "isn": first["tcp_seq"] if syn else 0,
        "duration_ns": max(times) - times[0],
        "packets_fwd": sum(f for _, f in flow.packets),
        "packets_bwd": sum(not f for _, f in flow.packets),
        "bytes_fwd": sum(p[size] for p, f in flow.packets if f),
        "bytes_bwd": sum(p[size] for p, f in flow.packets if not f),
        "end_reason": int(reason),
        "out_of_order": sum(after[0] < before[0] for before, after in neighbours),
        "duplicates": sum(after == before for before, after in neighbours),
        "times": times,
        "pkt_size": [min(p[size], 65_535) for p, _ in kept],
        "pkt_dir": [1 if f else -1 for _, f in kept],
        "pkt_gap_ns": [0] * bool(kept) + [max(0, b - a) for a, b in itertools.pairwise(kept_times)],
        "pkt_tcp_flags": [p["tcp_flags"] for p, _ in kept],
        "pkt_tcp_window": [p["tcp_window"] for p, _ in kept],
        "pkt_ttl": [p["ttl"] for p, _ in kept],
        "pkt_payload": [min(p["payload_bytes"], 65_535) for p, _ in kept],
    }
