"""Means of repeats and of paired differences against SciPy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.trainers.evaluation.intervals import difference_of, mean_of


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_the_interval_is_that_of_a_t_test(values):
    found = mean_of(values)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    if np.ptp(values) < 1e-6:
        assert found.high - found.low < 1e-3
        return
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_one_repeat_has_no_interval():
    one = difference_of([90.0], [50.0])
    assert (one.mean, one.low, one.high, one.deviation) == (40.0, None, None, None)


def test_pairs_on_the_same_splits_decide_more_than_unpaired_means():
    assert difference_of([1, 50, 90], [0, 49, 89.1]).low > 0


def test_pairs_must_be_equally_many():
    with pytest.raises(ValueError, match="equally many, got 2 and 1"):
        difference_of([1, 2], [1])
    with pytest.raises(ValueError, match="at least one repeat"):
        mean_of([])
