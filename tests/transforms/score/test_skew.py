"""Skew: properties of the divergence, and the effect of small samples."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from flowloom.schemas.models.feature_profile import PACKETS, FeatureProfile, bin_count, bin_name
from flowloom.transforms.score.skew import expected_divergence, jensen_shannon, model_skew

K = 20
histograms = st.lists(st.integers(0, 50), min_size=6, max_size=6).filter(any)


def profile(sizes, rows=None, classes=None):
    """Returns a profile of one feature from the counts of its first bins."""
    bins = np.zeros(bin_count("pkt_size", K), int)
    bins[: len(sizes)] = sizes
    return FeatureProfile(k=K, rows=rows or int(sum(sizes)), counts={"pkt_size": bins.tolist()}, classes=classes or {})


@given(histograms, histograms, st.integers(1, 9))
def test_divergence_is_symmetric_bounded_and_of_shares(a, b, times):
    a, b = np.array(a, float), np.array(b, float)
    assert jensen_shannon(a, a * times) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 <= jensen_shannon(a, b) <= 1


def test_histograms_without_a_common_bin_are_one_bit_apart():
    assert jensen_shannon(np.array([3.0, 0]), np.array([0, 5.0])) == 1


def test_small_samples_of_one_distribution_diverge_as_expected():
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(30))
    pairs = [(generator.multinomial(300, shares), generator.multinomial(5_000, shares)) for _ in range(300)]
    found = np.mean([jensen_shannon(a.astype(float), b.astype(float)) for a, b in pairs])
    assert found == pytest.approx(expected_divergence(30, 300, 5_000), rel=0.15)


def test_chance_is_not_skew_but_another_distribution_is():
    trained = profile([4000] * 50)
    draws = np.random.default_rng(1).multinomial(60, np.full(50, 1 / 50))
    by_chance = model_skew(trained, profile(draws), 0.1)
    assert by_chance.features[0].jensen_shannon > 0.1
    assert not by_chance.skewed
    assert model_skew(trained, profile([60] * 10), 0.1).skewed == ("pkt_size",)


def test_values_absent_from_training_are_counted_and_named():
    found = model_skew(profile([10, 0, 10]), profile([5, 5, 0, 2]), 0.5).features[0]
    assert (found.unseen, found.values) == (7, 12)
    assert found.l_infinity == pytest.approx(0.5)
    assert found.largest_bin == "2"


def test_classes_are_compared_with_the_labels_of_the_training():
    trained = profile([9], classes={"app": {"web": 5, "ssh": 5}, "none": {"a": 0, "b": 0}})
    (found,) = model_skew(trained, profile([9], classes={"app": {"web": 10, "ssh": 0}, "none": {"a": 1}}), 0.1).classes
    assert (found.name, found.l_infinity, found.unseen) == ("app", 0.5, 0)


def test_without_scored_rows_there_is_no_skew():
    assert model_skew(profile([1]), FeatureProfile(k=K, rows=0, counts={}), 0.1) is None


def test_bins_are_named_by_their_values():
    assert [bin_name(PACKETS, at, K) for at in (0, K)] == ["1", "above 20"]
    assert [bin_name("pkt_gap_ns", at, K) for at in (0, 1, 2, 3)] == ["0", "1", "2 to 3", "4 to 7"]
    assert [bin_name("pkt_dir", at, K) for at in (1, 255)] == ["1", "-1"]
    assert bin_name("pkt_size", 59, K) == "57344 to 65535"
