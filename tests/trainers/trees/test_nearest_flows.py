"""Nearest flows against scikit-learn's exact search."""

import numpy as np
import sklearn.neighbors

from flowloom.trainers.trees.nearest_flows import choose_neighbours, nearest_flows, signed_sizes, thinned, votes


def flows(rows, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(-1500, 1501, (rows, 6)).astype(np.int32)


def test_neighbours_are_those_of_an_exact_search():
    train, rows = flows(300, 0), flows(40, 1)
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=5, algorithm="brute", metric="manhattan").fit(train)
    distances, _ = search.kneighbors(rows)
    found = nearest_flows(train, rows, 5)
    own = np.abs(train[found].astype(np.int64) - rows[:, None]).sum(axis=2)
    np.testing.assert_array_equal(own, distances)


def test_the_first_of_equal_flows_counts_and_missing_ones_are_minus_one():
    train = np.array([[5], [1], [1], [9]], np.int32)
    np.testing.assert_array_equal(nearest_flows(train, np.array([[1], [7]], np.int32), 2), [[1, 2], [0, 3]])
    found = nearest_flows(train[:1], np.array([[4]], np.int32), 3)
    np.testing.assert_array_equal(found, [[0, -1, -1]])
    np.testing.assert_array_equal(votes(found, np.array([2], np.int32), 3), [[0, 0, 1]])


def test_the_nearest_flow_decides_a_tie_of_votes():
    labels = np.array([0, 1, 1, 0], np.int32)
    found = votes(np.array([[1, 0, 2, 3], [0, 1, 3, 2]]), labels, 2)
    assert found.argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(found, 0.5, atol=1e-3)


def test_neighbours_are_chosen_by_macro_f1():
    train_labels = np.array([0, 0, 0, 0, 0, 1], np.int32)
    nearest = np.array([[5, 0, 1, 2, 3], [5, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    assert choose_neighbours(nearest, train_labels, np.array([1, 1, 0]), 2) == (1, {"1": 1.0, "5": 0.25})
    assert choose_neighbours(nearest, train_labels, np.array([0, 0, 0]), 2)[0] == 5
    assert choose_neighbours(nearest[:0], train_labels, np.array([], np.int32), 2) == (1, {})


def test_sizes_have_the_sign_of_the_direction():
    sequence = np.array([[[60, 1, 0], [1500, -1, 3]]], np.float32)
    assert signed_sizes(sequence, ("size", "direction", "gap")).tolist() == [[60, -1500]]
    assert signed_sizes(sequence, ("size", "other", "gap")).tolist() == [[60, 1500]]


def test_rows_are_thinned_evenly():
    assert thinned(5, 7).tolist() == [0, 1, 2, 3, 4]
    found = thinned(1000, 10)
    assert len(found) == 10
    assert set(np.diff(found)) == {111}
