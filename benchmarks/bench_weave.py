"""Peak memory of `flowloom weave` against the size of a dataset whose shards are of one size, and its speed."""

from pathlib import Path

from generator import SyntheticCapture
from measure import FLOWLOOM, Run, report, run, workplace

PACKETS, PACKETS_PER_FLOW, SHARDS, FACTOR = 400_000, 8, 4, 10

MANIFEST = """\
name: benchmark
captures:
  - {{glob: "{capture}", labels: {{one: true, two: false, three: true}}}}
tasks:
  one: {{kind: binary}}
  two: {{kind: binary}}
  three: {{kind: binary}}
layout: rainbow
splits: {{by: flow}}
output: {{shards: {shards}}}
"""


def main() -> None:
    """Prints peak MiB of weaving three stripes to one for a dataset and one ten times larger."""
    with workplace() as folder:
        small, large = (_weave(folder, factor) for factor in (1, FACTOR))
    flows = PACKETS * FACTOR // PACKETS_PER_FLOW
    report(
        "weave memory",
        capture="synthetic",
        flows=flows,
        stripes=3,
        peak_mib=large.peak_mib,
        peak_mib_tenth=small.peak_mib,
        ratio=large.peak_mib / small.peak_mib,
        seconds=large.seconds,
        flows_per_second=flows / large.seconds,
    )


def _weave(folder: Path, factor: int) -> Run:
    """Builds three stripes of a synthetic capture and returns what it takes to weave them to one."""
    capture = folder / f"{factor}.pcap"
    SyntheticCapture(PACKETS * factor, PACKETS_PER_FLOW, captured_bytes=64, block_packets=200_000).write(capture)
    manifest, built = folder / f"{factor}.yaml", folder / f"built-{factor}"
    manifest.write_text(MANIFEST.format(capture=capture.name, shards=SHARDS * factor))
    run([*FLOWLOOM, "build", manifest, built], core=None)
    capture.unlink()
    return run([*FLOWLOOM, "weave", built, folder / f"woven-{factor}", "--layout", "aurora"], core=None)


if __name__ == "__main__":
    main()
