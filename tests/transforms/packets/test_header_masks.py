"""Strict masks: equal to a plain reference wherever a packet is cut, and blind to hosts, names and connections."""

import ipaddress
import struct

import numpy as np
import pytest
from capture_files import ipv4, ipv6, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.transforms.packets.header_masks import HOST_SERVICES, clear_addresses, clear_connection


def strict(packet: bytes) -> bytes:
    """Returns a packet with addresses and connection masked."""
    content = np.frombuffer(packet, np.uint8).copy()
    clear_addresses(content, 0, len(content))
    clear_connection(content, 0, len(content))
    return content.tobytes()


def zeros(data: bytes, *ranges: tuple[int, int]) -> bytes:
    """Returns data with some ranges zeroed."""
    found = bytearray(data)
    for first, last in ranges:
        last = min(last, len(found))
        found[first:last] = bytes(max(last - first, 0))
    return bytes(found)


def reference(packet: bytes, inside: int = 0) -> bytes:
    """Returns the strict mask of a whole packet, slowly, header by header."""
    if inside == 4 or packet[0] >> 4 not in (4, 6):
        return bytes(len(packet))
    if packet[0] >> 4 == 4:
        header, protocol = max((packet[0] & 15) * 4, 20), packet[9]
        head = zeros(packet[:header], (4, 6), (8, 9), (10, 20), (20, header))
        if struct.unpack(">H", packet[6:8])[0] & 0x1FFF:
            return head + packet[header:]
        return head + body(packet[header:], protocol, inside)
    head = bytes([packet[0], packet[1] & 0xF0, 0, 0, *packet[4:7], 0]) + bytes(32)
    protocol, rest = packet[6], packet[40:]
    while protocol in (0, 43, 44, 51, 60, 135, 139, 140):
        if len(rest) < 8:
            return head + zeros(rest, (4 if protocol == 44 else 2, len(rest)))
        length = 8 if protocol == 44 else (rest[1] + 2) * 4 if protocol == 51 else (rest[1] + 1) * 8
        head += zeros(rest[:length], (4 if protocol == 44 else 2, length))
        if protocol == 44 and struct.unpack(">H", rest[2:4])[0] >> 3:
            return head + rest[length:]
        protocol, rest = rest[0], rest[length:]
    return head + body(rest, protocol, inside)


def body(data: bytes, protocol: int, inside: int) -> bytes:
    """Returns what lies behind the IP header, masked."""
    if not data:
        return data
    if protocol in (4, 41):
        return reference(data, inside + 1)
    if protocol in (6, 17):
        header = 8 if protocol == 17 else max((data[12] >> 4) * 4, 20)
        masked = ((0, 4), (6, 8)) if protocol == 17 else ((0, 12), (16, 18), (20, header))
        found = zeros(data, *masked)
        named = set(struct.unpack(">HH", data[:4])) & set(HOST_SERVICES)
        return found[:header] + bytes(len(data[header:])) if named else found
    if protocol in (1, 58):
        six, kind = protocol == 58, data[0]
        if kind in ((128, 129) if six else (0, 8)):
            return zeros(data, (2, 8))
        if kind not in ((1, 2, 3, 4) if six else (3, 4, 5, 11, 12)):
            return zeros(data, (2, len(data)))
        quoted, redirect = data[8:], (six, kind) == (False, 5)
        if words := data[4] * 8 if six else data[5] * 4 * (not redirect):  # a redirect has its gateway there
            quoted = quoted[:words] + bytes(len(quoted[words:]))
        head = zeros(data[:8], (2, 8) if redirect else (2, 4))
        return head + (reference(quoted, inside + 1) if quoted else b"")
    if protocol == 47 and data[2:4] in (b"\x08\x00", b"\x86\xdd"):
        header = 4 + 4 * sum(bool(data[0] & bit) for bit in (0x80, 0x20, 0x10))
        return zeros(data[:header], (4, header)) + (reference(data[header:], inside + 1) if data[header:] else b"")
    if protocol in (50, 132):
        return zeros(data, (0, 8 if protocol == 50 else 12))
    return zeros(data, (1, len(data))) if protocol in (2, 88, 89, 103, 112) else data


ports = st.sampled_from([*HOST_SERVICES, 80, 443, 40_000])
payloads = st.binary(min_size=1, max_size=40)
hosts4 = st.integers(1, 2**32 - 2).map(lambda n: str(ipaddress.IPv4Address(n)))
hosts6 = st.integers(1, 2**128 - 2).map(lambda n: str(ipaddress.IPv6Address(n)))


def segments(packets):
    """Returns a strategy of (protocol of IPv4, protocol of IPv6, bytes behind the IP header)."""
    icmp = st.tuples(st.sampled_from([0, 3, 4, 5, 8, 11, 12, 9, 13]), st.sampled_from([0, 0, 0, 2]), packets).map(
        lambda m: bytes([m[0], 1, 7, 7, 9, m[1], 9, 9]) + m[2]
    )
    icmp6 = st.tuples(
        st.sampled_from([1, 2, 3, 4, 128, 134, 135, 136, 137]), st.sampled_from([0, 0, 0, 2]), packets
    ).map(lambda m: bytes([m[0], 1, 7, 7, m[1], 9, 9, 9]) + m[2])
    gre = st.tuples(st.sampled_from([0, 0x80, 0x20, 0xB0]), st.sampled_from([0x0800, 0x86DD, 0x880B]), packets).map(
        lambda m: struct.pack(">BBH", m[0], 0, m[1]) + bytes([5] * 4 * bin(m[0]).count("1")) + m[2]
    )
    return st.one_of(
        st.builds(udp, payloads, ports, ports).map(lambda d: (17, 17, d)),
        st.builds(lambda p, a, b: struct.pack(">HH", a, b) + tcp(p)[4:], payloads, ports, ports).map(
            lambda d: (6, 6, d)
        ),
        icmp.map(lambda d: (1, 1, d)),
        icmp6.map(lambda d: (58, 58, d)),
        gre.map(lambda d: (47, 47, d)),
        packets.map(lambda d: (4, 41, d)),
        st.tuples(st.sampled_from([2, 50, 89, 99, 132]), payloads).map(lambda d: (d[0], d[0], d[1])),
    )


def with_extensions(kinds, protocol, data):
    """Returns extension headers before data, and the protocol of the first."""
    for kind in reversed(kinds):
        data, protocol = bytes([protocol]) + extension(kind) + data, kind
    return protocol, data


def extension(kind):
    """Returns an extension header without its first byte."""
    words = {0: 0, 43: 2, 60: 1, 51: 4}[kind]
    length = (words + 2) * 4 if kind == 51 else (words + 1) * 8
    return bytes([words]) + bytes([0x5A]) * (length - 2)


whole = st.deferred(
    lambda: st.one_of(
        st.builds(
            lambda s, src, dst, ip_id, options: ipv4(s[2], src, dst, s[0], ip_id=ip_id, options=options),
            segments(inner), hosts4, hosts4, st.integers(0, 65_535), st.sampled_from([b"", b"\7" * 8]),
        ),
        st.builds(
            lambda s, src, dst, kinds: (lambda p, d: ipv6(d, src, dst, p))(*with_extensions(kinds, s[1], s[2])),
            segments(inner), hosts6, hosts6, st.lists(st.sampled_from([0, 43, 60, 51]), max_size=2),
        ),
    )
)  # fmt: skip
inner = st.one_of(payloads.map(lambda garbage: b"\x11" + garbage), whole)


@settings(max_examples=150, deadline=None)
@given(whole, st.data())
def test_the_kernel_equals_the_reference_wherever_the_packet_is_cut(packet, data):
    expected = reference(packet)
    for cut in {len(packet), *data.draw(st.lists(st.integers(1, len(packet)), max_size=6))}:
        assert strict(packet[:cut]) == expected[:cut], cut


NAMES = {"a": b"\5alice\3lan", "b": b"\5bruno\3lan"}
"""A name in DNS, mDNS, LLMNR and other payload."""


def told_of(who: str) -> dict[str, bytes]:
    """Returns packets that tell of a host in every place where `strict` hides it."""
    end = ord(who)
    host, host6, name = f"192.0.2.{end}", f"2001:db8::{end}", NAMES[who]
    mac = bytes([2, 0, 0, 0, 0, end])
    question = ipv4(udp(name, 50_000 + end, 53), host, "198.51.100.9", 17)
    web = ipv4(tcp(b"GET /"), host, "198.51.100.9", 6, ip_id=end)
    packed6 = ipaddress.ip_address(host6).packed
    return {
        **{f"service {port}": ipv4(udp(name, 40_000 + end, port), host, "224.0.0.9", 17) for port in HOST_SERVICES},
        "answer of LLMNR": ipv6(udp(name + packed6, 5355, 40_000 + end), host6, "ff02::1:3", 17),
        "DNS by TCP": ipv4(struct.pack(">HH", 40_000 + end, 53) + tcp(name)[4:], host, "198.51.100.9", 6),
        "port unreachable": ipv4(b"\3\3\7\7" + bytes(4) + question, "198.51.100.9", host, 1),
        "time exceeded": ipv4(b"\x0b\0\7\7" + bytes(4) + web[:28], "203.0.113.1", host, 1),
        "redirect": ipv4(b"\5\1\7\7" + bytes([10, 0, 0, end]) + web[:28], "203.0.113.1", host, 1),
        "too big": ipv6(b"\2\0\7\7\0\0\5\0" + ipv6(udp(name, 1, 5353), host6, "ff02::fb", 17), host6, host6, 58),
        "neighbour solicitation": ipv6(b"\x87\0\7\7" + bytes(4) + packed6 + b"\1\1" + mac, host6, "ff02::1", 58),
        "router advertisement": ipv6(b"\x86\0\7\7" + bytes(12) + b"\1\1" + mac, host6, "ff02::1", 58),
        "echo": ipv4(b"\x08\0\7\7" + bytes([0, end, 0, end]) + b"ping", host, "198.51.100.9", 1),
        "tunnel": ipv4(web, "203.0.113.1", "203.0.113.2", 4),
        "tunnel of IPv6": ipv4(ipv6(tcp(b"x"), host6, host6, 6), "203.0.113.1", "203.0.113.2", 41),
        "GRE with key": ipv4(b"\x20\0\x08\0" + bytes([0, 0, 0, end]) + web, "203.0.113.1", "203.0.113.2", 47),
        "quoted tunnel": ipv4(b"\3\1\7\7" + bytes(4) + ipv4(web, "203.0.113.1", "203.0.113.2", 4), host, host, 1),
        "route": ipv6(bytes([6, 2, 0, 1]) + bytes(4) + packed6 + tcp(b"x"), host6, host6, 43),
        "group": ipv4(b"\x16\0\7\7" + bytes([239, 0, 0, end]), host, "224.0.0.2", 2),
        "ESP": ipv4(bytes([0, 0, 0, end, 0, 0, 0, end]) + b"sealed", host, host, 50),
    }  # fmt: skip


@pytest.mark.parametrize("place", told_of("a"))
def test_strict_hides_hosts_names_and_connections(place):
    one, other = told_of("a")[place], told_of("b")[place]
    assert one != other
    assert strict(one) == strict(other)


def test_strict_keeps_the_kind_of_a_message_and_payload_of_applications():
    web = ipv4(tcp(b"GET /"), "192.0.2.1", "198.51.100.9", 6)
    error = strict(ipv4(b"\3\3\7\7" + bytes(4) + web, "198.51.100.9", "192.0.2.1", 1))
    assert error[20:22] == b"\3\3"
    assert error[28:30] == web[:2]
    assert error.endswith(b"GET /")
    echo = strict(ipv4(b"\x08\0\7\7\1\1\1\1ping", "192.0.2.1", "198.51.100.9", 1))
    assert echo[20:] == b"\x08\0" + bytes(6) + b"ping"
