"""Ensembles of trees as plain arrays, and the compiled loop that walks them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numba
import numpy as np
import numpy.typing as npt

from flowloom.trainers.trees.class_scores import softmax

Link = Literal["mean", "softmax"]
"""Probabilities from the summed values of leaves: divided by the number of trees (forests), or their softmax
(boosting)."""
LEAF = -1
"""Feature of a leaf."""
TREE_ARRAYS: dict[str, type[np.generic]] = {
    "roots": np.int32, "feature": np.int32, "threshold": np.float32, "left": np.int32, "right": np.int32,
    "output": np.int32, "value": np.float64, "base": np.float64,
}  # fmt: skip
"""Type of each array of a `TreeEnsemble`."""


@dataclasses.dataclass(frozen=True)
class TreeEnsemble:
    """Trees whose leaves add values to classes.

    A row goes left in a node if its feature is at most the threshold. As features are float32, thresholds are rounded
    down to float32, which changes no decision. Full trees end in leaves of one class, so leaves have a list of classes
    and values, without zeros.

    Attributes:
      link: probabilities from sums.
      roots: int32 [trees], the first node of each tree.
      feature: int32 [nodes], the column that a node reads; `LEAF` in a leaf.
      threshold: float32 [nodes].
      left, right: int32 [nodes], the nodes that follow, which come later in the arrays; in a leaf the range of its
        entries.
      output: int32 [entries], the class that an entry adds to.
      value: float64 [entries], the number that it adds.
      base: float64 [classes], the sums before the first tree; minus infinity for a class that no train row has.
    """

    link: Link
    roots: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    output: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]

    def sums(
        self, rows: npt.NDArray[np.float32], first: int = 0, start: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float64]:
        """Returns the sums of the trees' values from tree `first` on, added in their order: float64 [B, classes].

        Args:
          rows: float32 [B, columns].
          first: number of trees to skip.
          start: float64 [B, classes], the sums to begin with, which are not changed; None: `base`.
        """
        sums = np.tile(self.base, (len(rows), 1)) if start is None else start.copy()
        add_leaves(
            np.ascontiguousarray(rows, np.float32), self.roots[first:], self.feature, self.threshold, self.left,
            self.right, self.output, self.value, sums,
        )  # fmt: skip
        return sums

    def probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Returns the probability of each class, float64 [B, classes]; a row's does not depend on other rows."""
        return self.linked(self.sums(rows))

    def linked(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the probabilities of sums, float64 [B, classes]."""
        return sums / len(self.roots) if self.link == "mean" else softmax(sums)

    def first(self, trees: int) -> Self:
        """Returns the ensemble of the first trees alone."""
        nodes = len(self.feature) if trees >= len(self.roots) else int(self.roots[trees])
        leaves = np.flatnonzero(self.feature[:nodes] == LEAF)
        entries = int(self.right[leaves].max(initial=0))
        kept = {name: getattr(self, name)[:nodes] for name in ("feature", "threshold", "left", "right")}
        return dataclasses.replace(
            self, roots=self.roots[:trees], output=self.output[:entries], value=self.value[:entries], **kept
        )

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in TREE_ARRAYS}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.base)

    @property
    def parameters(self) -> int:
        """Number of thresholds and values of leaves."""
        return int((self.feature != LEAF).sum()) + len(self.value)

    @property
    def operations(self) -> int:
        """Largest number of comparisons and additions for one row."""
        below = np.where(self.feature == LEAF, self.right - self.left, 0).astype(np.int64)
        _measure_paths(self.feature, self.left, self.right, below)
        return int(below[self.roots].sum())

    @classmethod
    def of(cls, link: Link, arrays: Mapping[str, np.ndarray], classes: int, columns: int) -> Self:
        """Returns an ensemble from arrays that may come from anyone, after all checks that the loop relies on.

        Raises:
          ValueError: if an array is missing or has another type, or an index points outside.
        """
        for name, kind in TREE_ARRAYS.items():
            if name not in arrays or arrays[name].dtype != kind or arrays[name].ndim != 1:
                raise ValueError(f"{name} must be an array of {np.dtype(kind)} in one dimension")
        found = cls(link, **{name: np.ascontiguousarray(arrays[name]) for name in TREE_ARRAYS})
        nodes, entries = len(found.feature), len(found.value)
        if (
            any(len(each) != nodes for each in (found.threshold, found.left, found.right))
            or len(found.output) != entries
        ):
            raise ValueError("threshold, left and right must have a value for each node, and output for each value")
        if len(found.base) != classes or not np.isfinite(found.value).all() or np.isnan(found.threshold).any():
            raise ValueError(f"base must have {classes} numbers, and values and thresholds must be finite")
        if np.isnan(found.base).any() or (found.base == np.inf).any() or not (found.base > -np.inf).any():
            raise ValueError("base must have a finite number, and no other ones than those and minus infinity")
        if link == "mean" and (not len(found.roots) or (found.base != 0).any() or (found.value < 0).any()):
            raise ValueError("a forest must have a tree, a base of 0 and no negative values")
        leaf = found.feature == LEAF
        place = np.arange(nodes)
        outside = [
            ((found.roots < 0) | (found.roots >= nodes)).any(),
            (np.diff(found.roots) <= 0).any(),
            ((found.feature < LEAF) | (found.feature >= columns)).any(),
            ((found.output < 0) | (found.output >= classes)).any(),
            (leaf & ((found.left < 0) | (found.right < found.left) | (found.right > entries))).any(),
            (~leaf & ((found.left <= place) | (found.left >= nodes))).any(),
            (~leaf & ((found.right <= place) | (found.right >= nodes))).any(),
        ]
        if any(outside):
            raise ValueError("roots, features, nodes and entries must lie inside, and nodes after their parent")
        return found


@numba.njit(nogil=True, cache=True)
def add_leaves(
    rows: Any, roots: Any, feature: Any, threshold: Any, left: Any, right: Any, output: Any, value: Any, sums: Any
) -> None:
    """Adds to the sums of each row the values of its leaf in each tree, tree after tree."""
    for tree in range(len(roots)):
        for row in range(len(rows)):
            node = roots[tree]
            while feature[node] >= 0:
                node = left[node] if rows[row, feature[node]] <= threshold[node] else right[node]
            for entry in range(left[node], right[node]):
                sums[row, output[entry]] += value[entry]


@numba.njit(nogil=True, cache=True)
def _measure_paths(feature: Any, left: Any, right: Any, below: Any) -> None:
    """Writes the most comparisons and additions from each node on; children come after parents."""
    for node in range(len(feature) - 1, -1, -1):
        if feature[node] >= 0:
            below[node] = 1 + max(below[left[node]], below[right[node]])


def round_down(thresholds: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns the largest float32 that is at most each threshold, so that the same float32 numbers are at most both."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PlainTree:
    """One tree with places of its own: the nodes of `TreeEnsemble` from 0, and entries of leaves in CSR form.

    Attributes:
      feature, threshold, left, right: [nodes]; what `left`, `right` and `threshold` hold in leaves does not matter.
      leaf_entries: int64 [nodes], number of entries, 0 in inner nodes.
      output, value: [entries], in the order of the nodes.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf_entries: np.ndarray
    output: np.ndarray
    value: np.ndarray


def joined(trees: Sequence[PlainTree], link: Link, base: np.ndarray) -> TreeEnsemble:
    """Returns the ensemble of some trees."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in TREE_ARRAYS}
    nodes, entries = 0, 0
    for tree in trees:
        leaf = tree.feature == LEAF
        ends = entries + np.cumsum(tree.leaf_entries)
        parts["roots"].append(np.array([nodes]))
        parts["feature"].append(tree.feature)
        parts["threshold"].append(np.where(leaf, np.float32(0), round_down(np.where(leaf, 0, tree.threshold))))
        parts["left"].append(np.where(leaf, ends - tree.leaf_entries, tree.left + nodes))
        parts["right"].append(np.where(leaf, ends, tree.right + nodes))
        parts["output"].append(tree.output)
        parts["value"].append(tree.value)
        nodes, entries = nodes + len(tree.feature), entries + len(tree.value)
    parts["base"] = [base]
    arrays = {
        name: np.concatenate([np.empty(0, kind), *parts[name]]).astype(kind) for name, kind in TREE_ARRAYS.items()
    }
    return TreeEnsemble(link, **arrays)
