"""The train row nearest to each test row: which test rows are nearly copies, and whether a copy has their label."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import sklearn.neighbors

EDGES = (4, 16, 64, 256)
"""Numbers of differing bytes at which bands begin and end."""


@dataclasses.dataclass(frozen=True)
class Band:
    """Test rows that are about as far from their nearest train row.

    Attributes:
      least, most: bytes in which they differ from it; `most` is None in the last band.
      right: those of them whose label it has.
    """

    least: int
    most: int | None
    rows: int
    right: int


def nearest_rows(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each test row the place of the train row that differs in the fewest bytes, and in how many.

    Args:
      train, test: uint8 [N, length] and [M, length].

    Returns:
      int64 [M] and int64 [M]; of equally near rows any.
    """
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute", metric="hamming").fit(train)
    shares, places = search.kneighbors(test)
    return places[:, 0], np.rint(shares[:, 0] * train.shape[1]).astype(np.int64)


def bands(differing: np.ndarray, right: np.ndarray, edges: Sequence[int] = EDGES) -> list[Band]:
    """Count test rows and those that are told right by bands of distance.

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
