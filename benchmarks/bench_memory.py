"""Peak memory of `flowloom flows` against the size of a synthetic capture with the same number of open flows."""

from bench_build import MANIFEST, build_command
from generator import SyntheticCapture
from measure import FLOWLOOM, report, run, workplace

SMALL, FACTOR, MANY = 1_000_000, 10, 10_000_000


def main() -> None:
    """Prints peak MiB for a capture and one ten times larger, in blocks of the same concurrency."""
    peaks = {}
    with workplace() as folder:
        for packets in (SMALL, SMALL * FACTOR):
            capture = folder / "c.pcap"
            SyntheticCapture(packets, captured_bytes=128, block_packets=250_000, seconds_per_block=130).write(capture)
            peaks[packets] = run([*FLOWLOOM, "flows", capture, "-o", folder / "flows.parquet"]).peak_mib
        capture = folder / "flows.pcap"
        (folder / "flows.yaml").write_text(MANIFEST.format(glob="flows.pcap"))
        SyntheticCapture(MANY, packets_per_flow=10).write(capture)
        report(
            "memory of many flows",
            capture="synthetic",
            bytes=capture.stat().st_size,
            flows=MANY // 10,
            peak_mib_flows=run([*FLOWLOOM, "flows", capture, "-o", folder / "flows.parquet"]).peak_mib,
            peak_mib_build=run(build_command(folder, "flows", 2), core=None).peak_mib,
        )
    small, large = peaks[SMALL], peaks[SMALL * FACTOR]
    report(
        "memory", capture="synthetic", packets=SMALL * FACTOR, peak_mib=large, peak_mib_tenth=small, ratio=large / small
    )


if __name__ == "__main__":
    main()
