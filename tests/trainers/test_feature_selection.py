"""Features that are constant or say what another one says go, those by the train rows alone."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from flowloom.trainers.feature_selection import select_features


def table(seed, rows=60, columns=9):
    """Independent columns, of which the last third repeat earlier ones but for a little noise, and a constant one."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, columns))
    for copy in range(columns - columns // 3, columns):
        values[:, copy] = 3 * values[:, copy - columns // 3] + 1e-3 * generator.normal(size=rows) + 7
    return np.column_stack([values, np.full(rows, 5.0)])


@hypothesis.given(st.integers(0, 2**32 - 1))
def test_no_kept_pair_is_alike_and_whatever_is_left_out_has_a_reason(seed):
    values = table(seed)
    kept = select_features(values, 1, alike=0.9)
    correlation = np.abs(np.corrcoef(values[:, :-1], rowvar=False))
    assert not np.any(np.triu(correlation[np.ix_(kept, kept)], 1) > 0.9)
    assert len(values[0]) - 1 not in kept
    for column in set(range(values.shape[1] - 1)) - set(kept):
        assert (correlation[column, :column] > 0.9).any()  # the later one of a pair goes


def test_enough_features_are_enough():
    values = table(1)
    assert select_features(values, 8, alike=0.9).tolist() == select_features(values, 8).tolist()
    assert len(select_features(values, 8)) == 8
    assert select_features(values, 100).tolist() == list(range(9))
    assert len(select_features(values, 3)) == 6  # no more pairs are alike


def test_units_do_not_matter():
    values = table(2)
    assert select_features(values * [1e200, *[1e-9] * 9], 1).tolist() == select_features(values, 1).tolist()


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan]])])
def test_what_is_no_finite_table_is_refused(values):
    with pytest.raises(ValueError, match="values must be a finite table"):
        select_features(values, 1)


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(ValueError, match="alike must be above 0"):
        select_features(table(0), 1, alike=0.0)
