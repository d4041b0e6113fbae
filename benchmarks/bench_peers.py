"""`flowloom flows` against other flow meters on a synthetic capture, one core: NFStream, argus, softflowd."""

import shutil
import sys
from pathlib import Path

from generator import SyntheticCapture
from measure import FLOWLOOM, alternate, report, run, workplace

SMALL, LARGE, WHOLE = 50_000, 2_000_000, 5_000_000
PREFIX = 200_000
"""NFStream meters tens of thousands of packets a second; a prefix is enough to know its rate."""

NFSTREAM = (
    "import sys; from nfstream import NFStreamer; "
    "print(sum(1 for _ in NFStreamer(source=sys.argv[1], splt_analysis=60, n_dissections=0, n_meters=1)))"
)


def main() -> None:
    """Prints each peer's marginal rate beside ours, measured in the same run."""
    peers: dict[str, tuple[int, list[str]]] = {"nfstream": (PREFIX, [sys.executable, "-c", NFSTREAM])}
    if shutil.which("argus"):
        peers["argus"] = (LARGE, ["argus", "-w", "/dev/null", "-r"])
    if shutil.which("softflowd"):
        peers["softflowd"] = (LARGE, ["softflowd", "-d", "-r"])
    for tool in ("argus", "softflowd"):
        if tool not in peers:
            report("peers", tool=tool, skipped=f"{tool} is not installed (Debian package {tool}*)")
    with workplace() as folder:
        captures: dict[int, Path] = {}
        for packets in {SMALL, LARGE, PREFIX}:
            captures[packets] = folder / f"{packets}.pcap"
            SyntheticCapture(packets).write(captures[packets])
        for tool, (packets, command) in peers.items():
            # NFStream sets the affinity of its own processes
            commands = {f"{tool} {size}": [*command, captures[size]] for size in (SMALL, packets)}
            for size in (SMALL, LARGE):
                commands[f"ours {size}"] = [*FLOWLOOM, "flows", captures[size], "-o", folder / "flows.parquet"]
            taken = alternate(commands, rounds=3)
            theirs = (packets - SMALL) / (taken[f"{tool} {packets}"].seconds - taken[f"{tool} {SMALL}"].seconds)
            ours = (LARGE - SMALL) / (taken[f"ours {LARGE}"].seconds - taken[f"ours {SMALL}"].seconds)
            report(
                "peers",
                tool=tool,
                capture="synthetic",
                packets_per_s=ours,
                tool_packets_per_s=theirs,
                ratio=ours / theirs,
            )
        capture = folder / "whole.pcap"
        SyntheticCapture(WHOLE).write(capture)
        ours = run([*FLOWLOOM, "flows", capture, "-o", folder / "flows.parquet"]).seconds
        theirs = run([*peers["nfstream"][1], capture]).seconds
        report(
            "peers whole process",
            tool="nfstream",
            capture="synthetic",
            packets=WHOLE,
            seconds=ours,
            tool_seconds=theirs,
            ratio=theirs / ours,
        )


if __name__ == "__main__":
    main()
