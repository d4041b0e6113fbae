"""A small corpus of captures for whole pipelines."""

import random
from pathlib import Path

import pytest
from capture_files import ACK, SYN, ethernet, ipv4, pcap, tcp, udp

NS = 1_700_000_000_000_000_000


def session(seed: int, flows: int = 12) -> bytes:
    """Returns a capture of a few conversations that no other seed has."""
    draws = random.Random(seed)
    frames = []
    for flow in range(flows):
        host, port = f"10.{seed % 250}.{flow}.{draws.randrange(1, 250)}", draws.randrange(1024, 65_536)
        time_ns = NS + draws.randrange(60_000_000_000)
        for packet in range(draws.randrange(1, 30)):
            size = draws.randrange(0, 1200)
            if flow % 2:
                segment = ipv4(udp(bytes(size), port, 53), host, "10.250.0.1", 17)
            else:
                flags = SYN if packet == 0 else ACK
                segment = ipv4(tcp(bytes(size), port, 443, flags, seq=packet), host, "10.250.0.1")
            time_ns += draws.randrange(50_000_000)
            frames.append((time_ns, ethernet(segment)))
    frames.append((NS, ethernet(bytes(28), 0x0806)))
    return pcap(sorted(frames))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder with web/, ssh/ and attack/ captures, five or more of each."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(("web", "ssh", "attack")):
        (folder / name).mkdir()
        for at in range(5 + number):
            (folder / name / f"{at}.pcap").write_bytes(session(100 * number + at))
    return folder


MANIFEST = """\
name: small
captures:
  - {glob: "web/*.pcap", labels: {app: web, attack: false}}
  - {glob: "ssh/*.pcap", labels: {app: ssh, attack: false}}
  - {glob: "attack/*.pcap", labels: {attack: true}}
tasks:
  app: {kind: multiclass, vocabulary: [web, ssh]}
  attack: {kind: binary}
output: {shards: 2, row_group_rows: 16}
"""


@pytest.fixture(scope="session")
def manifest(corpus) -> str:
    """The text of a manifest over the corpus."""
    return MANIFEST
