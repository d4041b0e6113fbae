"""Softmax of sums of classes, of each row alone and in a fixed order."""

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def softmax(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the softmax of each row, float64 [B, classes]; a class at minus infinity gets 0."""
    found = np.empty_like(sums)
    _softmax(sums, found)
    return found


@numba.njit(nogil=True, cache=True)
def _softmax(sums: Any, found: Any) -> None:
    """Writes the softmax of each row."""
    for row in range(sums.shape[0]):
        largest, total = sums[row].max(), 0.0
        for column in range(sums.shape[1]):
            found[row, column] = math.exp(sums[row, column] - largest)
            total += found[row, column]
        for column in range(sums.shape[1]):
            found[row, column] /= total
