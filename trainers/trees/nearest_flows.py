"""k-nearest neighbours on the first packets of flows, exact and in little memory."""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import sklearn.metrics

FIRST_PACKETS = 20
"""Packets whose signed sizes are compared."""
NEIGHBOURS = (1, 5)
"""Numbers of neighbours to choose among."""
NEAREST_ROWS = 20_000
"""Largest number of predicted rows; more are thinned out evenly, as each is compared with every train row."""

SignedSizes = npt.NDArray[np.int32]
"""Sizes in bytes of the first packets, negative for those from the responder, 0 after the last: int32 [N, packets]."""


def signed_sizes(sequence: np.ndarray, features: Sequence[str]) -> SignedSizes:
    """Returns the signed sizes of the first packets of flows.

    Args:
      sequence: float32 [N, k, C], in units.
      features: names of the C features, `size` among them; without `direction` sizes have no sign.
    """
    sizes = sequence[:, :FIRST_PACKETS, features.index("size")]
    if "direction" in features:
        sizes = np.where(sequence[:, :FIRST_PACKETS, features.index("direction")] < 0, -sizes, sizes)
    return np.ascontiguousarray(sizes, np.int32)


def nearest_flows(train: SignedSizes, rows: SignedSizes, neighbours: int) -> npt.NDArray[np.int64]:
    """Returns the train flows with the least sum of absolute differences of signed sizes, int64 [M, neighbours].

    Of equally near flows the first one counts. If there are fewer train flows, the last columns are -1.

    Args:
      train: int32 [N, packets].
      rows: int32 [M, packets].
      neighbours: at least 1.
    """
    found = np.full((len(rows), neighbours), -1, np.int64)
    _find_nearest(train, rows, found)
    return found


@numba.njit(nogil=True, cache=True)
def _find_nearest(train: Any, rows: Any, found: Any) -> None:
    """Fills the nearest rows in ascending order of distance; the sum ends early at the farthest of them."""
    neighbours = found.shape[1]
    distances = np.empty(neighbours, np.int64)
    for row in range(len(rows)):
        distances[:] = np.iinfo(np.int64).max
        for other in range(len(train)):
            distance = np.int64(0)
            for packet in range(train.shape[1]):
                distance += abs(np.int64(train[other, packet]) - np.int64(rows[row, packet]))
                if distance >= distances[neighbours - 1]:
                    break
            if distance < distances[neighbours - 1]:
                place = neighbours - 1
                while place > 0 and distances[place - 1] > distance:
                    distances[place], found[row, place] = distances[place - 1], found[row, place - 1]
                    place -= 1
                distances[place], found[row, place] = distance, other


def votes(nearest: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], classes: int) -> npt.NDArray[np.float32]:
    """Returns the share of each class among the nearest train flows of each row, float32 [M, classes].

    Shares that are equal are decided for the class of the nearest flow among them: nearer flows have slightly more
    weight, which adds up to less than a vote.
    """
    weights = 1.0 - np.arange(nearest.shape[1]) * 1e-4
    found = np.zeros((len(nearest), classes))
    for column, weight in enumerate(weights):
        known = nearest[:, column] >= 0
        np.add.at(found, (np.flatnonzero(known), labels[nearest[known, column]]), weight)
    return (found / np.maximum(found.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)


def choose_neighbours(
    nearest: npt.NDArray[np.int64], train_labels: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[int, dict[str, float]]:
    """Returns the number of neighbours with the highest macro F1 on validation rows, and the macro F1 of each.

    Args:
      nearest: int64 [M, largest of NEIGHBOURS] of the validation rows; without rows the first number is chosen.
      train_labels: int32 [N].
      labels: int32 [M], of the validation rows.
      classes: number of classes.
    """
    if not len(labels):
        return NEIGHBOURS[0], {}
    found = {
        number: float(
            sklearn.metrics.f1_score(
                labels,
                votes(nearest[:, :number], train_labels, classes).argmax(axis=1),
                labels=np.unique(labels),
                average="macro",
                zero_division=0.0,
            )
        )
        for number in NEIGHBOURS
    }
    return max(NEIGHBOURS, key=lambda number: found[number]), {str(number): each for number, each in found.items()}


def thinned(rows: int, most: int = NEAREST_ROWS) -> npt.NDArray[np.int64]:
    """Returns positions of at most `most` of some rows, evenly spread, int64."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.int64)
