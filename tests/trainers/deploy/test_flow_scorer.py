"""Scores of flows side by side against the Keras model and against each flow alone."""

import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from mixtures import MODELS, C
from written_runs import CLASSES, K, furthest, seeded

from flowloom.trainers.conversion.lstm_weights import streaming_structure, streaming_weights
from flowloom.trainers.deploy.flow_scorer import LANES, MixtureScorer


def moved(model):
    """Returns a model with changed weights and biases."""
    generator = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign_add(generator.normal(0, 0.3, variable.shape).astype(np.float32))
    return model


def scorer_of(model):
    return MixtureScorer(streaming_structure(model), streaming_weights(model))


def some_flows(rows, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    length = generator.integers(1, K + 1, rows).astype(np.int32)
    sequence = (scale * generator.normal(size=(rows, K, C))).astype(np.float32)
    sequence[np.arange(K)[None, :] >= length[:, None]] = 0
    return sequence, length


@pytest.fixture(scope="module")
def scorer():
    return scorer_of(moved(seeded(MODELS["flatten"])))


@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_the_keras_model(name):
    model = moved(seeded(MODELS[name]))
    sequence, length = some_flows(2 * LANES + 3)
    expected = model({"sequence": sequence, "length": length})
    assert furthest(scorer_of(model)(sequence, length), expected) < 1e-6


def test_large_features_neither_overflow_nor_differ(scorer):
    model = moved(seeded(MODELS["flatten"]))
    sequence, length = some_flows(50, scale=1e4)
    expected = model({"sequence": sequence, "length": length})
    assert furthest(scorer(sequence, length), expected) < 1e-5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 149), max_size=150), st.integers(0, 3))
def test_a_flow_scores_the_same_beside_any_other_flows(scorer, rows, seed):
    sequence, length = some_flows(150, seed)
    whole, part = scorer(sequence, length), scorer(sequence[rows], length[rows])
    for task in CLASSES:
        np.testing.assert_array_equal(part[task], whole[task][rows])


def test_padding_is_ignored(scorer):
    sequence, length = some_flows(20)
    scratched = sequence.copy()
    scratched[np.arange(K)[None, :] >= length[:, None]] = 99
    for task, scores in scorer(scratched, length).items():
        np.testing.assert_array_equal(scores, scorer(sequence, length)[task])


def test_other_shapes_are_refused(scorer):
    with pytest.raises(ValueError, match=r"flows must be \[B, 4, 3\]"):
        scorer(np.zeros((2, K, C + 1), np.float32), np.ones(2, np.int32))


def test_it_runs_without_tensorflow():
    code = "import sys, flowloom.trainers.deploy.scorer; print({'tensorflow', 'keras'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
