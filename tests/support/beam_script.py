"""A pipeline of a user's own, as a script that runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = "tests/corpus/captures/web/nginx/*"

SCRIPT = """
import sys
import apache_beam as beam
import pyarrow.compute as pc
import flowloom as fl

def long_flows(flows):
    return flows.filter(pc.greater(flows["packets_fwd"], 10))

with beam.Pipeline(argv=sys.argv[3:]) if sys.argv[3:] else fl.beam.embedded_pipeline() as pipeline:
    captures = pipeline | beam.Create([sys.argv[1]])
    flows = captures | fl.beam.ReadCaptures() | fl.beam.MeterFlows("default")
    flows | beam.Map(long_flows) | fl.beam.WriteFlows(sys.argv[2])
"""


def run_script(folder: Path, *engine: str) -> pa.Table:
    """Runs the script in a process of its own, and returns the flows that it wrote."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    arguments = [sys.executable, str(script), str(ROOT / CAPTURES), str(folder / "flows"), *engine]
    ended = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "flows").iterdir())])


DATASET_CAPTURES = ROOT / "tests/corpus/captures"
DATASET_MANIFEST = """
name: scripted
captures:
  - {glob: "captures/web/nginx/*", labels: {app: nginx}}
  - {glob: "captures/terminal/ssh/*", labels: {app: ssh}}
tasks:
  app: {kind: multiclass, vocabulary: [nginx, ssh]}
splits: {by: BY, seed: 3}
"""

DATASET_SCRIPT = """
import sys
import apache_beam as beam
import flowloom as fl

app = fl.Task(name="app", kind="multiclass", vocabulary=("nginx", "ssh"))
entries = {"captures/web/nginx/*": {"app": "nginx"}, "captures/terminal/ssh/*": {"app": "ssh"}}
with beam.Pipeline(argv=sys.argv[3:]) if sys.argv[3:] else fl.beam.embedded_pipeline() as pipeline:
    captures = pipeline | beam.Create(list(entries)) | fl.beam.ReadCaptures()
    labels = captures | fl.beam.PlanLabels([app], entries)
    metered = captures | fl.beam.MeterFlows("default").with_accounts()
    labelled = metered.flows | fl.beam.LabelFlows(labels)
    split = labelled | fl.beam.AssignSplits(sys.argv[2], seed=3, labels=labels).with_plan()
    write = fl.beam.WriteShards(sys.argv[1], [app], metered, split.plan, labels, name="scripted")
    split.flows | write
"""


def run_dataset_script(folder: Path, out: str, by: str, *engine: str) -> dict[str, bytes]:
    """Runs the script that writes a dataset in a process of its own, and returns the dataset's files."""
    captures = folder / "captures"
    if not captures.exists():
        captures.symlink_to(DATASET_CAPTURES)
    script = folder / "dataset.py"
    script.write_text(DATASET_SCRIPT)
    arguments = [sys.executable, str(script), out, by, *engine]
    ended = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    return files_of(folder / out)


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
