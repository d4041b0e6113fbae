"""Models of packets in units without TensorFlow: whole flows and packet by packet, against the Keras model."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from binned_models import BINNED, POOLS, K
from packets_in_units import FEATURES, units
from written_runs import CLASSES, furthest, seeded

from flowloom.schemas.file_digests import file_sha256
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.deploy.buffered_scorer import BufferedScorer
from flowloom.trainers.deploy.export_layout import CONTRACT, WEIGHTS
from flowloom.trainers.deploy.flow_scorer import MixtureScorer
from flowloom.trainers.deploy.mixture_weights import check_weights
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.deploy.pooled_scorer import PooledScorer
from flowloom.trainers.models.lmmoe import LMMoE


def learned(name):
    """Returns a model with weights unlike the first ones."""
    model = seeded(BINNED[name])
    generator = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign_add(generator.normal(0, 0.3, variable.shape).astype(np.float32))
    return model


def parts(name):
    """Returns a model, and the structure and weights of its streaming form."""
    model = learned(name)
    pruned = prune_experts(model) if isinstance(model, LMMoE) else model
    return model, streaming_structure(pruned), streaming_weights(pruned)


@pytest.mark.parametrize("name", BINNED)
def test_whole_flows_have_the_scores_of_the_keras_model(name):
    model, structure, weights = parts(name)
    check_weights(structure, weights)
    given = units(300, K)  # more than one part of a mixture's flows
    scorer = (PooledScorer if name in POOLS else MixtureScorer)(structure, weights)
    assert furthest(scorer(**given), model(given)) < 1e-5
    assert furthest(inference_form(model)(given), model(given)) < 1e-5
    assert {task: found.shape for task, found in scorer(given["sequence"][:0], given["length"][:0]).items()} == {
        task: (0, 1 if classes == 2 else classes) for task, classes in CLASSES.items()
    }


@pytest.mark.parametrize("name", BINNED)
def test_scores_after_each_packet_equal_the_keras_model_in_any_order_of_flows(name):
    model, structure, weights = parts(name)
    generator = np.random.default_rng(3)
    flows = units(5, K + 2, seed=4)["sequence"]
    flows[:] = units(1, K + 2)["sequence"][:, :1] + generator.integers(0, 2, flows.shape)
    flows[:, 0, FEATURES.index("gap")] = 77.0  # whatever the gap of a first packet is, it has no bin
    order = generator.permuted(np.repeat(np.arange(5), K + 2))
    places = np.array([np.sum(order[:n] == slot) for n, slot in enumerate(order)])
    scorer = (BufferedScorer if name in POOLS else StreamingScorer)(structure, weights, 5)
    cuts = [0, 1, 4, 4, 20, len(order)]
    found = [scorer.update(order[a:b], flows[order[a:b], places[a:b]]) for a, b in itertools.pairwise(cuts)]
    scores = {task: np.concatenate([part[task] for part in found]) for task in CLASSES}
    for slot in range(5):
        length = np.minimum(np.arange(K + 2) + 1, K).astype(np.int32)
        expected = model({"sequence": np.repeat(flows[slot : slot + 1, :K], K + 2, axis=0), "length": length})
        assert furthest({task: each[order == slot] for task, each in scores.items()}, expected) < 1e-5
    assert scorer.packets_seen(range(5)).tolist() == [K] * 5
    scorer.reset([2])
    assert scorer.packets_seen([2, 3]).tolist() == [0, K]
    again = scorer.update([2], flows[2:3, 0])
    expected = model({"sequence": flows[2:3, :K], "length": np.ones(1, np.int32)})
    assert furthest(again, expected) < 1e-5


@pytest.mark.parametrize("name", ["lstms", "pooled experts"])
def test_packets_are_scored_without_tensorflow(tmp_path, name):
    model, structure, weights = parts(name)
    np.savez(tmp_path / WEIGHTS, **weights)
    contract = {"streaming": {"structure": structure}, "sha256": {WEIGHTS: file_sha256(tmp_path / WEIGHTS)}}
    (tmp_path / CONTRACT).write_text(json.dumps(contract))
    given = {**units(1, K), "length": np.array([K], np.int32)}
    code = f"""
import json, sys
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
scorer = StreamingScorer.load({str(tmp_path)!r}, slots=3)
said = scorer.update([2] * {K}, {given["sequence"][0].tolist()})
heavy = [name for name in ("tensorflow", "keras", "apache_beam") if name in sys.modules]
print(json.dumps([heavy, {{task: scores[-1:].tolist() for task, scores in said.items()}}]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy, scores = json.loads(done.stdout)
    assert heavy == []
    assert furthest(scores, model(given)) < 1e-5


@pytest.mark.parametrize(
    ("name", "array", "change"),
    [
        ("lstms", "table_gap", lambda table: table[:-1]),
        ("lstms", "table_gap", None),
        ("lstms", "kernel", lambda kernel: kernel[:, 1:]),
        ("flow net", "table_size", lambda table: table.astype(np.float64)),
        ("flow net", "expert_0_dense_kernel", lambda kernel: kernel[1:]),
        ("flow net", "expert_0_places", None),
        ("flow net", "head_kernel_0", lambda kernel: kernel[:, 1:]),
        ("pooled experts", "gate_kernel", lambda kernel: kernel[:, 1:]),
    ],
)
def test_weights_that_do_not_fit_are_refused(name, array, change):
    _, structure, weights = parts(name)
    changed = {key: value for key, value in weights.items() if key != array}
    with pytest.raises((KeyError, ValueError)):
        check_weights(structure, changed if change is None else {**changed, array: change(weights[array])})


@pytest.mark.parametrize("name", ["lstms", "flow net"])
def test_arguments_that_do_not_fit_are_refused(name):
    _, structure, weights = parts(name)
    kind = BufferedScorer if name in POOLS else StreamingScorer
    with pytest.raises(ValueError, match="slots must be >= 1, got 0"):
        kind(structure, weights, 0)
    scorer = kind(structure, weights, 2)
    with pytest.raises(ValueError, match=r"packets must be \[M, 18\] beside M flow slots, got \(1, 17\)"):
        scorer.update([0], np.zeros((1, 17)))
    with pytest.raises(ValueError, match="flow slots must be from 0 to 1, got 0 to 2"):
        scorer.update([0, 2], np.zeros((2, 18)))
    assert scorer.packets_seen([0]).tolist() == [0]
