"""Ceiling of any model: the best scores that rows with equal inputs and different labels leave."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from flowloom.trainers.feed.array_feed import ArrayFeed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.trees.labelled_rows import labelled_rows
from flowloom.trainers.trees.row_columns import in_units

CEILING_ROWS = 200_000
"""Largest number of rows of a task that are compared."""


def label_ceilings(feed: ArrayFeed) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the ceilings of the tasks of a feed, over its first `CEILING_ROWS` labelled rows of each.

    Returns:
      {task: {inputs: ceiling}} (`label_ceiling`), for the inputs of the model (`inputs`) and, for flows, without the
      gaps (`without_gaps`) and with sizes and directions alone (`sizes_and_directions`) where the model reads these.
    """
    units = in_units(feed.features)
    read: dict[str, Callable[..., np.ndarray]] = {"inputs": _raw}
    if isinstance(units, FeatureSpec):
        subsets = {
            "without_gaps": [name for name in units.features if name != "gap"],
            "sizes_and_directions": [name for name in units.features if name in ("size", "direction")],
        }
        for name, features in subsets.items():
            if features and set(features) != set(units.features):
                read[name] = _of_features([units.features.index(each) for each in features])
    found: dict[str, dict[str, dict[str, Any]]] = {task.name: {} for task in feed.dataset.tasks}
    for name, bytes_of in read.items():
        rows = labelled_rows(dataclasses.replace(feed, features=units), CEILING_ROWS, _digests(bytes_of))
        for task, (digests, labels) in rows.items():
            found[task][name] = label_ceiling(np.unique(digests, return_inverse=True)[1], labels)
    return found


def _raw(*inputs: np.ndarray) -> np.ndarray:
    """Returns the bytes of the inputs of each row, uint8 [N, bytes]."""
    flat = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in inputs]
    return np.ascontiguousarray(np.hstack(flat))


def _of_features(places: Sequence[int]) -> Callable[..., np.ndarray]:
    """Returns a function from sequences and lengths to the bytes of some features and of the length."""
    return lambda sequence, length: _raw(np.ascontiguousarray(sequence[:, :, places]), length)


def _digests(bytes_of: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Returns a function from inputs to a digest of each row, S16 [N], so that rows need little memory."""

    def digests(*inputs: np.ndarray) -> np.ndarray:
        rows = bytes_of(*inputs)
        return np.array([hashlib.blake2b(row, digest_size=15).digest() + b"." for row in rows], "S16")

    return digests


def label_ceiling(groups: npt.NDArray[np.int64], labels: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Returns the best scores of a function of the inputs that knows all labels, such as a perfect memory.

    Accuracy is exact: every group of equal inputs gets its most frequent label. Macro F1 is found by ascent from there,
    one group after another until none raises it, as an exact search would try every combination.

    Args:
      groups: int64 [N], equal for rows with equal inputs.
      labels: int32 [N], at least 0.

    Returns:
      `accuracy`, `macro_f1` over the classes that occur, `shared`: the share of rows whose inputs another label has
      too, `rows`, and `distinct`: the number of different inputs. Scores are None without rows.
    """
    found: dict[str, Any] = {"rows": len(labels), "distinct": len(np.unique(groups))}
    if not len(labels):
        return {"accuracy": None, "macro_f1": None, "shared": None, **found}
    classes, codes = np.unique(labels, return_inverse=True)
    pairs, counts = np.unique(np.stack([groups, codes], axis=1), axis=0, return_counts=True)
    _, first = np.unique(pairs[:, 0], return_index=True)
    starts = np.append(first, len(pairs))
    sizes = np.add.reduceat(counts, first)
    largest = np.maximum.reduceat(counts, first)
    chosen = np.array([start + counts[start:stop].argmax() for start, stop in itertools.pairwise(starts)])
    mixed = np.flatnonzero(np.diff(starts) > 1)
    actual = np.bincount(codes, minlength=len(classes)).astype(np.float64)
    right = np.bincount(pairs[chosen, 1], counts[chosen], len(classes))
    predicted = np.bincount(pairs[chosen, 1], sizes, len(classes))
    _raise_f1(starts, pairs[:, 1], counts, sizes, mixed, chosen, actual, right, predicted)
    return {
        "accuracy": float(largest.sum() / len(labels)),
        "macro_f1": float(np.mean(2 * right / (actual + predicted))),
        "shared": float(sizes[mixed].sum() / len(labels)),
        **found,
    }


@numba.njit(nogil=True, cache=True)
def _raise_f1(
    starts: Any, classes: Any, counts: Any, sizes: Any, mixed: Any, chosen: Any, actual: Any, right: Any, predicted: Any
) -> None:
    """Changes the label of one mixed group at a time to that of the highest macro F1, until none changes."""
    changed = True
    while changed:
        changed = False
        for group in mixed:
            before = chosen[group]
            old, size = classes[before], sizes[group]
            right[old] -= counts[before]
            predicted[old] -= size
            best, most = before, 0.0
            for pair in range(starts[group], starts[group + 1]):
                label = classes[pair]
                gain = (
                    2 * (right[label] + counts[pair]) / (actual[label] + predicted[label] + size)
                    - 2 * right[label] / (actual[label] + predicted[label])
                )  # fmt: skip
                if gain > most + 1e-12 or (pair == before and gain > most - 1e-12):
                    best, most = pair, max(gain, most)
            right[classes[best]] += counts[best]
            predicted[classes[best]] += size
            changed = changed or best != before
            chosen[group] = best
