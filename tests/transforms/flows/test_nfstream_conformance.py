"""Conformance of the preset `nfstream` with NFStream on its own test captures; differences have known causes."""

import collections
import struct

import conformance
import pytest
from capture_files import ethernet, ipv4, ipv6, pcap, tcp, udp

START = 1_700_000_000_000_000_000


@pytest.mark.slow
@pytest.mark.parametrize("settings", conformance.SETTINGS, ids=["defaults", "ip sizes"])
def test_flows_are_those_of_nfstream(real_data, settings):
    pytest.importorskip("nfstream")
    captures = sorted((real_data / "nfstream-tests/pcaps").iterdir())
    found = conformance.compare(captures, settings)
    assert found.ours > 5_000
    assert found.share >= 0.997
    assert found.share_read >= 0.999
    assert found.simultaneous >= 0.99 * found.equal
    assert {capture for capture, _, _ in found.differences} <= conformance.CAUSES.keys()
    assert found.differences, "a comparison that cannot fail shows nothing: these captures are known to differ"


def over_ipv6(content: bytes, protocol: int) -> bytes:
    return ipv6(content, "fd00::1", "fd00::2", protocol)


AUTHENTICATION = struct.pack(">BBHII", 6, 4, 0, 1, 1) + bytes(12)
PAD = bytes(40)
PACKETS = {
    "SCTP": ipv4(struct.pack(">HHII", 5, 6, 0, 0) + PAD, protocol=132),
    "SCTP in IPv6": over_ipv6(struct.pack(">HHII", 5, 6, 0, 0) + PAD, 132),
    "SCTP of 3 bytes": ipv4(bytes(3), protocol=132),
    "authentication header": ipv4(AUTHENTICATION + tcp(PAD), protocol=51),
    "authentication header in IPv6": over_ipv6(AUTHENTICATION + tcp(PAD), 51),
    "HIP": over_ipv6(bytes([17, *bytes(7)]) + udp(PAD), 139),
    "mobility": over_ipv6(bytes([17, *bytes(7)]) + udp(PAD), 135),
    "hop-by-hop options": over_ipv6(bytes([17, *bytes(7)]) + udp(PAD), 0),
    "first fragment": over_ipv6(bytes([17, 0, 0, 1, *bytes(4)]) + udp(PAD), 44),
    "later fragment": over_ipv6(bytes([17, 0, 0, 16, *bytes(4)]) + udp(PAD), 44),
    "UDP of 7 bytes": ipv4(udp()[:7], protocol=17),
    "TCP of 19 bytes": ipv4(tcp()[:19]),
    "TCP header of 0 bytes": ipv4(tcp()[:12] + b"\0" + tcp()[13:] + PAD),
    "TCP header of 60 bytes": ipv4(tcp()[:12] + b"\xf0" + tcp()[13:]),
    "total length 0": ipv4(udp(PAD), protocol=17, length=0),
    "payload length 0": over_ipv6(udp(PAD), 17)[:4] + bytes(2) + over_ipv6(udp(PAD), 17)[6:],
    "echo request": ipv4(b"\x08\0\0\0\0\x07\0\0" + PAD, protocol=1),
    "ICMP of 3 bytes": ipv4(b"\x08\0\0", protocol=1),
    "ICMPv6": over_ipv6(b"\x80\0\0\0\0\x07\0\0" + PAD, 58),
}


def test_packets_with_unusual_headers_are_those_of_nfstream(tmp_path):
    pytest.importorskip("nfstream")
    captures = [tmp_path / f"{number:02}.pcap" for number in range(len(PACKETS))]
    for capture, packet in zip(captures, PACKETS.values(), strict=True):
        capture.write_bytes(pcap([(START, ethernet(packet) + PAD)]))
    settings = conformance.SETTINGS[0]
    theirs = conformance.nfstream_flows(captures, settings.nfstream)
    for name, capture in zip(PACKETS, captures, strict=True):
        ours = conformance.flowloom_flows(capture, settings.definition, conformance.Conformance())
        assert collections.Counter(ours) == collections.Counter(theirs[str(capture)]), name
