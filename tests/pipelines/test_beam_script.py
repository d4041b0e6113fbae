"""A pipeline of a user's own: at most 15 lines read, meter, map and write, on any engine."""

import pyarrow as pa
from beam_script import CAPTURES, ROOT, SCRIPT, run_script

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.groups import read_captures
from flowloom.transforms.metering.meter_flows import meter_flows


def expected() -> list[dict]:
    metered = meter_flows(read_captures([str(ROOT / CAPTURES)]), FlowDefinition())
    rows = pa.Table.from_batches(metered.flows).to_pylist()
    return sorted((row for row in rows if row["packets_fwd"] > 10), key=lambda row: row["flow_id"])


def test_the_script_is_short_and_writes_the_flows_of_the_captures(tmp_path):
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 15
    found = sorted(run_script(tmp_path).to_pylist(), key=lambda row: row["flow_id"])
    assert len(found) > 20
    assert found == expected()
