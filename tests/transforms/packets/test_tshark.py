"""Agreement with tshark on time, addresses, ports, sizes, TTL, TCP flags, window and sequence number."""

import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.metering.group_reader import GroupReader

AGREED = [
    "nfstream-tests/pcaps/skype.pcap",
    "nfstream-tests/pcaps/http_ipv6.pcap",
    "nfstream-tests/pcaps/dns_fragmented.pcap",
    "nfstream-tests/pcaps/quic-33.pcapng",
    "nfstream-tests/pcaps/dnscrypt-v1-and-resolver-pings.pcap",
    "nfstream-tests/pcaps/reasm_crash_anon.pcapng",
    "nfstream-tests/pcaps/sip.pcap",
    "nfstream-tests/pcaps/teamspeak3.pcap",
    "nfstream-tests/pcaps/dns_doh.pcap",
    "nfstream-tests/pcaps/skype-conference-call.pcap",
    "kitsune-mirai/mirai2000.pcap",
    "attacks/stopddos/amp.dns.RRSIG.fragmented.pcap",
    "nfstream-tests/pcaps/quic_interop_V.pcapng",
    "nfstream-tests/pcaps/dhcp_big_endian.pcapng",
    "nfstream-tests/pcaps/dhcp_little_endian.pcapng",
]
FIELDS = (
    "frame.number",
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.len",
    "ipv6.plen",
    "ip.ttl",
    "ipv6.hlim",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "tcp.flags",
    "tcp.window_size_value",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.hdr_len",
    "tcp.urgent_pointer",
    "frame.len",
    "frame.protocols",
)
OPTIONS = [
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
]


def dissected(tshark: str, path: Path) -> list[dict[str, str]]:
    """Returns tshark's fields of every frame whose only IP packet is a whole or first TCP or UDP one.

    Without the TCP headers that are not whole or that tshark too calls bogus. `test_tunnels.py` has packets in packets.
    """
    own = "(tcp or udp) and not (icmp or icmpv6 or gre) and not ip.frag_offset > 0 and not ipv6.fraghdr.offset > 0"
    command = [tshark, "-n", "-r", str(path), "-Y", own, "-T", "fields", "-E", "occurrence=f", "-E", "separator=/t"]
    command += [part for option in OPTIONS for part in ("-o", option)]
    command += [part for field in FIELDS for part in ("-e", field)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    packets = [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in text.splitlines()]
    return [
        packet
        for packet in packets
        if sum(layer in ("ip", "ipv6") for layer in packet["frame.protocols"].split(":")) == 1
        and (packet["udp.srcport"] or (packet["tcp.urgent_pointer"] and int(packet["tcp.hdr_len"]) >= 20))
    ]


def nanoseconds(epoch: str) -> int:
    seconds, fraction = epoch.split(".")
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9])


def disagreement(path: Path, theirs: list[dict[str, str]]) -> tuple[Any, Any] | None:
    """Returns the first packet that tshark decodes differently, and tshark's fields."""
    definition = FlowDefinition.of()
    packets = pa.Table.from_batches(
        GroupReader([CaptureRange(str(path))], "0" * 16, definition).packets(CaptureRange(str(path)))
    ).to_pylist()
    ours = {row["record"] + 1: row for row in packets}
    for field in theirs:
        layer = "tcp" if field["tcp.srcport"] else "udp"
        expected = {
            "time_ns": nanoseconds(field["frame.time_epoch"]),
            "src_ip": address(field["ip.src"] or field["ipv6.src"]),
            "dst_ip": address(field["ip.dst"] or field["ipv6.dst"]),
            "src_port": int(field[f"{layer}.srcport"]),
            "dst_port": int(field[f"{layer}.dstport"]),
            "ip_bytes": int(field["ip.len"]) if field["ip.len"] else int(field["ipv6.plen"]) + 40,
            "ttl": int(field["ip.ttl"] or field["ipv6.hlim"]),
            "wire_bytes": int(field["frame.len"]),
            "tcp_flags": int(field["tcp.flags"] or "0", 16) & 0xFF,
            "tcp_window": int(field["tcp.window_size_value"] or 0),
            "tcp_seq": int(field["tcp.seq_raw"] or 0),
            "tcp_ack": int(field["tcp.ack_raw"] or 0),
        }
        row = ours.get(int(field["frame.number"]))
        found = row and {name: row[name] for name in expected}
        told = expected["time_ns"] < np.iinfo(np.int64).max
        if found != (expected if told else None):
            return found, expected | {"record": int(field["frame.number"]) - 1}
    return None


@pytest.mark.parametrize("name", AGREED)
def test_tshark_sees_the_same_packets(real_data, tshark, name):
    theirs = dissected(tshark, real_data / name)
    assert theirs, "tshark must see TCP or UDP packets here"
    assert disagreement(real_data / name, theirs) is None


SIGNED_TIMES = {"fuzz-2021-06-07-c6c72a0a56.pcap"}
"""Captures with damaged seconds, which tshark takes for a time before the epoch; pcap's seconds have no sign."""


@pytest.mark.slow
def test_tshark_sees_the_same_packets_in_every_capture(real_data, tshark):
    packets = 0
    disagreements = {}
    for path in sorted((real_data / "nfstream-tests/pcaps").iterdir()):
        if path.name not in SIGNED_TIMES:
            theirs = dissected(tshark, path)
            packets += len(theirs)
            if found := disagreement(path, theirs):
                disagreements[path.name] = found
    assert disagreements == {}
    assert packets > 90_000


@pytest.mark.parametrize("name", AGREED[:6])
def test_directions_follow_the_first_packet_of_each_conversation(real_data, tshark, name):
    path = real_data / name
    reading = GroupReader(
        [CaptureRange(str(path))], "0" * 16, FlowDefinition.of(k=60_000, idle_s=1e8, tcp_close="none", fragments="drop")
    )
    ours = {}
    for batch in reading.flows():
        for row in batch.to_pylist():
            ours[row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"], row["protocol"]] = row["pkt_dir"]
    expected: dict[Any, list[int]] = {}
    for field in dissected(tshark, path):
        layer, protocol = ("tcp", 6) if field["tcp.srcport"] else ("udp", 17)
        source = address(field["ip.src"] or field["ipv6.src"]), int(field[f"{layer}.srcport"])
        target = address(field["ip.dst"] or field["ipv6.dst"]), int(field[f"{layer}.dstport"])
        if (*target, *source, protocol) in expected:
            expected[*target, *source, protocol].append(-1)
        else:
            expected.setdefault((*source, *target, protocol), []).append(1)
    assert {key: ours[key] for key in expected} == expected


def address(text: str) -> bytes:
    ip = ipaddress.ip_address(text)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
