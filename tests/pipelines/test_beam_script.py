"""A pipeline of a user's own: at most 15 lines read, meter, map and write, on any engine."""

import pyarrow as pa
import pytest
from beam_script import (
    CAPTURES,
    DATASET_MANIFEST,
    DATASET_SCRIPT,
    ROOT,
    SCRIPT,
    files_of,
    run_dataset_script,
    run_script,
)

from flowloom.pipelines.build import BuildOptions, build
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


@pytest.mark.parametrize("by", ["capture", "host_pair"])
def test_a_short_script_writes_the_dataset_of_a_build_to_the_last_byte(tmp_path, by):
    assert len([line for line in DATASET_SCRIPT.splitlines() if line.strip()]) <= 15
    found = run_dataset_script(tmp_path, "scripted", by)
    (tmp_path / "corpus.yaml").write_text(DATASET_MANIFEST.replace("BY", by))
    build(BuildOptions(tmp_path / "corpus.yaml", tmp_path / "built", workers=1))
    expected = files_of(tmp_path / "built")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "built",
        "captures",
        "corpus.yaml",
        "dataset.py",
        "scripted",
    ]
