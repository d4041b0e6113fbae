"""Scores after every packet against the Keras model on the packets so far."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from mixtures import MODELS, C
from written_runs import CLASSES, K, furthest, seeded

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import file_sha256
from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights, unstreamable
from flowloom.trainers.deploy.export_layout import CONTRACT, WEIGHTS
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.models.ple import PLE


def scorer_of(model, slots):
    return StreamingScorer(streaming_structure(model), streaming_weights(model), slots)


def batch_scores(model, packets):
    """Returns the model's scores after each packet of one flow, by task [packets, outputs]."""
    rows = len(packets)
    sequence = np.zeros((rows, K, C), np.float32)
    for row in range(rows):
        seen = min(row + 1, K)
        sequence[row, :seen] = packets[:seen]
    said = model({"sequence": sequence, "length": np.minimum(np.arange(rows) + 1, K).astype(np.int32)})
    return {task: np.asarray(scores) for task, scores in said.items()}


@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_the_keras_model_in_any_order_of_flows(name):
    model = seeded(MODELS[name])
    generator = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign_add(generator.normal(0, 0.3, variable.shape).astype(np.float32))
    flows = generator.normal(size=(5, K + 2, C)).astype(np.float32)  # two packets more than the model sees
    order = generator.permuted(np.repeat(np.arange(5), K + 2))
    places = np.array([np.sum(order[:n] == slot) for n, slot in enumerate(order)])
    scorer = scorer_of(model, 5)
    cuts = [0, 1, 4, 4, 20, len(order)]
    parts = [scorer.update(order[a:b], flows[order[a:b], places[a:b]]) for a, b in itertools.pairwise(cuts)]
    said = {task: np.concatenate([part[task] for part in parts]) for task in model.tasks}
    for slot in range(5):
        mine = {task: scores[order == slot] for task, scores in said.items()}
        assert furthest(mine, batch_scores(model, flows[slot])) < 1e-5
    assert scorer.packets_seen(range(5)).tolist() == [K] * 5


def test_a_slot_that_was_reset_is_a_new_flow():
    model = MODELS["mean"]()
    packets = np.random.default_rng(0).normal(size=(2, K, C)).astype(np.float32)
    scorer = scorer_of(model, 2)
    scorer.update([0, 1], packets[:, 0])
    scorer.reset([0])
    assert scorer.packets_seen([0, 1]).tolist() == [0, 1]
    assert furthest(scorer.update([0] * K, packets[1]), batch_scores(model, packets[1])) < 1e-5
    later = {task: scores[1:] for task, scores in batch_scores(model, packets[1]).items()}
    assert furthest(scorer.update([1] * (K - 1), packets[1, 1:]), later) < 1e-5


def test_it_runs_without_tensorflow(tmp_path):
    model = seeded(MODELS["flatten"])
    np.savez(tmp_path / WEIGHTS, **streaming_weights(model))
    contract = {
        "streaming": {"structure": streaming_structure(model)},
        "sha256": {WEIGHTS: file_sha256(tmp_path / WEIGHTS)},
    }
    (tmp_path / CONTRACT).write_text(json.dumps(contract))
    packets = np.random.default_rng(0).normal(size=(K, C)).astype(np.float32)
    code = f"""
import json, sys
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
scorer = StreamingScorer.load({str(tmp_path)!r}, slots=3)
said = scorer.update([2] * {K}, {packets.tolist()})
heavy = [name for name in ("tensorflow", "keras", "apache_beam") if name in sys.modules]
print(json.dumps([heavy, {{task: scores.tolist() for task, scores in said.items()}}]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy, said = json.loads(done.stdout)
    assert heavy == []
    assert furthest(said, batch_scores(model, packets)) < 1e-5


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    scorer = scorer_of(MODELS["one expert"](), 2)
    for slots, packets, message in [
        ([0], np.zeros((1, C + 1)), r"packets must be \[M, 3\] beside M flow slots, got \(1, 4\) and \(1,\)"),
        ([0, 1], np.zeros((1, C)), "beside M flow slots"),
        ([2], np.zeros((1, C)), "flow slots must be from 0 to 1, got 2 to 2"),
        ([-1], np.zeros((1, C)), "from 0 to 1, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            scorer.update(slots, packets)
    with pytest.raises(ValueError, match="slots must be >= 1, got 0"):
        scorer_of(MODELS["one expert"](), 0)
    with pytest.raises(FlowloomError, match="has no export"):
        StreamingScorer.load(tmp_path)
    (tmp_path / CONTRACT).write_text(json.dumps({"streaming": {"reason": unstreamable(PLE(K, C, CLASSES))}}))
    with pytest.raises(FlowloomError, match="cannot be streamed: the first-level gates of PLE"):
        StreamingScorer.load(tmp_path)
