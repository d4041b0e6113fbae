"""`flowloom flows` against tcpdump and NFStream on real captures: those of NFStream's tests, one behind the other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench_peers import NFSTREAM
from measure import FLOWLOOM, alternate, report, workplace

REAL_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "nfstream-tests" / "pcaps"
REPEATED, NFSTREAM_REPEATED = 40, 4
SHIFT_S = 10_000_000
"""Every repetition begins so much later that no flow of the one before goes on in it."""


def main() -> None:
    """Prints marginal rates over repetitions of the captures that fit into one Ethernet file."""
    missing = [tool for tool in ("tcpdump", "mergecap", "editcap", "capinfos") if not shutil.which(tool)]
    if missing or not REAL_DATA.is_dir():
        report("real captures", skipped=f"needs {', '.join(missing) or REAL_DATA}")
        return
    with workplace() as folder:
        once, packets = _joined(folder)
        captures = {1: once}
        for times in (NFSTREAM_REPEATED, REPEATED):
            captures[times] = folder / f"{times}.pcap"
            _repeat(once, captures[times], times)
        tools = {
            "ours": (REPEATED, lambda path: [*FLOWLOOM, "flows", path, "-o", folder / "flows.parquet"]),
            "tcpdump": (REPEATED, lambda path: ["tcpdump", "-r", path, "-w", "/dev/null"]),
            "nfstream": (NFSTREAM_REPEATED, lambda path: [sys.executable, "-c", NFSTREAM, path]),
        }
        commands = {}
        for name, (times, command) in tools.items():
            commands |= {f"{name} {n}": command(captures[n]) for n in (1, times)}
        taken = alternate(commands, rounds=3)
        rates = {
            name: (times - 1) * packets / (taken[f"{name} {times}"].seconds - taken[f"{name} 1"].seconds)
            for name, (times, _) in tools.items()
        }
        report(
            "real captures",
            packets=REPEATED * packets,
            bytes_per_packet=os.path.getsize(once) / packets,
            packets_per_s=rates["ours"],
            tcpdump_packets_per_s=rates["tcpdump"],
            nfstream_packets_per_s=rates["nfstream"],
            ratio_to_tcpdump=rates["ours"] / rates["tcpdump"],
            ratio_to_nfstream=rates["ours"] / rates["nfstream"],
        )


def _joined(folder: Path) -> tuple[Path, int]:
    """Writes the Ethernet captures into one nanosecond pcap, and returns it with its number of packets."""
    ethernet = []
    for capture in sorted(REAL_DATA.iterdir()):
        about = subprocess.run(["capinfos", "-E", "-T", "-r", capture], capture_output=True, text=True, check=False)
        if about.returncode == 0 and about.stdout.split("\t")[-1].strip() == "ether":
            ethernet.append(capture)
    once = folder / "1.pcap"
    subprocess.run(["mergecap", "-a", "-F", "nsecpcap", "-w", once, *ethernet], check=True, capture_output=True)
    counted = subprocess.run(["capinfos", "-c", "-M", "-T", "-r", once], capture_output=True, text=True, check=True)
    return once, int(counted.stdout.split("\t")[-1])


def _repeat(once: Path, target: Path, times: int) -> None:
    parts = []
    for number in range(times):
        part = target.with_name(f"{target.stem}-{number}.pcap")
        subprocess.run(["editcap", "-F", "nsecpcap", "-t", str(number * SHIFT_S), once, part], check=True)
        parts.append(part)
    subprocess.run(["mergecap", "-a", "-F", "nsecpcap", "-w", target, *parts], check=True, capture_output=True)
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    main()
