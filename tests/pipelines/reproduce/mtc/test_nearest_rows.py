"""Nearest train rows beside a plain loop, and their bands."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowloom.pipelines.reproduce.mtc.nearest_rows import bands, nearest_rows


def rows(most):
    return arrays.arrays(np.uint8, st.tuples(st.integers(1, most), st.just(9)), elements=st.integers(0, 3))


@settings(deadline=None)
@given(rows(12), rows(8))
def test_no_train_row_is_nearer(train, test):
    places, differing = nearest_rows(train, test)
    for row, place, told in zip(test, places, differing, strict=True):
        assert told == (row != train[place]).sum() == min((row != other).sum() for other in train)


@given(st.lists(st.tuples(st.integers(0, 784), st.booleans()), max_size=30))
def test_every_row_is_in_the_band_of_its_distance(told):
    differing = np.array([distance for distance, _ in told], np.int64)
    right = np.array([known for _, known in told], np.bool_)
    found = bands(differing, right)
    assert (found[0].least, found[-1].most) == (0, None)
    assert [band.most + 1 for band in found[:-1]] == [band.least for band in found[1:]]
    for band in found:
        inside = [
            known for distance, known in told if band.least <= distance <= (784 if band.most is None else band.most)
        ]
        assert (band.rows, band.right) == (len(inside), sum(inside))
