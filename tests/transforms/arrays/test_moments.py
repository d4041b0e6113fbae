"""Moments are exact: any cuts and merges of values give the same bits."""

import fractions
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.transforms.arrays.moments import Moments, channel_moments, sequence_moments
from flowloom.transforms.arrays.sums import sum_by_key

values = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50)


@settings(deadline=None)  # the first call compiles
@given(values)
def test_sums_are_exact(numbers):
    moments = channel_moments(np.array(numbers, np.int64))
    assert moments.total == sum(numbers)
    assert moments.total_squares == sum(number**2 for number in numbers)
    statistics = moments.statistics()
    mean = fractions.Fraction(sum(numbers), len(numbers))
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    assert statistics.mean == float(mean)
    assert statistics.std == pytest.approx(math.sqrt(variance), rel=1e-12)
    logs = [math.log1p(max(number, 0)) for number in numbers]  # of the order of ten: 2^-33 is far below
    assert statistics.log1p_mean == pytest.approx(np.mean(logs), abs=1e-8)
    assert statistics.log1p_std == pytest.approx(np.std(logs), abs=1e-4)
    assert (statistics.minimum, statistics.maximum) == (float(min(numbers)), float(max(numbers)))


@settings(deadline=None)  # the first call compiles
@given(values, st.integers(0, 50))
def test_merging_is_addition(numbers, cut):
    array = np.array(numbers, np.int64)
    assert channel_moments(array[:cut]) + channel_moments(array[cut:]) == channel_moments(array)


def test_shards_merge_to_the_whole():
    flows = synthetic_flows(500)
    parts = [sequence_moments(flows.slice(start, 100)) for start in (300, 0, 400, 200, 100)]
    whole = sequence_moments(flows)
    assert sum_by_key(parts) == whole
    assert set(whole) == set(SEQUENCES)
    sizes = np.concatenate(flows["pkt_size"].to_pylist())
    assert whole["pkt_size"].statistics().mean == pytest.approx(sizes.mean())
    assert whole["pkt_size"].statistics().std == pytest.approx(sizes.std())


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16])
def test_narrow_channels_are_summed_like_wide_ones(kind):
    limits = np.iinfo(kind)
    numbers = np.random.default_rng(1).integers(limits.min, limits.max + 1, 5000).astype(kind)
    assert channel_moments(numbers) == channel_moments(numbers.astype(np.int64))


def test_long_channels_are_summed_exactly():
    numbers = np.arange(200_001, dtype=np.int64) << 40
    moments = channel_moments(numbers)
    assert moments.total_squares == sum(number**2 for number in map(int, numbers))


def test_nothing_has_no_statistics():
    assert channel_moments(np.empty(0, np.uint8)) == Moments()
    with pytest.raises(ValueError, match="at least 1 value, got 0"):
        Moments().statistics()
