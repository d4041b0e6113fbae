"""Rehearsal of large builds: rotated files with millions of flows, an elephant flow, a SYN flood.

make rehearsal [SMALL=1]

Captures are made on the fly and deleted after their part. Each part prints one JSON line: time, peak memory of all
processes, disk, and whether records and flows are as many as were made. Exit code 1 means that they are not.
"""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from made_traffic import SYN, Traffic

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.corpus.flow_definition import FlowDefinition

MANIFEST = """\
name: rehearsal
captures:
  - {{glob: "in/*.pcap", labels: {{made: "{label}"}}, group: rotated}}
tasks:
  made: {{kind: multiclass, vocabulary: [traffic, other]}}
splits: {{by: flow, train: 0.8, validation: 0.1, test: 0.1}}
definition: {definition}
leakage: skip
"""
BOUND = "max_open_flows"


@dataclasses.dataclass(frozen=True)
class Part:
    """One part: its traffic, and options of the flow definition beside k."""

    name: str
    traffic: Traffic
    options: dict[str, int] = dataclasses.field(default_factory=dict)


def parts(scale: int) -> list[Part]:
    """Returns the three parts, with numbers divided by a scale."""
    rotated = Traffic(50_000_000 // scale, max(100 // scale, 4), 3_000_000 // scale, 300_000 // scale, 20_000 * scale)
    elephant = Traffic(20_000_000 // scale, 1, 1, 1, 20_000 * scale)
    flood = Traffic(10_000_000 // scale, 1, 10_000_000 // scale, 10_000_000 // scale, 10_000 * scale, SYN)
    return [
        Part("rotated files", rotated),
        Part("elephant flow", elephant),
        Part("SYN flood", flood, {BOUND: 1_000_000 // scale}),
    ]


def rehearse(part: Part, folder: Path, workers: int) -> dict:
    """Builds a dataset from the traffic of one part; returns measurements and findings."""
    begun = time.monotonic()
    part.traffic.write(folder / "in")
    made_s = time.monotonic() - begun
    definition = json.dumps({"k": 8, **part.options})
    (folder / "corpus.yaml").write_text(MANIFEST.format(label="traffic", definition=definition))
    begun = time.monotonic()
    code, memory, disk = watched(["build", "corpus.yaml", "out", "--workers", str(workers)], folder)
    finding = {
        "tool": "rehearsal", "part": part.name, "packets": part.traffic.packets, "files": part.traffic.files,
        "capture_bytes": size_of(folder / "in"), "made_s": round(made_s, 1),
        "build_s": round(time.monotonic() - begun, 1), "peak_bytes": memory, "disk_bytes": disk, "code": code,
    }  # fmt: skip
    if code == 0:
        finding |= counted(folder / "out", part.traffic)
    finding["faults"] = int(code != 0) + sum(not finding.get(name, True) for name in ("accounts_close", "flows_equal"))
    return finding


def counted(dataset: Path, traffic: Traffic) -> dict:
    """Returns the counts of a dataset beside those of the generator."""
    captures = pq.read_table(dataset / "captures.parquet")
    records, metered = (sum(captures[name].to_pylist()) for name in ("records", "metered"))
    dropped = sum(sum(captures[reason.column].to_pylist()) for reason in DropReason)
    flows = sum(pq.ParquetFile(path).metadata.num_rows for path in dataset.glob("flows/*/*.parquet"))
    return {
        "records": records, "metered": metered, "flows": flows, "flows_made": traffic.flows,
        "accounts_close": records == traffic.packets == metered + dropped, "flows_equal": flows == traffic.flows,
    }  # fmt: skip


def watched(arguments: list[str], folder: Path) -> tuple[int, int, int]:
    """Runs a command; returns its exit code, peak memory of its processes, and peak bytes on disk beside captures."""
    log = (folder / "log").open("w")
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [str(Path(sys.executable).with_name("flowloom")), *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    memory, disk, looks = 0, 0, 0
    while process.poll() is None:
        memory = max(memory, memory_of_session(process.pid))
        if looks % 20 == 0:
            disk = max(disk, size_of(folder) - size_of(folder / "in"))
        looks += 1
        time.sleep(0.1)
    log.close()
    if process.returncode:
        print((folder / "log").read_text()[-1000:], file=sys.stderr)
    return process.returncode, memory, max(disk, size_of(folder) - size_of(folder / "in"))


def memory_of_session(leader: int) -> int:
    """Returns the resident bytes of all processes of a session."""
    pages = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader:
            pages += int(fields[21])
    return pages * resource.getpagesize()


def size_of(folder: Path) -> int:
    """Returns the bytes of all files below a folder; files that vanish meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def main() -> int:
    """Rehearses each part and deletes its files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a hundredth of everything")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where captures and datasets are written; needs 12 GB")
    parser.add_argument("--only", default="", help="name of one part")
    options = parser.parse_args()
    faults = 0
    for part in parts(100 if options.small else 1):
        if options.only not in part.name:
            continue
        if not set(part.options) <= set(FlowDefinition.model_fields):
            print(f"{part.name}: skipped, as flow definitions have no {BOUND}")
            continue
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            finding = rehearse(part, folder, options.workers)
        finally:
            shutil.rmtree(folder)
        print(json.dumps(finding), flush=True)
        faults += finding["faults"]
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
