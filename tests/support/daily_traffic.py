"""Synthetic traffic of several days, a few files a day: made of a seed, and called nothing else."""

import random
from pathlib import Path

from capture_files import ACK, SYN, ethernet, ipv4, pcap, tcp, udp

NS = 1_700_000_000_000_000_000
DAY_NS = 120_000_000_000
"""A day lasts two minutes."""
FLOWS = 40
"""Conversations that begin on a day, of each kind; some go on into the next."""

SIZES = {"web": (500, 900), "ssh": (20, 120), "flood": (0, 1)}

MANIFEST = """\
name: nightly
captures:
  - {glob: "in/web-*.pcap", labels: {app: web}, group: rotated}
  - {glob: "in/ssh-*.pcap", labels: {app: ssh}, group: ssh}
tasks:
  app: {kind: multiclass, vocabulary: [web, ssh]}
splits: {by: flow, train: 0.5, validation: 0.2, test: 0.3}
definition: {k: 8, idle_s: 30}
leakage: skip
output: {shards: 2}
"""
WITH_FLOODS = """\
name: nightly
captures:
  - {glob: "in/web-*.pcap", labels: {app: web, attack: false}, group: rotated}
  - {glob: "in/ssh-*.pcap", labels: {app: ssh, attack: false}, group: ssh}
  - {glob: "in/flood-*.pcap", labels: {attack: true}, group: flood}
tasks:
  app: {kind: multiclass, vocabulary: [web, ssh]}
  attack: {kind: binary}
splits: {by: flow, train: 0.5, validation: 0.2, test: 0.3}
definition: {k: 8, idle_s: 30}
leakage: skip
output: {shards: 2}
"""


def packets(kind: str, days: int, drifts_on: int | None = None) -> list[tuple[int, bytes]]:
    """Returns the packets of one kind of traffic over some days, in order; sizes double on a day of drift."""
    draws = random.Random(kind)
    low, high = SIZES[kind]
    frames = []
    for flow in range(days * FLOWS):
        day = flow // FLOWS
        time_ns = NS + day * DAY_NS + draws.randrange(DAY_NS)
        host, port = f"10.{day}.{flow % 250}.{draws.randrange(1, 250)}", draws.randrange(1024, 65_536)
        larger = 2 if drifts_on is not None and day >= drifts_on else 1
        for packet in range(draws.randrange(2, 12)):
            payload = bytes(min(larger * draws.randrange(low, high), 1400))
            if kind == "flood":
                segment = ipv4(udp(payload, port, 1900), host, "10.250.0.1", 17)
            else:
                segment = ipv4(tcp(payload, port, 443, SYN if packet == 0 else ACK, seq=packet), host, "10.250.0.1")
            frames.append((time_ns, ethernet(segment)))
            time_ns += draws.randrange(10_000_000_000)
    return sorted(frames)


def write_day(folder: Path, kind: str, frames: list[tuple[int, bytes]], day: int) -> Path:
    """Writes the packets of one day, from 0, as a file of its timeline and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{day:03d}.pcap"
    first = NS + day * DAY_NS
    path.write_bytes(pcap([(at, frame) for at, frame in frames if first <= at < first + DAY_NS]))
    return path
