"""Nearest train row of each test row: finds test rows that are nearly copies."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import sklearn.neighbors

EDGES = (4, 16, 64, 256)
"""Numbers of differing bytes at which bands begin and end."""


@dataclasses.dataclass(frozen=True)
class Band:
    """Test rows at a similar distance from their nearest train row.

    Attributes:
      least, most: range of the number of differing bytes; `most` is None in the last band.
      rows: number of test rows in the band.
      right: number of those whose label the nearest train row has.
    """

    least: int
    most: int | None
    rows: int
    right: int


def nearest_rows(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the train row that differs from each test row in the fewest bytes.

    Args:
      train, test: uint8 [N, length] and [M, length].

    Returns:
      Positions of train rows and numbers of differing bytes, int64 [M] each; any of several equally near rows.
    """
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute", metric="hamming").fit(train)
    shares, places = search.kneighbors(test)
    return places[:, 0], np.rint(shares[:, 0] * train.shape[1]).astype(np.int64)


def bands(differing: np.ndarray, right: np.ndarray, edges: Sequence[int] = EDGES) -> list[Band]:
    """Counts test rows and right predictions by bands of distance.

    Args:
      differing: int64 [M], of `nearest_rows`.
      right: bool [M].
    """
    found = []
    for least, most in zip((0, *edges), (*edges, math.inf), strict=True):
        inside = (differing >= least) & (differing < most)
        last = None if math.isinf(most) else int(most) - 1
        found.append(Band(least, last, int(inside.sum()), int(right[inside].sum())))
    return found
