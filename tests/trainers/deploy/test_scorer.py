"""Scores of a batch keep the order of rows, and rows without a score are counted by reason."""

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import FLOWS, SEQUENCES, packet_schema
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.models.score_card import score_schema
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.scorer import PIECE_ROWS, Scorer
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec

TASKS = {"app": ("web", "ssh", "voip"), "attack": ("negative", "positive")}
K = 5
FLOW_SPEC = FeatureSpec(k=K, channels=("size", "direction"), scaling="fixed")


@pytest.fixture
def scorer_of(monkeypatch, tmp_path):
    """Returns a function from a row spec and a model's inference function to a scorer."""

    def make(spec, said):
        monkeypatch.setattr(DeployedModel, "load", lambda self: said)
        model = DeployedModel(
            root=tmp_path, kind="run", recipe="x", tasks=TASKS, features=spec, definition=FlowDefinition(k=K),
            dataset="0", profile=None, profile_missing="x", engine="lanes",
        )  # fmt: skip
        return Scorer(model)

    return make


def by_first(values):
    """Predicts class 0, 1 or 2 from a value modulo 3, and an attack if it is odd."""
    app = np.eye(3, dtype=np.float32)[values.astype(int) % 3]
    return {"app": app, "attack": (values.astype(int) % 2).astype(np.float32)[:, None]}


def by_length(sequence, length):
    return by_first(length)


def test_rows_keep_their_order_over_pieces(scorer_of):
    flows = synthetic_flows(PIECE_ROWS + 7, k=9)
    found = scorer_of(FLOW_SPEC, by_length).score(flows)
    lengths = np.minimum([len(row) for row in flows["pkt_size"].to_pylist()], K)
    assert found.scores.schema == score_schema("flows", TASKS)
    assert found.scores["flow_id"].equals(flows["flow_id"])
    assert found.scores["class_app"].to_pylist() == (lengths % 3).tolist()
    assert found.scores["probability_attack"].to_pylist() == [[1.0 - odd, float(odd)] for odd in lengths % 2]
    assert (found.rejected, found.profile.rows) == ({}, flows.num_rows)


def test_rows_that_cannot_be_scored_are_counted_by_their_first_reason(scorer_of):
    flows = synthetic_flows(8, k=9).to_pylist()
    flows[1]["pkt_dir"] = None
    flows[2] |= {name: [] for name in SEQUENCES}
    flows[4]["pkt_dir"] = flows[4]["pkt_dir"] + [1]
    flows[5]["pkt_size"] = None
    schema = pa.schema([field.with_nullable(True) for field in FLOWS])
    batch = pa.Table.from_pylist(flows, schema).to_batches()[0]

    def said(sequence, length):
        scores = by_first(length)
        scores["app"][0] = np.nan
        return scores

    found = scorer_of(FLOW_SPEC, said).score(batch)
    assert found.rejected == {"unknown-feature": 2, "empty": 1, "malformed": 1, "not-finite": 1}
    assert found.scores["flow_id"].to_pylist() == [flows[at]["flow_id"] for at in (3, 6, 7)]
    assert found.profile.rows == 3


def test_columns_that_the_input_lacks_are_null(scorer_of):
    flows = synthetic_flows(4, k=9).select(["flow_id", "group", "pkt_size", "pkt_dir"])
    found = scorer_of(FLOW_SPEC, by_length).score(flows)
    assert found.scores.num_rows == 4
    assert found.scores["src_ip"].null_count == found.scores["start"].null_count == 4


def test_an_empty_batch_has_no_scores(scorer_of):
    found = scorer_of(FLOW_SPEC, by_length).score(synthetic_flows(3).slice(0, 0))
    assert (found.scores.num_rows, found.rejected, found.profile.rows) == (0, {}, 0)


def test_packets_are_scored_by_their_bytes(scorer_of):
    rows = {
        "flow_id": [bytes([at]) * 16 for at in range(3)],
        "group": ["g"] * 3,
        "time": [None] * 3,
        "record": [7, 8, 9],
        "bytes": [bytes([at]) * 6 for at in range(3)],
    }
    schema = pa.schema([field.with_nullable(True) for field in packet_schema(6)])
    found = scorer_of(ByteSpec(length=4), lambda content: by_first(content[:, 3])).score(
        pa.RecordBatch.from_pydict(rows, schema)
    )
    assert found.scores.schema.names[:4] == ["flow_id", "group", "time", "record"]
    assert found.scores["class_app"].to_pylist() == [0, 1, 2]
    assert found.profile is None


@pytest.mark.parametrize(
    ("missing", "rejected"), [("mean", {"not-finite": 1}), ("refuse", {"unknown-feature": 2, "not-finite": 1})]
)
def test_tables_are_scored_where_their_features_are_numbers(scorer_of, missing, rejected):
    spec = TableSpec(moments={"a": (0.0, 1.0), "b": (0.0, 1.0)}, scaling="none", missing=missing)
    rows = {
        "flow_id": [bytes([at]) * 16 for at in range(4)],
        "group": ["g"] * 4,
        "a": [1.0, None, np.inf, 4.0],
        "b": [1.0, 2.0, 3.0, np.nan],
    }
    schema = pa.schema([field.with_nullable(True) for field in feature_schema(("a", "b"))])
    batch = pa.RecordBatch.from_pydict({name: rows[name] for name in schema.names}, schema)
    found = scorer_of(spec, lambda features: by_first(features[:, 0])).score(batch)
    assert found.rejected == rejected
    assert found.scores.num_rows == 4 - sum(rejected.values())
