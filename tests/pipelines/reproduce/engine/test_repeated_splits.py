"""Repeated splits: each class by its share, no flow twice, for any order of the rows."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.pipelines.reproduce.engine.repeated_splits import SHARES, derived_seed, repeated_split


def ids(rows):
    return pa.array([hashlib.sha256(str(row).encode()).digest()[:16] for row in range(rows)], pa.binary(16))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 4), max_size=120), st.integers(0, 3), st.integers(0, 2**31))
def test_each_class_is_split_by_its_shares_and_each_flow_once(labels, repeat, seed):
    labels = np.array(labels, np.int32)
    split = repeated_split(ids(len(labels)), labels, repeat, seed)
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(len(labels)))
    for code in np.unique(labels):
        total = (labels == code).sum()
        for rows, share in ((split.validation, SHARES[1]), (split.test, SHARES[2])):
            assert abs((labels[rows] == code).sum() - share * total) <= 0.5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_the_split_of_a_flow_does_not_depend_on_the_order_of_the_rows(labels, random):
    labels, flow_ids = np.array(labels, np.int32), ids(len(labels))
    order = np.array(random.sample(range(len(labels)), len(labels)))
    one = repeated_split(flow_ids, labels, 0, 7)
    other = repeated_split(flow_ids.take(pa.array(order)), labels[order], 0, 7)
    assert set(order[other.test]) == set(one.test)
    assert set(order[other.validation]) == set(one.validation)


def test_repeats_and_seeds_give_other_splits():
    labels = np.zeros(200, np.int32)
    tests = {tuple(repeated_split(ids(200), labels, repeat, seed).test) for repeat in range(3) for seed in (7, 8)}
    assert len(tests) == 6
    assert len({derived_seed(*numbers) for numbers in ((7, 0), (0, 7), (7, 0, 1), (7, 1))}) == 4


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (0.8, 0.2, 0.0)])
def test_shares_must_fit(shares):
    with pytest.raises(ValueError, match="shares must be above 0 and sum to 1"):
        repeated_split(ids(3), np.zeros(3, np.int32), 0, 7, shares)
