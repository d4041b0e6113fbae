"""Files of flows from a pipeline of one's own: the same bytes for any batches, all files or none."""

import os
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.dataset.flow_file_ptransforms import WriteFlows
from flowloom.transforms.dataset.flow_files import write_flows

ROWS = 500


@pytest.fixture(scope="module")
def flows() -> pa.Table:
    """Flows with a column of the user's own, in no order."""
    rng = np.random.default_rng(3)
    return pa.table(
        {
            "flow_id": pa.array([rng.bytes(16) for _ in range(ROWS)], pa.binary(16)),
            "start": pa.array(rng.integers(0, 50, ROWS), pa.timestamp("ns", "UTC")),
            "site": [f"site {at % 3}" for at in range(ROWS)],
        }
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("rows", [1_000, 100, 7])
def test_batches_change_no_byte(flows, tmp_path, rows):
    expected = write_flows(flows.to_batches(), str(tmp_path / "one"), 4)
    shuffled = flows.take(np.random.default_rng(rows).permutation(ROWS))
    paths = shuffled.to_batches(rows) | WriteFlows(tmp_path / "other", 4)
    assert sorted(map(os.path.basename, paths)) == sorted(map(os.path.basename, expected))
    assert content(tmp_path / "other") == content(tmp_path / "one")
    assert set(content(tmp_path / "one")) == {f"flows-{at:05d}-of-00004.parquet" for at in range(4)}
    stored = pa.concat_tables([pq.read_table(path) for path in expected])
    order = [("start", "ascending"), ("flow_id", "ascending")]
    assert stored.sort_by(order).equals(flows.sort_by(order).cast(stored.schema))
    assert all(pq.read_table(path).sort_by(order).equals(pq.read_table(path)) for path in expected)


def test_no_flows_are_no_files(flows, tmp_path):
    assert write_flows([], str(tmp_path / "none"), 4) == []
    (path,) = write_flows(flows.slice(0, 1).to_batches(), str(tmp_path / "one"), 4)
    assert pq.read_table(path).num_rows == 1


def test_a_folder_with_flows_and_other_columns_are_refused(flows, tmp_path):
    write_flows(flows.to_batches(), str(tmp_path), 1)
    before = content(tmp_path)
    with pytest.raises(FlowloomError, match=r"must have no flows yet, got flows-00000-of-00001\.parquet; remove it"):
        flows.to_batches() | WriteFlows(tmp_path, 1)
    assert content(tmp_path) == before
    with pytest.raises(FlowloomError, match="must have the column flow_id, got start, site"):
        write_flows(flows.drop_columns(["flow_id"]).to_batches(), str(tmp_path / "a"), 1)
    with pytest.raises(FlowloomError, match="must have the same columns, got flow_id, start, site and flow_id, start,"):
        write_flows([*flows.to_batches(), *flows.drop_columns(["site"]).to_batches()], str(tmp_path / "b"), 1)
    with pytest.raises(FlowloomError, match="files must be at least 1, got 0"):
        WriteFlows(tmp_path, 0)


def test_a_pipeline_that_fails_shows_no_file(flows, tmp_path):
    """One batch lacks a column: if its rows are a file of their own too, none is named."""
    for rows in (400, ROWS - 1):
        batches = [*flows.slice(0, rows).to_batches(), *flows.slice(rows).drop_columns(["site"]).to_batches()]
        pipeline = beam.Pipeline("FnApiRunner")
        pipeline | beam.Create(batches) | WriteFlows(tmp_path, 100_000)
        with pytest.raises(FlowloomError, match="must have the same columns"):
            pipeline.run().wait_until_finish()
    assert not [name for name in content(tmp_path) if name.startswith("flows-")]
