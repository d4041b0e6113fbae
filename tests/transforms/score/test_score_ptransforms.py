"""PTransforms of scoring: each gives the same results as its function in memory."""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eager import run_root
from synthetic import synthetic_flows

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS
from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.models.score_card import SCORE_CARD, ScoredModel, read_scores, score_schema
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.io.spill import read_spilled
from flowloom.transforms.io.verdict import FAILURE
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.score.score_inputs import LostRows, RowGroupPart, read_parts
from flowloom.transforms.score.score_ptransforms import ReadParts, ScoreResults, ScoreRows, WriteScoreCard, WriteScores
from flowloom.transforms.score.score_rows import ScoreCounts, score_rows, write_scores
from flowloom.transforms.score.write_score_card import ScorePlan, write_score_card

SHARDS = 2
TASKS = {"app": ("web", "ssh")}
BATCHES = [synthetic_flows(20, seed=at) for at in range(3)]
NO_REJECTS = batch([], REJECTS)


@dataclasses.dataclass
class Scored:
    scores: pa.RecordBatch
    rejected: dict[str, int]
    profile: None = None


class PortScorer:
    """Scores flows by their destination port, and rejects flows of 1 packet."""

    def score(self, rows):
        kept = rows.filter(pa.compute.greater(rows["packets_fwd"], 1))
        schema = score_schema("flows", TASKS)
        share = np.asarray(kept["dst_port"]).astype(np.float32) / 65_536
        columns = [kept[name] for name in schema.names if name in FLOWS.names]
        pairs = np.stack([share, 1 - share], axis=1)
        columns += [pa.array(pairs.tolist(), schema.field("probability_app").type)]
        columns += [pa.array(pairs.argmax(axis=1), schema.field("class_app").type)]
        columns += [pa.array([TASKS["app"][at] for at in pairs.argmax(axis=1)], pa.string())]
        scores = pa.RecordBatch.from_arrays(columns, schema=schema)
        short = rows.num_rows - kept.num_rows
        return Scored(scores, {"empty": short} if short else {})


def a_plan(part_rows):
    model = ScoredModel(
        path="run",
        kind="run",
        recipe="r",
        dataset="d",
        definition=FlowDefinition(),
        tasks=TASKS,
        view="flows",
        engine="e",
    )
    return ScorePlan(model, None, "no profile", 0.12, ("a.parquet",), "keep", "/", True, part_rows)


@pytest.fixture
def parts(tmp_path):
    path = str(tmp_path / "flows.parquet")
    pq.write_table(pa.Table.from_batches(BATCHES), path, row_group_size=25)
    columns = tuple(FLOWS.names)
    return [RowGroupPart(path, at, rows, columns) for at, rows in enumerate((25, 25, 10))]


def ids(batches):
    return sorted(flow for rows in batches for flow in rows["flow_id"].to_pylist())


@pytest.mark.parametrize("workers", [None, 2])
def test_row_groups_are_read_and_lost_ones_counted(parts, workers):
    lost = RowGroupPart("no/such.parquet", 3, 7, ())
    read = run_root(ReadParts([*parts, lost], workers))
    rows, expected = read_parts([*parts, lost])
    assert ids(read.rows) == ids(rows) == ids(BATCHES)
    assert read.lost == expected
    assert expected[0].rows == 7


def test_rows_are_scored_and_spilled_by_shard(tmp_path):
    scored = BATCHES | ScoreRows(functools.partial(PortScorer), str(tmp_path), SHARDS)
    expected = [score_rows(PortScorer(), rows) for rows in BATCHES]
    assert ids(read_spilled([place]) for _, place in scored.scores) == ids(scores for scores, _ in expected)
    total = sum(scored.counts, ScoreCounts())
    assert (total.rows, total.rejected) == (60, sum((counts for _, counts in expected), ScoreCounts()).rejected)


def test_addresses_are_dropped_on_demand(tmp_path):
    scored = BATCHES | ScoreRows(functools.partial(AddressScorer), str(tmp_path), 1, addresses=False)
    assert sum(scored.counts, ScoreCounts()).rejected == {"no addresses": 60}


class AddressScorer(PortScorer):
    """Rejects all flows, which must not have addresses."""

    def score(self, rows):
        assert "src_ip" not in rows.schema.names
        scores = super().score(synthetic_flows(0)).scores
        return Scored(scores, {"no addresses": rows.num_rows})


def test_shards_and_their_card_are_written_once(tmp_path):
    scored = BATCHES | ScoreRows(functools.partial(PortScorer), str(tmp_path / "a"), SHARDS)
    written = scored.scores | WriteScores(str(tmp_path / "a"), SHARDS, {"app": 2})
    scores = [scores for rows in BATCHES for scores in [score_rows(PortScorer(), rows)[0]]]
    whole = write_scores(0, 1, scores, str(tmp_path / "b"), {"app": 2}, "flows")
    assert sum(each.shard.rows for each in written) == whole.shard.rows
    assert sum(each.classes["app"] for each in written).tolist() == whole.classes["app"].tolist()
    account = GroupAccount("g", 60, 3, batch([], CAPTURES), NO_REJECTS)
    results = ScoreResults(written, scored.counts, [account], [])
    (path,) = results | WriteScoreCard(a_plan(0), str(tmp_path / "a"), NO_REJECTS)
    assert path == f"{tmp_path}/a/{SCORE_CARD}"
    write_score_card([whole], scored.counts, [account], [], NO_REJECTS, a_plan(0), str(tmp_path / "b"))
    card, other = read_scores(tmp_path / "a"), read_scores(tmp_path / "b")
    assert card.model_copy(update={"shards": other.shards}) == other
    assert card.captures.flows == 63


def test_faults_are_written_in_place_of_a_card(tmp_path):
    lost = LostRows(7, NO_REJECTS)
    results = ScoreResults([], [], [], [lost])
    (path,) = results | WriteScoreCard(a_plan(8), str(tmp_path), NO_REJECTS)
    assert path == write_score_card([], [], [], [lost], NO_REJECTS, a_plan(8), str(tmp_path))
    assert (tmp_path / FAILURE).read_text() == (
        "rows must add up, got 8 metered or read, 7 given to the model, 7 scored or rejected"
    )
