"""Datasets, runs and exports of Flowloom 0.1 open and give the same figures; retrain states say how to go on.

`fixtures/flowloom-0.1` was written by version 0.1 from day 0 of `daily_traffic`: a retrain state with a dataset, a run
and the meter cache, and two exports of the run.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_traffic import packets, write_day

from flowloom.pipelines.build import BuildOptions, build
from flowloom.pipelines.retrain.retrain import RetrainOptions, retrain
from flowloom.pipelines.score import ScoreOptions, score
from flowloom.pipelines.verify import verify
from flowloom.pipelines.weave import WeaveOptions, weave
from flowloom.schemas.arrow.rows import FLOW_IDS, LATER_COLUMNS
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.models.retrain_state import read_state
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.transforms.weave.weave_plans import WeaveRules

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "flowloom-0.1"
CONTENT_HASH = "216617613955d3ddee4a5dd64cc1f2c09d7d6580f06dbe14ade1353b68339320"
TRAFFIC = {kind: packets(kind, 2) for kind in ("web", "ssh")}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of what 0.1 left, with its captures."""
    folder = tmp_path / "old"
    shutil.copytree(FIXTURE, folder)
    (folder / "in").mkdir()
    arrive(folder, 0)
    return folder


def arrive(folder: Path, day: int) -> None:
    for kind, frames in TRAFFIC.items():
        write_day(folder / "in", kind, frames, day)


def test_a_dataset_is_verified_and_built_again_to_the_same_flows(old):
    """Ids follow another rule since, and so do the splits by them."""
    before = old / "state/versions/0001/dataset"
    assert verify(before).content_hash == CONTENT_HASH
    assert read_card(before).flow_ids == 1
    assert build(BuildOptions(old / "corpus.yaml", old / "again", workers=1)).flow_ids == FLOW_IDS
    assert flows(old / "again") == flows(before)
    with pytest.raises(FlowloomError, match=r"must follow one rule, got version 1 in .* and 2 in .*; build .* again"):
        weave(WeaveOptions((before, old / "again"), old / "merged", WeaveRules("aurora"), workers=1))


def flows(dataset: Path) -> list[str]:
    """Returns all rows of a dataset without their ids and later columns, as texts in sorted order."""
    tables = [pq.ParquetFile(dataset / shard.path).read() for shard in read_card(dataset).shards]
    return sorted(str(row) for table in tables for row in table.drop_columns(["flow_id", *later(table)]).to_pylist())


def later(table: pa.Table) -> list[str]:
    """Returns the columns of a table of flows that those of 0.1 lack."""
    return [name for name in LATER_COLUMNS if name in table.schema.names]


def test_a_run_is_evaluated_to_the_same_figures(old):
    run = old / "state/versions/0001/run"
    found = evaluate(EvaluateOptions(run, dataset=old / "state/versions/0001/dataset"))["tasks"]["app"]
    assert (found["accuracy"], found["macro_f1"]) == (pytest.approx(0.9), pytest.approx(0.8901098901))
    assert found["ece"] == pytest.approx(0.3896983, abs=1e-5)


def test_exports_score_like_their_run(old):
    def scores(model: Path) -> np.ndarray:
        out = old / "scores" / model.name
        score(ScoreOptions(model, (str(old / "in" / "*.pcap"),), out, shards=1, workers=1))
        (part,) = (out / "scores").glob("*.parquet")
        table = pq.ParquetFile(part).read()
        assert table.num_rows == 80
        return np.stack(table["probability_app"].to_pylist())

    expected = scores(old / "state/versions/0001/run")
    for name in ("export", "litert"):
        np.testing.assert_allclose(scores(old / name), expected, atol=1e-5)


def test_a_retrain_state_says_how_to_rebuild(old):
    arrive(old, 1)
    small = ("k=8", "units=4", "experts=1", "epochs=2")
    options = RetrainOptions(old / "state", old / "corpus.yaml", overrides=small, registry="none", workers=1)
    with pytest.raises(FlowloomError, match="begin another state from the same captures"):
        retrain(options)
    assert len(read_state(old / "state").versions) == 1
