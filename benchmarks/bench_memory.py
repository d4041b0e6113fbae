"""Peak memory of `flowloom flows` against the size of a synthetic capture with the same number of open flows."""

from generator import SyntheticCapture
from measure import FLOWLOOM, report, run, workplace

SMALL, FACTOR = 1_000_000, 10


def main() -> None:
    """Print peak MiB for a capture and one ten times larger, in blocks of the same concurrency."""
    peaks = {}
    with workplace() as folder:
        for packets in (SMALL, SMALL * FACTOR):
            capture = folder / "c.pcap"
            SyntheticCapture(packets, captured_bytes=128, block_packets=250_000, seconds_per_block=130).write(capture)
            peaks[packets] = run([*FLOWLOOM, "flows", capture, "-o", folder / "flows.parquet"]).peak_mib
    small, large = peaks[SMALL], peaks[SMALL * FACTOR]
    report(
        "memory", capture="synthetic", packets=SMALL * FACTOR, peak_mib=large, peak_mib_tenth=small, ratio=large / small
    )


if __name__ == "__main__":
    main()
