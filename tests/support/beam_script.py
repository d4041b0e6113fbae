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
