"""Agreement with tshark on the innermost packet: addresses, IP length, ports, and the identifiers of some tunnels."""

import ipaddress
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from capture_files import ethernet, ipv4, ipv6, pcap, tcp, udp
from tunnel_packets import FORMS
from tunnel_packets import UNKNOWN_TO_TSHARK as UNKNOWN_FORMS
from unusual_frames import FRAMES
from unusual_frames import UNKNOWN_TO_TSHARK as UNKNOWN_FRAMES

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader

NS = 1_700_000_000_000_000_000
INNER = ipv4(tcp(b"abc", 4000, 443), "192.168.0.1", "192.168.0.2")
INNER_6 = ipv6(udp(b"abcd", 5000, 53), "2001:db8::1", "2001:db8::2", next_header=17)
FIELDS = (
    "frame.number", "frame.protocols", "ip.src", "ip.dst", "ip.len", "ip.frag_offset", "ipv6.src", "ipv6.dst",
    "ipv6.plen", "ipv6.fraghdr.offset", "tcp.srcport", "tcp.dstport", "tcp.hdr_len", "tcp.urgent_pointer",
    "udp.srcport", "udp.dstport", "udp.length", "frame.time_epoch", "gtp.teid", "vxlan.vni", "gre.key",
)  # fmt: skip
OPTIONS = (
    "ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE",
)  # fmt: skip
MOST_PACKETS = 3_000
LATEST_S = 2**63 // 10**9


class Innermost(NamedTuple):
    """The innermost packet of a frame; ports are None if tshark shows none."""

    src: str
    dst: str
    ip_bytes: int
    ports: tuple[int, int] | None
    layers: str
    tunnel_id: int


def theirs(tshark: str, path: Path, *, exchanged: bool = True) -> dict[int, Innermost]:
    """Returns the innermost packet of each frame by its number, from tshark.

    Without ICMP errors, which show the packet that they quote, later fragments, damaged TCP headers, and times that
    Flowloom cannot tell.

    Args:
      exchanged: whether the first two bytes of 802.11 in CAPWAP are exchanged.
    """
    command = [tshark, "-n", "-r", str(path), "-c", str(MOST_PACKETS), "-T", "fields", "-E", "occurrence=l"]
    command += ["-E", "separator=/t", "-d", "udp.port==8472,vxlan"]
    for option in (*OPTIONS, f"capwap.swap_fc:{str(exchanged).upper()}"):
        command += ["-o", option]
    for field in FIELDS:
        command += ["-e", field]
    found = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        seen = dict(zip(FIELDS, line.split("\t"), strict=True))
        if (packet := _innermost(seen)) and float(seen["frame.time_epoch"]) < LATEST_S:
            found[int(seen["frame.number"]) - 1] = packet
    return found


def _innermost(seen: dict[str, str]) -> Innermost | None:
    layers = seen["frame.protocols"].split(":")
    last = max((i for i, layer in enumerate(layers) if layer in ("ip", "ipv6")), default=None)
    if last is None or {"icmp", "icmpv6"} & set(layers[:last]):
        return None
    if int(seen["ip.frag_offset"] or 0) or int(seen["ipv6.fraghdr.offset"] or 0):
        return None
    ip = layers[last]
    transport = next((layer for layer in layers[last:] if layer in ("tcp", "udp")), None)
    if transport == "tcp" and not (seen["tcp.urgent_pointer"] and int(seen["tcp.hdr_len"]) >= 20):
        return None
    ports = (int(seen[f"{transport}.srcport"]), int(seen[f"{transport}.dstport"])) if transport else None
    size = int(seen["ip.len"]) if ip == "ip" else int(seen["ipv6.plen"]) + 40
    number = next((int(seen[name], 0) for name in ("gtp.teid", "vxlan.vni", "gre.key") if seen[name]), 0)
    ends = (str(ipaddress.ip_address(seen[f"{ip}.{end}"])) for end in ("src", "dst"))
    return Innermost(*ends, size, ports, ":".join(layers), number)


def ours(path: Path) -> dict[int, dict[str, Any]]:
    """Returns the packets of the first records of a capture, by the record."""
    part = CaptureRange(str(path))
    found: dict[int, dict[str, Any]] = {}
    for batch in GroupReader([part], "0" * 16, FlowDefinition.of(tunnels="all")).packets(part):
        found |= {row["record"]: row for row in batch.slice(0, MOST_PACKETS).to_pylist()}
        if len(found) >= MOST_PACKETS:
            break
    return found


def differences(found: dict[int, dict[str, Any]], expected: dict[int, Innermost]) -> dict[int, Any]:
    """Returns the packets that tshark shows otherwise, by the record."""
    wrong = {}
    for record, packet in expected.items():
        row = found.get(record)
        told = row and (
            *(_text(row[end]) for end in ("src_ip", "dst_ip")),
            row["ip_bytes"],
            packet.ports and (row["src_port"], row["dst_port"]),
        )
        if told != packet[:4]:
            wrong[record] = told, packet
    return wrong


def _text(address: bytes) -> str:
    six = ipaddress.IPv6Address(address)
    return str(six.ipv4_mapped or six)


@pytest.mark.parametrize("link_type", sorted({link_type for link_type, _ in FRAMES.values()}))
def test_tshark_finds_ip_behind_the_same_headers(tmp_path, tshark, link_type):
    path = tmp_path / "c.pcap"
    names = [name for name, (number, _) in FRAMES.items() if number == link_type and name not in UNKNOWN_FRAMES]
    inside = (INNER_6,) if link_type == 229 else (INNER, INNER_6)  # the link type of IPv6
    frames = [FRAMES[name][1](inner) for name in names for inner in inside]
    path.write_bytes(pcap([(NS + at, frame) for at, frame in enumerate(frames)], link_type=link_type))
    expected = theirs(tshark, path)
    assert len(expected) == len(frames)
    assert differences(ours(path), expected) == {}


def test_tshark_unwraps_the_same_tunnels(tmp_path, tshark):
    path = tmp_path / "c.pcap"
    for exchanged in (False, True):
        names = [name for name in FORMS if name not in UNKNOWN_FORMS and (name == "capwap-exchanged") == exchanged]
        frames = [ethernet(FORMS[name].around(inner)) for name in names for inner in (INNER, INNER_6)]
        path.write_bytes(pcap([(NS + at, frame) for at, frame in enumerate(frames)]))
        expected = theirs(tshark, path, exchanged=exchanged)
        assert len(expected) == len(frames)
        assert {packet.src for packet in expected.values()} == {"192.168.0.1", "2001:db8::1"}
        assert differences(ours(path), expected) == {}


def test_tshark_shows_the_same_identifiers(tmp_path, tshark):
    path = tmp_path / "c.pcap"
    forms = [FORMS[name] for name in ("gre-key", "gtp-u", "vxlan", "vxlan-8472")]
    path.write_bytes(pcap([(NS + at, ethernet(form.around(INNER))) for at, form in enumerate(forms)]))
    expected = [form.number for form in forms]
    assert [packet.tunnel_id for packet in theirs(tshark, path).values()] == expected
    assert [row["tunnel_id"] for row in ours(path).values()] == expected


TUNNEL_CAPTURES = (
    "4in4tunnel.pcap", "4in6tunnel.pcap", "6in4tunnel.pcap", "6in6tunnel.pcap", "gtp-u.pcap", "ipv6_in_gtp.pcap",
    "teredo.pcap", "capwap.pcap",
)  # fmt: skip


@pytest.mark.parametrize("name", TUNNEL_CAPTURES)
def test_tshark_unwraps_the_same_packets(real_data, tshark, name):
    path = real_data / "nfstream-tests/pcaps" / name
    expected = theirs(tshark, path)
    assert expected
    assert differences(ours(path), expected) == {}


KNOWN = {
    "fuzz-2021-06-07-c6c72a0a56.pcap": "damaged seconds, which tshark takes for a time before the epoch",
}
"""Captures that tshark reads otherwise, and why."""


@pytest.mark.slow
def test_tshark_sees_the_same_innermost_packets_in_every_capture(real_data, tshark):
    packets, wrong = 0, {}
    for path in sorted(real_data.rglob("*.pcap*")) + sorted(real_data.rglob("*.cap")):
        if path.name not in KNOWN:
            expected = theirs(tshark, path)
            packets += len(expected)
            if found := differences(ours(path), expected):
                wrong[path.name] = found
    assert wrong == {}
    assert packets > 90_000
