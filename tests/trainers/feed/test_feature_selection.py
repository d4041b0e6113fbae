"""Feature selection against a rule that is applied pair by pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.feature_selection import LARGEST_CORRELATION, distinct_features, selected_columns

NAMES = tuple("abcdef")


def by_hand(rho, most):
    kept = list(range(len(rho)))
    while len(kept) > most:
        pairs = [(round(abs(rho[i][j]), 9), -i, -j) for i in kept for j in kept if i < j]
        strength, _, later = max(pairs)
        assert strength > LARGEST_CORRELATION
        kept.remove(-later)
    return tuple(NAMES[i] for i in kept)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_later_feature_of_the_most_similar_pair_is_dropped_first(seed, most):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(40, 2))
    columns = base[:, rng.integers(0, 2, 6)] * rng.choice([-1, 1], 6) + rng.normal(size=(40, 6)) * 0.1
    rho = np.corrcoef(columns.T)
    try:
        expected = by_hand(rho.tolist(), most)
    except AssertionError:
        with pytest.raises(FlowloomError, match=rf"without a pair of .* got {most}; set most_features"):
            distinct_features(rho, NAMES, most)
    else:
        assert distinct_features(rho, NAMES, most) == expected


def test_few_features_are_kept_unchanged():
    assert distinct_features(np.ones((6, 6)), NAMES, 6) == NAMES
    assert distinct_features(np.ones((6, 6)), NAMES, 1) == ("a",)


def test_constant_columns_and_later_copies_are_dropped_in_any_unit():
    base = np.random.default_rng(3).normal(size=(60, 3))
    values = np.column_stack([base, np.full(60, 5.0), 3 * base[:, 1] + 7])
    assert selected_columns(values, 3).tolist() == [0, 1, 2]
    assert selected_columns(values * [1e200, 1e-9, 1.0, 1.0, 1e9], 3).tolist() == [0, 1, 2]
    with pytest.raises(FlowloomError, match="got 2; set most_features=3"):
        selected_columns(values, 2)


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan]])])
def test_tables_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="values must be a finite table"):
        selected_columns(values, 1)
