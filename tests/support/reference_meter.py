"""Reference meter: capture files to flow rows as docs/flow-definitions.md says, packet by packet in plain Python.

It is slow, shares no code with `flowloom.transforms` and knows every option of a flow definition. A change of what a
flow is begins here; the property tests then hold the pipeline against it.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from reference_decoder import ICMP, ICMPV6, TCP, UDP, WITH_IDENTIFIER, Decoder, DropError, Packet
from reference_records import Damage, read_records

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import NO_ICMP
from flowloom.schemas.corpus.flow_definition import EndReason, FlowDefinition

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
SIZE_COLUMN = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}
LARGEST = 65_535

Endpoint = tuple[bytes, int]
"""Address and port."""


@dataclasses.dataclass
class Account:
    """Account of the records of one capture file, as in `schemas.arrow.accounting.CAPTURES`."""

    records: int = 0
    metered: int = 0
    metered_cut: int = 0
    dropped: dict[DropReason, int] = dataclasses.field(default_factory=dict)
    link_types: set[int] = dataclasses.field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None
    clock_jumps: int = 0
    steps_back: int = 0
    damage: Damage | None = None


@dataclasses.dataclass
class Metered:
    """Flows and accounts of a capture group.

    Attributes:
      flows: the columns of `schemas.arrow.rows.FLOWS`, `start` in nanoseconds, in any order.
      flows_short: the number of flows with fewer packets than `min_packets`.
      captures: one account a file.
    """

    flows: list[dict[str, Any]]
    flows_short: int
    captures: list[Account]


def reference_meter(
    files: Sequence[bytes], definition: FlowDefinition, group: str, origins: Sequence[int] | None = None
) -> Metered:
    """Meters the files of a capture group, in their order.

    Args:
      origins: the first 64 bits of each file's fingerprint, part of flow ids.
    """
    packets, captures, clock_ns = reference_packets(files, definition, origins)
    if definition.decision == "packet":
        return Metered(list(packet_rows(packets, definition, group)), 0, captures)
    flows = [flow_row(flow, definition, group) for flow in flows_of(packets, definition, clock_ns)]
    kept = [row for row in flows if row["packets_fwd"] + row["packets_bwd"] >= definition.min_packets]
    return Metered(kept, len(flows) - len(kept), captures)


def reference_packets(
    files: Sequence[bytes], definition: FlowDefinition, origins: Sequence[int] | None = None
) -> tuple[list[Packet], list[Account], int]:
    """Returns packets and ICMP errors of a group in order, the account of each file, and the latest time."""
    decoder = Decoder(
        definition.fragments, definition.tunnels, definition.vxlan_ports, definition.decoding, definition.icmp_errors
    )  # fmt: skip
    packets, captures, clock_ns = [], [], 0
    for data, origin in zip(files, origins or [0] * len(files), strict=True):
        records, damage = read_records(data)
        account = Account(len(records), damage=damage, link_types={record.link_type for record in records})
        first = len(packets)
        jumps = clock_jumps([record.time_ns for record in records], definition)
        for number, record in enumerate(records):
            try:
                packet = decoder.packet(record, counts=number not in jumps)
                packet.record, packet.origin = number, origin
                packets.append(packet)
                if packet.icmp_error:
                    raise DropError(DropReason.ICMP_ERROR)
                account.metered += 1
                account.metered_cut += packet.header_cut
            except DropError as drop:
                account.dropped[drop.reason] = account.dropped.get(drop.reason, 0) + 1
        if definition.reorder_s is not None:
            packets[first:] = in_order(packets[first:], round(definition.reorder_s * 1e9), clock_ns)
            clock_ns = max([clock_ns, *(packet.clock_ns for packet in packets)])
        times = [record.time_ns for record in records if record.time_ns is not None]
        account.first_ns, account.last_ns = min(times, default=None), max(times, default=None)
        account.clock_jumps = len(jumps)
        account.steps_back = sum(
            after < before - round(definition.idle_s * 1e9) for before, after in itertools.pairwise(times)
        )
        captures.append(account)
    return packets, captures, decoder.clock_ns


def in_order(packets: Sequence[Packet], window_ns: int, clock_ns: int) -> list[Packet]:
    """Returns the packets of a capture in the order of `reorder_s`, and gives them their clock in it.

    A packet waits until the clock is the window past its time. Those that wait no longer leave by time.
    """
    waiting: list[tuple[int, int, Packet]] = []
    left: list[tuple[int, int, Packet]] = []
    for number, packet in enumerate(packets):
        waiting.append((min(packet.time_ns, packet.clock_ns), number, packet))
        left += sorted(item for item in waiting if item[0] + window_ns <= packet.clock_ns)
        waiting = [item for item in waiting if item[0] + window_ns > packet.clock_ns]
    ordered = []
    for time_ns, _, packet in left + sorted(waiting):
        clock_ns = max(clock_ns, time_ns)
        ordered.append(dataclasses.replace(packet, clock_ns=clock_ns))
    return ordered


def clock_jumps(times: Sequence[int | None], definition: FlowDefinition) -> set[int]:
    """Returns the records of a file whose time the clock does not believe.

    Those are the records that have times among the next 16 records, all of them more than `idle_s` before their own.
    """
    idle, jumps = round(definition.idle_s * 1e9), set()
    for number, time in enumerate(times):
        following = [later for later in times[number + 1 : number + 17] if later is not None]
        if time is not None and following and max(following) < time - idle:
            jumps.add(number)
    return jumps


# keys, clocks and sizes ---------------------------------------------------------------------------------------------


def source(packet: Packet) -> Endpoint:
    """Returns the sender of a packet."""
    return packet.src_ip, packet.src_port


def target(packet: Packet) -> Endpoint:
    """Returns the receiver of a packet."""
    return packet.dst_ip, packet.dst_port


def key_vlan(packet: Packet, definition: FlowDefinition) -> int:
    """Returns the VLAN identifier as far as it is part of the key (`vlan_in_key`)."""
    return packet.vlan if definition.vlan_in_key else 0


def key_tunnel(packet: Packet, definition: FlowDefinition) -> int:
    """Returns the tunnel identifier as far as it is part of the key (`tunnel_in_key`)."""
    return packet.tunnel_id if definition.tunnel_in_key else 0


def key_of(packet: Packet, definition: FlowDefinition) -> Any:
    """Returns the key of a packet, by default the five-tuple in either direction (`key`)."""
    network = key_vlan(packet, definition), key_tunnel(packet, definition)
    if definition.key == "host_pair":
        return frozenset([packet.src_ip, packet.dst_ip]), network
    if definition.key == "source":
        return packet.src_ip, network
    message = icmp_of_request(packet) if definition.icmp_in_key else NO_ICMP
    return frozenset([source(packet), target(packet)]), packet.protocol, message, network


REQUEST_OF = {(ICMP, 0): 8, (ICMP, 14): 13, (ICMP, 16): 15, (ICMP, 18): 17, (ICMP, 43): 42, (ICMPV6, 129): 128,
              (ICMPV6, 161): 160}  # fmt: skip
"""Type of the request that each ICMP reply answers."""


def icmp_of_request(packet: Packet) -> int:
    """Returns type, code and identifier of an ICMP message; for a reply the type of its request.

    The code of messages with an identifier does not count: a reply has its own (RFC 8335, section 3).
    """
    if packet.icmp == NO_ICMP:
        return NO_ICMP
    kind = packet.icmp >> 24
    if kind not in WITH_IDENTIFIER[packet.protocol]:
        return packet.icmp
    return REQUEST_OF.get((packet.protocol, kind), kind) << 24 | packet.icmp & 0xFFFF


def idle_ns(protocol: int, definition: FlowDefinition) -> int:
    """Returns the longest gap that cuts no flow of a protocol (`idle_s`, `idle_udp_s`, `timeouts`)."""
    idle_s = definition.idle_s
    if protocol == UDP and definition.idle_udp_s is not None:
        idle_s = definition.idle_udp_s
    return round(idle_s * 1e9) - (definition.timeouts == "reached")


def size_of(packet: Packet, definition: FlowDefinition) -> int:
    """Returns the size of a packet (`size`)."""
    return getattr(packet, SIZE_COLUMN[definition.size])


# flows: docs/flow-definitions.md, "States" --------------------------------------------------------------------------


@dataclasses.dataclass
class Flow:
    """The packets of one flow so far.

    Attributes:
      forward: the endpoint that forward packets come from.
      start_clock, clock: the clock at its first and at its last packet.
      number: the flows that began before it.
      syns: the sequence number of the first SYN without ACK of each side.
      fins: the senders of a FIN.
      icmp_errors: the ICMP errors about its packets.
      closed: whether the connection was closed, by the table of `tcp_close`.
    """

    packets: list[Packet]
    forward: Endpoint
    start_clock: int
    clock: int
    number: int
    syns: dict[Endpoint, int] = dataclasses.field(default_factory=dict)
    fins: set[Endpoint] = dataclasses.field(default_factory=set)
    icmp_errors: int = 0
    closed: bool = False
    end_reason: EndReason = EndReason.FORCED_END


def flows_of(packets: Iterable[Packet], definition: FlowDefinition, clock_ns: int) -> Iterator[Flow]:
    """Yields the flows of packets in captured order.

    Args:
      clock_ns: the latest time of all records, those after the last packet included.
    """
    open_flows: dict[Any, Flow] = {}
    begun = itertools.count()
    for packet in packets:
        key, now = key_of(packet, definition), packet.clock_ns
        flow = open_flows.get(key)
        if packet.icmp_error:
            if flow and not is_idle(flow, now, definition):
                flow.icmp_errors += 1
            continue
        reason = flow and end_before(flow, packet, now, definition)
        if reason:
            yield ended(open_flows.pop(key), reason)
        if flow is None or reason:
            number = next(begun)
            yield from make_room(open_flows, number, now, definition)
            flow = open_flows[key] = Flow([], forward_endpoint(packet, definition), now, now, number)
        flow.packets.append(packet)
        flow.clock = now
        if is_syn(packet):
            flow.syns.setdefault(source(packet), packet.tcp_seq)
        close(flow, packet, definition)
    for flow in open_flows.values():
        yield ended(flow, EndReason.IDLE_TIMEOUT if is_idle(flow, clock_ns, definition) else EndReason.FORCED_END)


def is_idle(flow: Flow, now: int, definition: FlowDefinition) -> bool:
    """Returns whether a flow's idle timeout is over."""
    return now - flow.clock > idle_ns(flow.packets[0].protocol, definition)


def make_room(open_flows: dict[Any, Flow], number: int, now: int, definition: FlowDefinition) -> Iterator[Flow]:
    """Ends the longest idle flows before the flow `number` begins, if there may be too many (`max_open_flows`).

    That is looked at once for each eighth of `max_open_flows` flows that begin.
    """
    eighth = max(definition.max_open_flows // 8, 1)
    if number % eighth:
        return
    waiting = {key: flow for key, flow in open_flows.items() if not is_idle(flow, now, definition)}
    surplus = len(waiting) + eighth - definition.max_open_flows
    longest_idle = sorted(waiting, key=lambda key: (waiting[key].clock, waiting[key].number))
    for key in longest_idle[: max(surplus, 0)]:
        yield ended(open_flows.pop(key), EndReason.LACK_OF_RESOURCES)


def forward_endpoint(first: Packet, definition: FlowDefinition) -> Endpoint:
    """Returns the sender of a flow's first packet, or the receiver if that is known to be the client (`orient`).

    Under `orient: syn` and `client` a SYN-ACK answers the client. Under `client` any other first packet but a SYN
    comes from the server if it comes from the lower port.
    """
    handshake = first.tcp_flags & (SYN | ACK) if first.protocol == TCP else 0
    if definition.orient != "first-packet" and handshake == SYN | ACK:
        return target(first)
    if definition.orient == "client" and not handshake & SYN and first.src_port < first.dst_port:
        return target(first)
    return source(first)


def ended(flow: Flow, reason: EndReason) -> Flow:
    """Writes the end reason, which is `end detected` for a flow that was closed, whatever ends it."""
    flow.end_reason = EndReason.END_DETECTED if flow.closed else reason
    return flow


def end_before(flow: Flow, packet: Packet, now: int, definition: FlowDefinition) -> EndReason | None:
    """Returns the reason for which a packet ends the flow of its key, None if it belongs to the flow."""
    if now - flow.clock > idle_ns(packet.protocol, definition):
        return EndReason.IDLE_TIMEOUT
    if definition.active_s is not None:
        age, longest = now - flow.start_clock, round(definition.active_s * 1e9)
        if age > longest or (age == longest and definition.timeouts == "reached"):
            return EndReason.ACTIVE_TIMEOUT
    if packet.protocol == TCP and definition.tcp_close == "lifecycle" and opens_another(flow, packet):
        return EndReason.END_DETECTED
    if packet.protocol == TCP and definition.tcp_close == "fin" and cannot_follow_fin(flow, packet):
        return EndReason.END_DETECTED
    return None


def is_syn(packet: Packet) -> bool:
    """Returns whether a packet is a SYN without ACK."""
    return packet.protocol == TCP and packet.tcp_flags & (SYN | ACK) == SYN


def opens_another(flow: Flow, packet: Packet) -> bool:
    """Returns whether a packet is a SYN of another connection than the flow's (`tcp_close: lifecycle`).

    A SYN is the flow's own if it repeats the first SYN of its side. The first SYN of a side is the flow's own if the
    flow began with the SYN-ACK that answers it, or if it crosses the other side's SYN (RFC 9293, figure 7), that is,
    if all packets so far have the flag SYN.
    """
    if not is_syn(packet):
        return False
    if source(packet) in flow.syns:
        return flow.syns[source(packet)] != packet.tcp_seq
    first = flow.packets[0]
    answer = first.tcp_flags & (SYN | ACK) == SYN | ACK and source(first) != source(packet)
    if answer and first.tcp_ack == (packet.tcp_seq + 1) % 2**32:
        return False
    return not (flow.syns and all(before.tcp_flags & SYN for before in flow.packets))


def cannot_follow_fin(flow: Flow, packet: Packet) -> bool:
    """Returns whether a packet after a FIN begins another flow (`tcp_close: fin`).

    It does if it is a SYN, or payload without FIN of a side that sent no FIN. Payload of a side that did is repeated.
    """
    repeated = packet.tcp_flags & FIN or source(packet) in flow.fins
    return bool(flow.fins and (packet.tcp_flags & SYN or (packet.payload_bytes > 0 and not repeated)))


def close(flow: Flow, packet: Packet, definition: FlowDefinition) -> None:
    """Notes the FIN or RST of a packet that belongs to a flow."""
    if packet.protocol != TCP:
        return
    if packet.tcp_flags & FIN:
        flow.fins.add(source(packet))
    if definition.tcp_close == "lifecycle" and (packet.tcp_flags & RST or len(flow.fins) == 2):
        flow.closed = True
    if definition.tcp_close == "fin" and packet.tcp_flags & FIN:
        flow.closed = True


# rows: docs/data-contract.md, "A flow row" --------------------------------------------------------------------------


def flow_row(flow: Flow, definition: FlowDefinition, group: str) -> dict[str, Any]:
    """Returns the row of a flow."""
    first = flow.packets[0]
    copied = copies(flow.packets, definition)
    packets = [
        packet
        for packet, copy in zip(flow.packets, copied, strict=True)
        if not copy or definition.duplicates == "count"
    ]
    forward, backward = flow.forward, target(first) if flow.forward == source(first) else source(first)
    is_forward = [source(packet) == flow.forward for packet in packets]
    listed = [
        (packet, sent)
        for packet, sent in zip(packets, is_forward, strict=True)
        if definition.zero_payload == "keep" or packet.payload_bytes > 0
    ]
    return {
        "flow_id": flow_id(group, first),
        "end_reason": flow.end_reason,
        **common_columns(first, group, forward, backward),
        **times(packets),
        **counts(packets, is_forward, definition),
        "out_of_order": out_of_order(packets),
        "duplicates": sum(copied),
        "icmp_errors": flow.icmp_errors if definition.icmp_errors == "count" else None,
        **sequences(listed[: definition.k], definition),
    }


def common_columns(packet: Packet, group: str, forward: Endpoint, backward: Endpoint) -> dict[str, Any]:
    """Returns the columns that a row has from its first packet."""
    return {
        "group": group,
        "start": packet.time_ns,
        "ip_version": packet.ip_version,
        "protocol": packet.protocol,
        "src_ip": forward[0],
        "dst_ip": backward[0],
        "src_port": forward[1],
        "dst_port": backward[1],
        "vlan": packet.vlan,
        "tunnel_id": packet.tunnel_id,
        **icmp_columns(packet),
    }


def icmp_columns(packet: Packet) -> dict[str, int | None]:
    """Returns type, code and identifier of an ICMP message, None where a packet has none."""
    if packet.icmp == NO_ICMP:
        return dict.fromkeys(("icmp_type", "icmp_code", "icmp_id"))
    kind = packet.icmp >> 24
    number = packet.icmp & 0xFFFF if kind in WITH_IDENTIFIER[packet.protocol] else None
    return {"icmp_type": kind, "icmp_code": packet.icmp >> 16 & 0xFF, "icmp_id": number}


def times(packets: Sequence[Packet]) -> dict[str, int]:
    """Returns the earliest time of packets, and the time from there to the latest."""
    start = min(packet.time_ns for packet in packets)
    return {"start": start, "duration_ns": max(packet.time_ns for packet in packets) - start}


def counts(packets: Sequence[Packet], is_forward: Sequence[bool], definition: FlowDefinition) -> dict[str, int]:
    """Returns packets and bytes by direction."""
    sizes = [size_of(packet, definition) for packet in packets]
    forward = [size for size, sent in zip(sizes, is_forward, strict=True) if sent]
    return {
        "packets_fwd": len(forward),
        "packets_bwd": len(packets) - len(forward),
        "bytes_fwd": sum(forward),
        "bytes_bwd": sum(sizes) - sum(forward),
    }


def out_of_order(packets: Sequence[Packet]) -> int:
    """Returns the number of packets that are earlier than the one before."""
    return sum(after.time_ns < before.time_ns for before, after in itertools.pairwise(packets))


def content(packet: Packet) -> tuple[Any, ...]:
    """Returns what a packet and its copy have in common; the TTL and the VLAN may differ."""
    return (
        source(packet), target(packet), packet.protocol, packet.ip_id, packet.tcp_seq, packet.ip_bytes,
        packet.tcp_flags, packet.checksum,
    )  # fmt: skip


def copies(packets: Sequence[Packet], definition: FlowDefinition) -> list[bool]:
    """Returns whether each packet of a flow is a copy of one of the 8 before it (`duplicate_window_us`)."""
    window_ns = round(definition.duplicate_window_us * 1000)
    return [
        any(
            content(before) == content(packet) and abs(packet.time_ns - before.time_ns) <= window_ns
            for before in packets[max(number - 8, 0) : number]
        )
        for number, packet in enumerate(packets)
    ]


def sequences(listed: Sequence[tuple[Packet, bool]], definition: FlowDefinition) -> dict[str, list[int]]:
    """Returns the list columns of packets and whether each was sent forward."""
    packets = [packet for packet, _ in listed]
    times = [packet.time_ns for packet in packets]
    return {
        "pkt_size": [min(size_of(packet, definition), LARGEST) for packet in packets],
        "pkt_dir": [1 if sent else -1 for _, sent in listed],
        "pkt_gap_ns": [0] * len(times[:1]) + [max(after - before, 0) for before, after in itertools.pairwise(times)],
        "pkt_tcp_flags": [packet.tcp_flags for packet in packets],
        "pkt_tcp_window": [packet.tcp_window for packet in packets],
        "pkt_ttl": [packet.ttl for packet in packets],
        "pkt_payload": [min(packet.payload_bytes, LARGEST) for packet in packets],
    }


# a row for each packet: docs/flow-definitions.md, "A row for each packet" -------------------------------------------


def packet_rows(packets: Iterable[Packet], definition: FlowDefinition, group: str) -> Iterator[dict[str, Any]]:
    """Yields a row for each packet with the last k packets of its key up to this one."""
    windows: dict[Any, tuple[list[Packet], int, int]] = {}
    begun = itertools.count()
    for packet in packets:
        key, now = key_of(packet, definition), packet.clock_ns
        window, clock, number = windows.get(key, ([], now, 0))
        if not window or now - clock > idle_ns(packet.protocol, definition):
            window, number = [], next(begun)
            forget_windows(windows, number, now, definition)
        window = [*window, packet]
        windows[key] = window, now, number
        sent = [side(held, definition) == side(window[0], definition) for held in window]
        ends = (source(packet), target(packet)) if sent[-1] else (target(packet), source(packet))
        yield {
            "flow_id": flow_id(group, packet),
            "duration_ns": 0,
            "end_reason": EndReason.FORCED_END,
            **common_columns(packet, group, *ends),
            **counts([packet], sent[-1:], definition),
            "out_of_order": out_of_order(window[-2:]),
            "duplicates": int(copies(window[-9:], definition)[-1]),
            "icmp_errors": None,
            **sequences(list(zip(window, sent, strict=True))[-definition.k :], definition),
        }


def forget_windows(windows: dict[Any, tuple], number: int, now: int, definition: FlowDefinition) -> None:
    """Forgets the longest idle windows before window `number` begins, as `make_room` ends flows."""
    eighth = max(definition.max_open_flows // 8, 1)
    if number % eighth:
        return
    longest = max(idle_ns(protocol, definition) for protocol in (TCP, UDP))
    waiting = [key for key, (_, clock, _) in windows.items() if now - clock <= longest]
    surplus = len(waiting) + eighth - definition.max_open_flows
    for key in sorted(waiting, key=lambda key: windows[key][1:])[: max(surplus, 0)]:
        del windows[key]


def side(packet: Packet, definition: FlowDefinition) -> Any:
    """Returns the side that sent a packet of a key.

    Between two ports of one host the lower port is a side.
    """
    if definition.key == "five_tuple":
        return source(packet)
    if definition.key == "host_pair" and packet.src_ip == packet.dst_ip:
        return packet.src_port <= packet.dst_port
    return packet.src_ip


# flow ids -----------------------------------------------------------------------------------------------------------


def flow_id(group: str, first: Packet) -> bytes:
    """Returns the hash of group, capture and record of a flow's first packet."""
    one = int(group[:16], 16)
    two = one ^ 0x9E3779B97F4A7C15
    one = wrapped(mixed(one + first.origin) + two)
    two = wrapped(mixed(two ^ first.origin) + one)
    return b"".join(mixed(half).to_bytes(8, "little") for half in (one + first.record, two ^ first.record))


def mixed(word: int) -> int:
    """Returns a 64-bit number with its bits spread: the finalizer of splitmix64."""
    word = wrapped(word)
    word = wrapped((word ^ word >> 30) * 0xBF58476D1CE4E5B9)
    word = wrapped((word ^ word >> 27) * 0x94D049BB133111EB)
    return word ^ word >> 31


def wrapped(number: int) -> int:
    """Returns a number modulo 2^64."""
    return number & 0xFFFFFFFFFFFFFFFF
