"""Hypothesis strategies for capture files whose packets often share a flow, and for flow definitions."""

import dataclasses
import itertools
import struct
from collections.abc import Callable

from capture_files import (
    enhanced,
    ethernet,
    interface,
    ipv4,
    ipv6,
    modified_pcap,
    obsolete,
    pcap,
    section,
    simple,
    snoop,
    tcp,
    udp,
)  # fmt: skip
from hypothesis import strategies as st
from tunnel_packets import FORMS
from unusual_frames import FRAMES, ether_type

from flowloom.schemas.corpus.flow_definition import TUNNELS, FlowDefinition

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
FAR_TICKS = 2**64 - 1
"""A pcapng timestamp that int64 nanoseconds do not reach."""

HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.2", "192.168.7.9")
HOSTS_6 = ("fd00::1", "fd00::2", "fd00::2", "2001:db8::9")
TCP_FLAGS = (0x02, 0x02, 0x12, 0x10, 0x18, 0x18, 0x11, 0x11, 0x14, 0xC2)
ICMP_TYPES = {4: (8, 0, 8, 0, 13, 42, 3), 6: (128, 129, 128, 129, 135, 160, 1)}
EXTENSIONS = (
    (),
    ((0, b"\0" * 6),),  # hop-by-hop options
    ((60, b"\0" * 14), (51, b"\0" * 10)),  # destination options, authentication
)


@dataclasses.dataclass(frozen=True)
class RandomPacket:
    """The choices that make one frame.

    Attributes:
      gap_ns: time since the packet before.
      piece: None for a whole datagram, else the number of the IP fragment.
      around: the tunnels around it, the innermost first.
      link: the number of its variant of the link layer.
      excess: bytes that an IPv4 header claims beyond those that there are.
      offset: the data offset of a TCP header in words.
      keep: captured bytes of the frame; None for all.
      damage: position and value of one changed byte, if any.
      error: the form of an ICMP error that quotes the packet and takes its place; None for the packet itself.
      far: whether a pcapng file gives it a time that is out of range.
    """

    gap_ns: int
    version: int
    hosts: tuple[int, int]
    port: int
    protocol: int
    flags: int
    seq: int
    ack: int
    payload: int
    error: str | None
    ip_id: int
    piece: int | None
    extensions: int
    around: tuple[str, ...]
    link: int
    excess: int
    offset: int
    keep: int | None
    damage: tuple[int, int] | None
    far: bool

    def frame(self, link_type: int) -> bytes:
        """Returns the frame, before it is cut off."""
        packet = self._ip(self._transport())
        if self.error:
            packet = self._about(packet)
        for kind in self.around:
            packet = _around(kind, packet, self)
        frame = bytearray(LINKS[link_type][self.link % len(LINKS[link_type])](packet))
        if self.damage:
            at, value = self.damage
            frame[at % len(frame)] = value
        return bytes(frame)

    def _transport(self) -> bytes:
        ports = (4000 + self.port, 443) if self.hosts[0] <= self.hosts[1] else (443, 4000 + self.port)
        payload = bytes(self.payload)
        if self.protocol == 6:
            segment = bytearray(tcp(payload, *ports, self.flags, self.seq, window=self.payload, ack=self.ack))
            segment[12] = self.offset << 4
            segment[17] = self.ack
            return bytes(segment)
        if self.protocol == 17:
            return udp(payload, *ports)[:7] + bytes([self.ack]) + payload
        if self.protocol == 132:
            return struct.pack(">HHII", *ports, 0, self.ack) + payload
        # most types with an identifier, both directions of a few, and errors whose quote is no packet
        kind = ICMP_TYPES[self.version][(self.flags + self.payload) % 7]
        return struct.pack(">BBHHH", kind, self.ack & 1, 0, self.seq, 0) + payload

    def _about(self, packet: bytes) -> bytes:
        """Returns an ICMP error about a packet, from its target or a router between."""
        header = len(packet) if self.error == "all" else 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
        quote = packet[: header + {"all": 0, "ports": 8, "cut": 3, "nested": 8}[self.error]]
        for _ in range(1 + (self.error == "nested")):
            if packet[0] >> 4 == 4:
                kind = (3, 11, 5, 12)[self.ack]
                quote = ipv4(struct.pack(">BBHI", kind, 1, 0, 0) + quote, HOSTS[self.hosts[1]], HOSTS[0], 1)
            else:
                kind = (1, 2, 3, 4)[self.ack]
                quote = ipv6(struct.pack(">BBHI", kind, 0, 0, 0) + quote, HOSTS_6[self.hosts[1]], HOSTS_6[0], 58)
        return quote

    def _ip(self, content: bytes) -> bytes:
        source, target = self.hosts
        if self.version == 4:
            offset = 0
            if self.piece is not None:
                content = content[self.piece * 24 :][:24]
                offset = self.piece * 3 | 0x2000 * (self.piece < 2)
            options = bytes(4 * self.extensions)
            length = 20 + len(options) + len(content) + self.excess
            if self.payload == 1400:  # as segmentation offload writes it
                length = 0
            return ipv4(
                content, HOSTS[source], HOSTS[target], self.protocol, ip_id=self.ip_id, fragment=offset,
                ttl=60 + self.seq, options=options, length=max(length, 0),
            )  # fmt: skip
        protocol = 58 if self.protocol == 1 else self.protocol
        if self.piece is not None:
            content = content[self.piece * 24 :][:24]
            offset = self.piece * 24 | (self.piece < 2)
            content = struct.pack(">BBHI", protocol, 0, offset, self.ip_id << 20) + content
            protocol = 44
        for kind, body in EXTENSIONS[self.extensions]:
            words = (len(body) + 2) // 4 - 2 if kind == 51 else (len(body) + 2) // 8 - 1
            content = bytes([protocol, words]) + body + content
            protocol = kind
        return ipv6(content, HOSTS_6[source], HOSTS_6[target], protocol, hop_limit=60 + self.seq)


def _outer(content: bytes, protocol: int, packet: RandomPacket) -> bytes:
    if packet.version == 4:
        return ipv6(content, "fd00::a", "fd00::b", protocol)
    return ipv4(content, "172.16.0.1", "172.16.0.2", protocol)


def _ip_in_ip(inner: bytes, packet: RandomPacket) -> bytes:
    return _outer(inner, 4 if inner[0] >> 4 == 4 else 41, packet)


def _gre(inner: bytes, packet: RandomPacket) -> bytes:
    key = struct.pack(">I", packet.port) if packet.seq else b""
    flags = 0x2000 * bool(key)
    if packet.ip_id:
        return _outer(struct.pack(">HH", flags, 0x6558) + key + ethernet(inner), 47, packet)
    return _outer(struct.pack(">HH", flags, 0x0800 if inner[0] >> 4 == 4 else 0x86DD) + key + inner, 47, packet)


def _gtp_u(inner: bytes, packet: RandomPacket) -> bytes:
    extension = b"\0\0\0\x85" + b"\x01\0\0\0" if packet.seq else b""
    header = struct.pack(">BBHI", 0x34 if extension else 0x30, 255, len(extension) + len(inner), packet.port + 1)
    return _outer(udp(header + extension + inner, 2152, 2152), 17, packet)


def _vxlan(inner: bytes, packet: RandomPacket) -> bytes:
    frame = ethernet(inner, vlans=[packet.port] if packet.seq else [])
    return _outer(udp(struct.pack(">II", 0x08 << 24, packet.port << 8) + frame, 5000, 4789), 17, packet)


def _teredo(inner: bytes, packet: RandomPacket) -> bytes:
    return _outer(udp(bytes(8) * bool(packet.seq) + inner, 3544, 5000), 17, packet)


AROUND: dict[str, Callable[[bytes, RandomPacket], bytes]] = {
    "ip-in-ip": _ip_in_ip,
    "gre": _gre,
    "gtp-u": _gtp_u,
    "vxlan": _vxlan,
    "teredo": _teredo,
}


def _around(kind: str, inner: bytes, packet: RandomPacket) -> bytes:
    """Returns a packet with a tunnel around it, in one of the forms of its kind."""
    forms = [form.around for form in FORMS.values() if form.kind == kind]
    if kind in AROUND:
        forms.append(lambda inner: AROUND[kind](inner, packet))
    return forms[-1 - (packet.link + packet.port + packet.seq) % len(forms)](inner)


def _links() -> dict[int, tuple[Callable[[bytes], bytes], ...]]:
    """Returns the variants of each link type."""
    links: dict[int, list[Callable[[bytes], bytes]]] = {
        1: [
            ethernet,
            lambda packet: ethernet(packet, vlans=[7]),
            lambda packet: ethernet(packet, vlans=[7, 9]),
            lambda packet: ethernet(packet) + bytes(6),  # padded
            lambda packet: ethernet(packet, 0x0806),  # no IP
            lambda packet: ethernet(packet, 0x7777),
        ],
        101: [bytes],
        113: [lambda packet: bytes(14) + ether_type(packet) + packet],
        147: [bytes],  # no decoder
        276: [lambda packet: ether_type(packet) + bytes(18) + packet],
    }
    for link_type, frame in FRAMES.values():
        links.setdefault(link_type, []).append(frame)
    return {link_type: tuple(frames) for link_type, frames in links.items()}


LINKS = _links()
"""Variants of the link layer by link type."""

CONVERSATION: dict[str, st.SearchStrategy] = {
    "version": st.sampled_from([4, 4, 6]),
    "hosts": st.sampled_from([(0, 1), (0, 1), (0, 3), (2, 1)]),
    "port": st.integers(0, 1),
    "protocol": st.sampled_from([6, 6, 6, 6, 6, 6, 17, 17, 17, 1, 1, 132, 89]),
    "ip_id": st.integers(0, 1),
    "extensions": st.sampled_from([0, 0, 1, 2]),
    "around": st.sampled_from([*[()] * 6, *((kind,) for kind in TUNNELS), ("gre", "vxlan"), ("ip-in-ip",) * 9]),
    "link": st.just(0) | st.integers(0, 35),
}
"""Choices that the packets of a conversation have in common, but for a few."""

TURN: dict[str, st.SearchStrategy] = {
    "gap_ns": st.sampled_from(
        [
            *(0, 0, 0, 1, 1, 999, 50_000, 51_000, SECOND, SECOND, SECOND),
            31 * SECOND,
            70 * SECOND,
            130 * SECOND,
            -3 * SECOND,
            -131 * SECOND,
        ]
    ),
    "flags": st.sampled_from(TCP_FLAGS),
    "seq": st.integers(0, 1),
    "ack": st.integers(0, 2),
    "payload": st.sampled_from([0, 0, 1, 60, 1400]),
    "error": st.sampled_from([*[None] * 12, "all", "ports", "ports", "cut", "nested"]),
}
"""Choices of each packet alone."""

ODD: dict[str, st.SearchStrategy] = {
    **CONVERSATION,
    "piece": st.integers(0, 2),
    "excess": st.sampled_from([-70, -30, 4]),
    "offset": st.sampled_from([4, 6, 15]),
    "keep": st.integers(0, 80),
    "damage": st.tuples(st.integers(0, 80), st.integers(0, 255)),
    "far": st.just(True),
}
WHOLE = {"piece": None, "excess": 0, "offset": 5, "keep": None, "damage": None, "far": False}

_odd = st.sampled_from([*ODD, "excess", "excess", "offset", "keep", "damage", "damage"]).flatmap(
    lambda name: st.fixed_dictionaries({name: ODD[name]})
)
_pieces = st.fixed_dictionaries({"piece": st.integers(0, 2)})
_turns = st.tuples(
    st.integers(0, 3),
    st.booleans(),
    st.fixed_dictionaries(TURN),
    st.one_of(*[st.just({})] * 3, _pieces, _odd),
)


def _packet(conversations: list[dict], turn: tuple[int, bool, dict, dict]) -> RandomPacket:
    """Returns a packet of one of some conversations, in one direction or the other."""
    number, answers, own, odd = turn
    choices = {**conversations[number % len(conversations)], **WHOLE, **own, **odd}
    source, target = choices.pop("hosts")
    return RandomPacket(hosts=(target, source) if answers else (source, target), **choices)


@dataclasses.dataclass(frozen=True)
class RandomFile:
    """The choices that make one capture file.

    Attributes:
      form: "pcap-us", "pcap-ns", "pcapng", "snoop" or "pcap-modified"; the last has the usual magic in one byte order.
      order: byte order, "<" or ">".
      cut: bytes that the file lacks at its end.
    """

    form: str
    order: str
    link_type: int
    packets: tuple[RandomPacket, ...]
    cut: int

    def parts(self, start_ns: int) -> list[bytes]:
        """Returns the file's header, and then each of its records."""
        times = itertools.accumulate((packet.gap_ns for packet in self.packets), initial=start_ns)
        timed = list(zip(self.packets, list(times)[1:], strict=True))
        if self.form == "pcapng":
            header = section(self.order) + interface(self.link_type, resolution=9, order=self.order)
            header += interface(1, offset_s=-5, order=self.order)
            return [header, *(self._block(packet, time_ns) for packet, time_ns in timed)]
        if self.form in ("snoop", "pcap-modified"):
            return self._of_one_kind(timed)
        nanoseconds = self.form == "pcap-ns"
        header = pcap([], link_type=self.link_type, nanoseconds=nanoseconds, order=self.order)
        return [
            header,
            *(
                _kept(
                    pcap([(time_ns, packet.frame(self.link_type))], nanoseconds=nanoseconds, order=self.order)[24:],
                    packet.keep, self.order,
                )
                for packet, time_ns in timed
            ),
        ]  # fmt: skip

    def _of_one_kind(self, timed: list[tuple[RandomPacket, int]]) -> list[bytes]:
        """Returns the parts of a file that has no form of its own for records that are cut off."""
        if self.form == "snoop":
            files = [snoop([(time_ns, packet.frame(1))]) for packet, time_ns in timed]
            return [snoop([]), *(file[16:] for file in files)]
        usual, kind = self.order == ">", {"link_type": self.link_type, "order": self.order}
        files = [modified_pcap([(time_ns, packet.frame(self.link_type))], **kind) for packet, time_ns in timed]
        return [modified_pcap([], **kind, usual_magic=usual), *(file[24:] for file in files)]

    def _block(self, packet: RandomPacket, time_ns: int) -> bytes:
        if packet.far:
            return enhanced(packet.frame(self.link_type), FAR_TICKS, order=self.order)
        if packet.port == 0:
            return enhanced(packet.frame(self.link_type), time_ns, order=self.order)
        if packet.seq == 0:
            ticks = (time_ns + 5 * SECOND) // 1000
            return obsolete(packet.frame(1), ticks, interface_id=1, order=self.order)
        frame = packet.frame(self.link_type)
        return simple(frame + bytes(-len(frame) % 4), len(frame), self.order)


def _kept(record: bytes, keep: int | None, order: str) -> bytes:
    """Returns a pcap record with at most `keep` captured bytes."""
    if keep is None or keep >= len(record) - 16:
        return record
    return record[:8] + struct.pack(order + "I", keep) + record[12 : 16 + keep]


@dataclasses.dataclass(frozen=True)
class RandomGroup:
    """The choices that make the files of one capture group."""

    files: tuple[RandomFile, ...]

    def parts(self) -> list[list[bytes]]:
        """Returns the header and the records of each file; a cut file lacks the end of its last record."""
        start_ns, found = START, []
        for file in self.files:
            parts = file.parts(start_ns)
            start_ns += sum(packet.gap_ns for packet in file.packets)
            if file.cut and len(parts) > 1:
                parts[-1] = parts[-1][: -min(file.cut, len(parts[-1]) - 1)]
            found.append(parts)
        return found


def groups(most_files: int = 3, most_packets: int = 16) -> st.SearchStrategy[RandomGroup]:
    """Returns a strategy for capture groups of a few conversations, which go on from file to file."""
    turns = st.lists(_turns, max_size=3) | st.lists(_turns, min_size=most_packets // 2, max_size=most_packets)
    file = st.fixed_dictionaries(
        {
            "form": st.sampled_from([*["pcap-us", "pcap-ns", "pcapng"] * 3, "snoop", "pcap-modified"]),
            "order": st.sampled_from("<>"),
            "link_type": st.sampled_from([1] * 8 + [*LINKS]),
            "packets": turns,
            "cut": st.sampled_from([0, 0, 0, 0, 3, 40]),
        }
    )
    conversations = st.lists(st.fixed_dictionaries(CONVERSATION), min_size=1, max_size=3)
    return st.builds(_group, conversations, st.lists(file, min_size=1, max_size=most_files))


def _group(conversations: list[dict], files: list[dict]) -> RandomGroup:
    return RandomGroup(
        tuple(
            RandomFile(**file | {"packets": tuple(_packet(conversations, turn) for turn in file["packets"])})
            for file in files
        )
    )


OPTIONS: dict[str, st.SearchStrategy] = {
    "decision": st.sampled_from([*["flow"] * 5, "packet"]),
    "k": st.sampled_from([1, 3, 9, 60]),
    "idle_s": st.sampled_from([1.5, 60.0, 120.0, 120.0]),
    "idle_udp_s": st.sampled_from([None, 0.5, 15.0]),
    "active_s": st.sampled_from([None, None, 120.0, 150.0]),
    "tcp_close": st.sampled_from(["none", "lifecycle", "lifecycle", "fin", "fin"]),
    "size": st.sampled_from(["ip", "wire", "payload"]),
    "zero_payload": st.sampled_from(["keep", "skip"]),
    "min_packets": st.sampled_from([1, 1, 2, 3]),
    "orient": st.sampled_from(["first-packet", "syn", "client"]),
    "timeouts": st.sampled_from(["exceeded", "reached"]),
    "vlan_in_key": st.booleans(),
    "fragments": st.sampled_from(["join", "join", "drop"]),
    "tunnels": st.one_of(st.just(TUNNELS), st.just(()), st.sets(st.sampled_from(TUNNELS)).map(tuple)),
    "vxlan_ports": st.sampled_from([(4789, 8472), (4789, 8472), (5, 4789)]),
    "tunnel_in_key": st.booleans(),
    "icmp_in_key": st.booleans(),
    "icmp_errors": st.sampled_from(["packets", "count", "count"]),
    "duplicates": st.sampled_from(["count", "drop"]),
    "duplicate_window_us": st.sampled_from([0, 1, 50, 50, 50, 2_000_000]),
    "reorder_s": st.sampled_from([None, None, 0.000_05, 2.5, 60.0]),
    "decoding": st.sampled_from(["full", "full", "nfstream"]),
    "max_open_flows": st.sampled_from([1, 2, 3, 9, 9, 4_194_304, 4_194_304, 4_194_304]),
    "key": st.sampled_from(["five_tuple", "host_pair", "source"]),
}
"""Each option of a flow definition with the values that the property tests try."""

NOT_OF_PACKETS = ("active_s", "tcp_close", "zero_payload", "min_packets", "orient", "icmp_errors", "duplicates")


def _definition(options: dict) -> FlowDefinition:
    options = dict(options)
    if options["decision"] == "packet":
        return FlowDefinition.of("packet-windows", **_without(options, NOT_OF_PACKETS))
    return FlowDefinition.of(**_without(options, ("key",)))


def _without(options: dict, names: tuple[str, ...]) -> dict:
    left = {name: value for name, value in options.items() if name not in names}
    return left | {"tunnel_in_key": left["tunnel_in_key"] and bool(left["tunnels"])}


definitions = st.fixed_dictionaries(OPTIONS).map(_definition)
"""Flow definitions with any options that go together."""

associative_definitions = st.fixed_dictionaries(
    OPTIONS | {"decision": st.just("flow"), "active_s": st.none(), "reorder_s": st.none()}
).map(_definition)  # fmt: skip
"""Flow definitions whose captures are read in ranges."""
