"""Three lines of Python beside those of NFStream's README, capture to data frame; and the memory of a scan."""

import sys

from generator import SyntheticCapture
from measure import alternate, report, run, workplace

PACKETS = (500_000, 5_000_000)
SCANNED = (1_000_000, 10_000_000)

OURS = """
import sys
import flowloom as fl
flows = fl.read_flows(sys.argv[1]).to_pandas()
"""
NFSTREAM = """
import sys
from nfstream import NFStreamer
flows = NFStreamer(source=sys.argv[1]).to_pandas()
"""
SCAN = """
import sys
import flowloom as fl
rows = sum(batch.num_rows for batch in fl.scan_flows(sys.argv[1]))
"""


def main() -> None:
    """Prints the time of both scripts as whole processes, and the peak memory of two scans."""
    with workplace() as folder:
        capture = folder / "flows.pcap"
        for packets in PACKETS:
            SyntheticCapture(packets).write(capture)
            # NFStream's defaults: one meter for each core but one, packet lists off, dissection of 20 packets
            scripts = {"ours": OURS, "nfstream": NFSTREAM}
            commands = {name: [sys.executable, "-c", script, capture] for name, script in scripts.items()}
            taken = alternate(commands, rounds=3, core=None)
            report(
                "three lines", capture="synthetic", packets=packets, seconds=taken["ours"].seconds,
                nfstream_seconds=taken["nfstream"].seconds,
                nfstream_times_ours=taken["nfstream"].seconds / taken["ours"].seconds,
                cpu_seconds=taken["ours"].cpu_seconds, nfstream_cpu_seconds=taken["nfstream"].cpu_seconds,
            )  # fmt: skip
        peaks = {}
        for packets in SCANNED:
            SyntheticCapture(packets).write(capture)
            peaks[packets] = run([sys.executable, "-c", SCAN, capture], core=None).peak_mib
        small, large = (peaks[packets] for packets in SCANNED)
        size = capture.stat().st_size / 1e9
        report("scan", capture="synthetic", gigabytes=size, peak_mib=large, peak_mib_small=small, ratio=large / small)


if __name__ == "__main__":
    main()
