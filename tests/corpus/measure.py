"""Print what the captures hold, as the table of the README: files, packets and flows per application and tunnel.

Usage:  python tests/corpus/measure.py [DIR]

Counts packets and conversations with tshark; a conversation is a flow with no idle time-out, and no capture here is
long enough for one of 120 s to divide it.
"""

import collections
import gzip
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path

OPEN = {".gz": gzip.decompress, ".xz": lzma.decompress}


def count(capture: Path) -> tuple[int, int]:
    """Returns the packets of a capture and its TCP and UDP conversations."""
    content = capture.read_bytes()
    if capture.suffix == ".zst":
        content = subprocess.run(["zstd", "-dqc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    with tempfile.NamedTemporaryFile() as plain:
        plain.write(OPEN.get(capture.suffix, bytes)(content))
        plain.flush()
        words = ["tshark", "-n", "-r", plain.name, "-T", "fields", "-e", "tcp.stream", "-e", "udp.stream"]
        lines = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True).stdout
    streams = lines.splitlines()
    return len(streams), len(set(streams))


def main() -> None:
    """Measures all captures of a directory, by default those beside this file."""
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent / "captures"
    rows: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0, 0, 0])
    for capture in sorted(file for file in root.rglob("*-*.*") if file.is_file()):
        traffic, app = capture.relative_to(root).parts[:2]
        measured = (1, *count(capture), capture.stat().st_size)
        for key in ((traffic, app, capture.name.partition("-")[0]), ("all", "", "")):
            rows[key] = [old + new for old, new in zip(rows[key], measured, strict=True)]
    print("| traffic | app | capture | files | packets | flows | KiB |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for key in sorted(rows, key=lambda key: (key[0] == "all", key)):
        files, packets, flows, size = rows[key]
        print(f"| {' | '.join(key)} | {files} | {packets:,} | {flows:,} | {size / 1024:,.0f} |")


if __name__ == "__main__":
    main()
