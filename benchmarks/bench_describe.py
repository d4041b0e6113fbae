"""Peak memory and CPU time of `flowloom describe --statistics` against the rows of a synthetic dataset."""

import os
from pathlib import Path

from generator import SyntheticCapture
from measure import FLOWLOOM, Run, report, run, workplace

from flowloom.schemas.dataset.dataset_card import read_card

SMALL, FACTOR = 1_000_000, 10

MANIFEST = """\
name: synthetic
captures:
  - {glob: "c.pcap", labels: {synthetic: true}}
tasks:
  synthetic: {kind: binary}
splits: {by: flow}
"""


def main() -> None:
    """Prints peak MiB for a dataset and for one ten times larger, and the rows per second of CPU time."""
    runs, seconds, rows = [], [], []
    with workplace() as folder:
        (folder / "c.yaml").write_text(MANIFEST)
        for packets in (SMALL, SMALL * FACTOR):
            SyntheticCapture(packets, captured_bytes=128).write(folder / "c.pcap")
            dataset = folder / str(packets)
            run([*FLOWLOOM, "build", folder / "c.yaml", dataset], core=None)
            measured, cpu_seconds = _described(dataset)
            runs.append(measured)
            seconds.append(cpu_seconds)
            rows.append(sum(split.rows for split in read_card(dataset).splits.values()))
    report(
        "describe",
        dataset="synthetic",
        rows=rows[1],
        peak_mib=runs[1].peak_mib,
        peak_mib_tenth=runs[0].peak_mib,
        ratio=runs[1].peak_mib / runs[0].peak_mib,
        cpu_seconds=seconds[1],
        rows_per_cpu_second=(rows[1] - rows[0]) / (seconds[1] - seconds[0]),
    )


def _described(dataset: Path) -> tuple[Run, float]:
    """Returns the second run over a dataset, and the CPU seconds that it took; the first compiles."""
    command = [*FLOWLOOM, "describe", dataset, "--statistics", "--json"]
    run(command)
    before = os.times()
    measured = run(command)
    after = os.times()
    taken = after.children_user - before.children_user + after.children_system - before.children_system
    return measured, taken


if __name__ == "__main__":
    main()
