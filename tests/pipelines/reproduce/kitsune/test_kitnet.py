"""KitNET against itself written row by row: groups, weights and scores; its size, and what it refuses."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.pipelines.reproduce.kitsune.kitnet import KitNET, KitNETOptions, feature_map
from flowloom.schemas.errors import FlowloomError


@dataclasses.dataclass
class ReferenceAutoencoder:
    """One tied-weight autoencoder, a row at a time."""

    size: int
    options: KitNETOptions

    def __post_init__(self):
        hidden = math.ceil(self.size * self.options.hidden_ratio)
        draw = np.random.RandomState(self.options.seed)
        self.weights = draw.uniform(-1 / self.size, 1 / self.size, (self.size, hidden))
        self.hidden_bias, self.visible_bias = np.zeros(hidden), np.zeros(self.size)
        self.low, self.high = np.full(self.size, np.inf), np.full(self.size, -np.inf)

    def error(self, row: np.ndarray, learn: bool) -> float:
        if learn:
            self.low, self.high = np.minimum(self.low, row), np.maximum(self.high, row)
        x = (row - self.low) / (self.high - self.low + 1e-16)
        y = 1 / (1 + np.exp(-(x @ self.weights + self.hidden_bias)))
        gap = x - 1 / (1 + np.exp(-(self.weights @ y + self.visible_bias)))
        if learn:
            slope = (gap @ self.weights) * y * (1 - y)
            step = np.mean if self.options.biases == "shared" else np.asarray
            self.weights = self.weights + self.options.learning_rate * (np.outer(x, slope) + np.outer(gap, y))
            self.hidden_bias = self.hidden_bias + self.options.learning_rate * step(slope)
            self.visible_bias = self.visible_bias + self.options.learning_rate * step(gap)
        return math.sqrt(np.mean(gap**2))


def reference(groups, options, train, test):
    """Autoencoders after training on rows one by one, their errors while training, and their scores afterwards."""
    ensemble = [ReferenceAutoencoder(len(group), options) for group in groups]
    output = ReferenceAutoencoder(len(groups), options)

    def run(rows, learn):
        return [
            output.error(np.array([a.error(row[g], learn) for a, g in zip(ensemble, groups, strict=True)]), learn)
            for row in rows
        ]

    return [*ensemble, output], run(train, True), run(test, False)


def reference_groups(features: np.ndarray, most: int) -> set[frozenset[int]]:
    """Groups by merging the two nearest of all clusters again and again, and undoing merges that are too large."""
    width = features.shape[1]
    mean, products = np.zeros(width), np.zeros((width, width))
    for count, row in enumerate(features, 1):
        mean = mean + (row - mean) / count
        products += np.outer(row - mean, row - mean)
    norms = np.sqrt(np.diag(products))
    distance = 1 - products / np.outer(norms, norms)
    clusters: list[tuple] = [(i,) for i in range(width)]

    def leaves(cluster):
        return [cluster[0]] if len(cluster) == 1 else leaves(cluster[0]) + leaves(cluster[1])

    def apart(pair):
        one, other = (leaves(clusters[at]) for at in pair)
        return distance[np.ix_(one, other)].min()

    while len(clusters) > 1:
        a, b = min(itertools.combinations(range(len(clusters)), 2), key=apart)
        merged = (clusters[a], clusters[b])
        clusters = [c for at, c in enumerate(clusters) if at not in (a, b)] + [merged]

    def broken(cluster):
        members = leaves(cluster)
        return [frozenset(members)] if len(members) <= most else broken(cluster[0]) + broken(cluster[1])

    return set(broken(clusters[0]))


def traffic(rows: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 3))
    return hidden @ rng.normal(size=(3, width)) + 0.3 * rng.normal(size=(rows, width))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1000), st.integers(2, 12), st.integers(1, 6), st.sampled_from([0.3, 0.75, 1.0]),
    st.sampled_from(["shared", "own"]),
)  # fmt: skip
def test_equals_the_reference(seed, width, cluster, ratio, biases):
    options = KitNETOptions(cluster=cluster, hidden_ratio=ratio, biases=biases)
    train, test = traffic(120, width, seed), 2 * traffic(15, width, seed + 1)
    groups = feature_map(train[:40], cluster)
    kitnet = KitNET(groups, options)
    errors = np.concatenate([kitnet.train(train[40:70]), kitnet.train(train[70:])])
    autoencoders, expected_errors, expected = reference(groups, options, train[40:], test)
    np.testing.assert_allclose(errors, expected_errors, atol=1e-9)
    np.testing.assert_allclose(kitnet.score(test), expected, atol=1e-9)
    for own, other in zip(kitnet.weights, autoencoders, strict=True):
        for got, wanted in zip(own, (other.weights, other.hidden_bias, other.visible_bias), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-9)
    np.testing.assert_array_equal(KitNET.fit(train, 40, options).score(test), kitnet.score(test))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 11), st.integers(1, 12))
def test_groups_are_clusters_of_at_most_so_many_features(seed, width, cluster):
    features = traffic(60, width, seed)
    groups = feature_map(features, cluster)
    assert sorted(np.concatenate(groups)) == list(range(width))
    assert {frozenset(group.tolist()) for group in groups} == reference_groups(features, cluster)


def test_equal_features_meet_first_and_constant_ones_correlate_with_none():
    features = traffic(50, 6, 0)
    features[:, 2] = 0.1
    features[:, 4] = features[:, 1] * 3 + 5
    groups = [set(group.tolist()) for group in feature_map(features, 2)]
    assert {1, 4} in groups
    assert {2} in groups


def test_the_size_is_that_of_its_autoencoders():
    kitnet = KitNET([range(10), range(10, 17)])
    # 10 features, 8 hidden; 7, 6; 2 groups, 2 hidden
    assert kitnet.parameters == (80 + 18) + (42 + 13) + (4 + 4)
    assert kitnet.macs == 2 * (80 + 42 + 4)
    assert kitnet.parameters == sum(w.size + h.size + v.size for w, h, v in kitnet.weights)


def test_what_breaks_the_correlation_scores_high():
    benign = traffic(6_200, 12, 1)
    kitnet = KitNET.fit(benign[:6_000], 500, KitNETOptions(cluster=4))
    same = benign[6_000:]
    other = np.stack([np.roll(column, at) for at, column in enumerate(same.T)], axis=1)  # each feature as it was
    assert np.mean(kitnet.score(other)) > 1.2 * np.mean(kitnet.score(same))


def test_saved_and_loaded_it_goes_on_as_if_nothing_was(tmp_path):
    train, more = traffic(200, 9, 3), traffic(50, 9, 4)
    kitnet = KitNET.fit(train, 50, KitNETOptions(cluster=4, biases="own"))
    kitnet.save(tmp_path / "k.npz")
    again = KitNET.load(tmp_path / "k.npz")
    assert (again.trained, again.options) == (150, kitnet.options)
    np.testing.assert_array_equal(again.score(more), kitnet.score(more))
    np.testing.assert_array_equal(again.train(more), kitnet.train(more))
    kitnet.save(tmp_path / "other.npz")
    again.save(tmp_path / "k.npz")
    assert (tmp_path / "other.npz").read_bytes() == (tmp_path / "k.npz").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"])
def test_a_file_of_another_kind_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "k.npz").write_bytes(content)
    with pytest.raises(FlowloomError, match=r"k\.npz: the file must be a KitNET"):
        KitNET.load(tmp_path / "k.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": 0}, "cluster must be at least 1 feature, got 0"),
        ({"hidden_ratio": 0}, "hidden_ratio must be > 0 and <= 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
        ({"biases": "none"}, "biases must be shared or own, got 'none'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(FlowloomError, match=message):
        KitNETOptions(**options)


def test_invalid_features_are_rejected():
    kitnet = KitNET([[0, 1], [2]])
    with pytest.raises(FlowloomError, match="call train first"):
        kitnet.score(np.zeros((1, 3)))
    with pytest.raises(FlowloomError, match=r"must be \[rows, 3 or more\], got \[4, 2\]"):
        kitnet.train(np.zeros((4, 2)))
    with pytest.raises(FlowloomError, match="must be finite, got nan in row 1"):
        kitnet.train(np.array([[0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(FlowloomError, match="lists of at least one feature"):
        KitNET([[0], []])
    with pytest.raises(FlowloomError, match="map_rows must be at least 2 and leave rows to train on, got 5 of 5"):
        KitNET.fit(np.zeros((5, 2)), 5)
