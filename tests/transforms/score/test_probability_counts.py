"""Counts of probabilities add up over shards, and every probability has a bin."""

import numpy as np
import pytest

from flowloom.schemas.models.score_card import PROBABILITY_BINS
from flowloom.transforms.score.probability_counts import class_probabilities, count_probabilities


def test_counts_of_parts_are_the_counts_of_all():
    draws = np.random.default_rng(2)
    scores = draws.dirichlet(np.ones(4), 500).astype(np.float32)
    chosen = scores.argmax(axis=1)
    whole = class_probabilities([count_probabilities(scores, chosen)], "abcd")
    parts = [count_probabilities(scores[at::3], chosen[at::3]) for at in range(3)]
    assert class_probabilities(parts, "abcd") == whole
    assert sum(found.mean for found in whole.values()) == pytest.approx(1, abs=1e-5)
    assert sum(sum(found.bins) for found in whole.values()) == 500


def test_the_ends_of_the_scale_have_bins_and_no_rows_have_no_means():
    found = class_probabilities([count_probabilities(np.array([[1.0, 0.0]], np.float32), np.array([0]))], "ab")
    assert found["a"].bins[PROBABILITY_BINS - 1] == 1
    assert (found["a"].mean, found["a"].predicted, found["b"].mean, found["b"].predicted) == (1, 1, 0, None)
    empty = count_probabilities(np.empty((0, 2), np.float32), np.empty(0, np.int32))
    assert class_probabilities([empty], "ab") == {}
