"""Batches in one form, whichever library they come from."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest


@pytest.fixture
def as_arrays() -> Callable[[Iterable], list]:
    """A function that returns batches as one dict of arrays each."""

    def convert(batches: Iterable) -> list[dict[str, np.ndarray]]:
        return [
            {
                f"{kind}/{name}": np.array(array.numpy() if hasattr(array, "numpy") else array)
                for kind, part in zip("ilw", batch, strict=True)
                for name, array in part.items()
            }
            for batch in batches
        ]

    return convert


@pytest.fixture
def assert_same() -> Callable[[list, list], None]:
    """A function that compares batches to the last bit."""

    def compare(found: list, expected: list) -> None:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                assert one[name].dtype == other[name].dtype, name
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)

    return compare
