"""KitNET: the ensemble of autoencoders of Kitsune, trained one packet at a time on benign traffic.

Source: Mirsky et al., "Kitsune: An Ensemble of Autoencoders for Online Network Intrusion Detection", NDSS 2018, section
IV; details that the paper does not give follow the authors' code (Kitsune-py).
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import numba
import numpy as np
from scipy.cluster.hierarchy import linkage, to_tree

from flowloom.schemas.errors import FlowloomError

_SPREAD = 1e-16
"""Added to the range of a feature, so that a constant feature is scaled to 0."""
_DISTANCE_DECIMALS = 12
"""Decimals of distances: rounding makes ties of equal features independent of the order of summation."""

Biases = Literal["shared", "own"]


@dataclasses.dataclass(frozen=True)
class KitNETOptions:
    """Size and learning of a KitNET; larger sizes cost more and detect more.

    Attributes:
      cluster: largest number of features of one autoencoder (m).
      hidden_ratio: hidden units of an autoencoder per feature; their number is rounded up.
      learning_rate: the learning rate of the stochastic gradient descent.
      biases: `shared` moves all biases of a layer by the mean of their gradients, as in the authors' code; `own` moves
        each by its own gradient.
      seed: seed of the initial weights; the default is that of the authors' code.
    """

    cluster: int = 10
    hidden_ratio: float = 0.75
    learning_rate: float = 0.1
    biases: Biases = "shared"
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.cluster < 1:
            raise FlowloomError(f"cluster must be at least 1 feature, got {self.cluster}")
        if not 0 < self.hidden_ratio <= 1:
            raise FlowloomError(f"hidden_ratio must be > 0 and <= 1, got {self.hidden_ratio:g}")
        if not self.learning_rate > 0:
            raise FlowloomError(f"learning_rate must be > 0, got {self.learning_rate:g}")
        if self.biases not in get_args(Biases):
            raise FlowloomError(f"biases must be shared or own, got {self.biases!r}")


DEFAULT_OPTIONS = KitNETOptions()


def feature_map(features: np.ndarray, cluster: int) -> list[np.ndarray]:
    """Groups correlated features, at most `cluster` in a group (the feature mapper of the paper).

    Features are clustered by single linkage of 1 - r, where r is the correlation of their residuals against the running
    means. Clusters that are too large are replaced by the two clusters that they were merged from.

    Args:
      features: float64 [N, n], in order of arrival.
      cluster: largest number of features of a group.

    Returns:
      int64 positions of the features of each group, all of them together a permutation of n.
    """
    rows, width = features.shape
    if width == 1:
        return [np.zeros(1, np.int64)]
    residuals = features - np.cumsum(features, axis=0) / np.arange(1, rows + 1)[:, None]  # [N, n]
    products = residuals.T @ residuals  # [n, n]
    norms = np.sqrt((residuals**2).sum(axis=0))
    scale = np.outer(norms, norms)
    correlation = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    distance = np.round(np.maximum(1 - correlation, 0), _DISTANCE_DECIMALS)
    pending = [to_tree(linkage(distance[np.triu_indices(width, 1)], "single"))]
    groups = []
    while pending:
        node = pending.pop()
        if node.count <= cluster:
            groups.append(np.array(node.pre_order(), np.int64))
        else:
            pending += [node.right, node.left]
    return groups


@dataclasses.dataclass(frozen=True)
class _Stack:
    """Stacked autoencoders with tied weights, padded to the largest: a autoencoders, m visible and h hidden units.

    Attributes:
      visible, hidden: int64 [a], number of units of each autoencoder.
      weights: float64 [a, m, h].
      hidden_bias, visible_bias: float64 [a, h] and [a, m].
      low, high: float64 [a, m], range of each input so far.
    """

    visible: np.ndarray
    hidden: np.ndarray
    weights: np.ndarray
    hidden_bias: np.ndarray
    visible_bias: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[int], options: KitNETOptions) -> Self:
        """Returns untrained autoencoders; each draws its weights from its own generator."""
        visible = np.array(sizes, np.int64)
        hidden = np.ceil(visible * options.hidden_ratio).astype(np.int64)
        a, m, h = len(sizes), int(visible.max()), int(hidden.max())
        weights = np.zeros((a, m, h))
        for own, v, k in zip(weights, visible, hidden, strict=True):
            draw = np.random.RandomState(options.seed)  # the generator of the authors' code
            own[:v, :k] = draw.uniform(-1 / v, 1 / v, (v, k))
        low, high = np.full((a, m), np.inf), np.full((a, m), -np.inf)
        return cls(visible, hidden, weights, np.zeros((a, h)), np.zeros((a, m)), low, high)

    @property
    def arrays(self) -> dict[str, Any]:
        """All arrays by name, in the order of the kernel's arguments."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class KitNET:
    """Ensemble of an autoencoder per group of features, and one over their errors, whose error is the anomaly score.

    Inputs are scaled to [0, 1] by their range in training; values outside the range can occur in scoring.

    Args:
      groups: positions of the features of each autoencoder, from `feature_map`.
      options: sizes and learning.

    Attributes:
      groups, options: the arguments.
      trained: number of rows trained on.

    Raises:
      FlowloomError: if a group is empty or names a feature below 0.
    """

    def __init__(self, groups: Sequence[Sequence[int] | np.ndarray], options: KitNETOptions = DEFAULT_OPTIONS):
        self.groups = [np.asarray(group, np.int64) for group in groups]
        self.options = options
        self.trained = 0
        if not self.groups or any(not len(group) or group.min() < 0 for group in self.groups):
            raise FlowloomError(
                f"groups must be lists of at least one feature position from 0 on, got {[list(g) for g in groups]}"
            )
        sizes = [len(group) for group in self.groups]
        self._stack = _Stack.of([*sizes, len(sizes)], options)
        self._inputs = np.zeros((len(sizes), max(sizes)), np.int64)
        for inputs, group in zip(self._inputs, self.groups, strict=True):
            inputs[: len(group)] = group
        self._width = int(self._inputs.max()) + 1

    @classmethod
    def fit(cls, features: np.ndarray, map_rows: int, options: KitNETOptions = DEFAULT_OPTIONS) -> Self:
        """Returns a KitNET that finds its groups on the first `map_rows` rows, and trains on the others in order.

        Args:
          features: float64 [N, n] of benign traffic.

        Raises:
          FlowloomError: if either part is empty, or a value is not finite.
        """
        if not 1 < map_rows < len(features):
            raise FlowloomError(
                f"map_rows must be at least 2 and leave rows to train on, got {map_rows} of {len(features)} rows"
            )
        _check_finite(features)
        kitnet = cls(feature_map(features[:map_rows], options.cluster), options)
        kitnet.train(features[map_rows:])
        return kitnet

    def train(self, features: np.ndarray) -> np.ndarray:
        """Trains on rows one after another, and returns the error of each row before the update.

        Args:
          features: float64 [N, n].

        Raises:
          FlowloomError: if features are missing, or a value is not finite.
        """
        self.trained += len(features)
        return self._run(features, learn=True)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns the anomaly score of each row, float64 [N]; higher scores are less like the training rows.

        Args:
          features: float64 [N, n].

        Raises:
          FlowloomError: if nothing was trained yet, features are missing, or a value is not finite.
        """
        if not self.trained:
            raise FlowloomError("a KitNET must be trained before it scores, got no rows so far; call train first")
        return self._run(features, learn=False)

    @property
    def parameters(self) -> int:
        """Number of weights and biases of all autoencoders; ranges do not count, as they are not learned by descent."""
        visible, hidden = self._stack.visible, self._stack.hidden
        return int((visible * hidden + visible + hidden).sum())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: each weight encodes and decodes."""
        return int(2 * (self._stack.visible * self._stack.hidden).sum())

    @property
    def weights(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Weights [v, h], hidden biases and visible biases of each autoencoder; the one over the errors is last."""
        stack = self._stack
        return [
            (stack.weights[a, :v, :h], stack.hidden_bias[a, :h], stack.visible_bias[a, :v])
            for a, (v, h) in enumerate(zip(stack.visible, stack.hidden, strict=True))
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes options, groups, weights and ranges into one NumPy archive (.npz)."""
        about = {**dataclasses.asdict(self.options), "trained": self.trained}
        with open(path, "wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), inputs=self._inputs, **self._stack.arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file that `save` wrote.

        Raises:
          FlowloomError: if the file is missing or of another kind.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
                trained = about.pop("trained")
                stack = _Stack(*(archive[field.name] for field in dataclasses.fields(_Stack)))
                groups = [group[:v] for group, v in zip(archive["inputs"], stack.visible, strict=False)]
            kitnet = cls(groups, KitNETOptions(**about))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise FlowloomError(f"{path}: the file must be a KitNET, got {error}; write one with KitNET.save") from None
        kitnet.trained, kitnet._stack = trained, stack
        return kitnet

    def _run(self, features: np.ndarray, *, learn: bool) -> np.ndarray:
        if features.ndim != 2 or features.shape[1] < self._width:
            raise FlowloomError(f"features must be [rows, {self._width} or more], got {list(features.shape)}")
        _check_finite(features)
        scores = np.empty(len(features))
        rows = np.ascontiguousarray(features, np.float64)
        shared = self.options.biases == "shared"
        _run(rows, self._inputs, learn, self.options.learning_rate, shared, *self._stack.arrays.values(), scores)
        return scores


def _check_finite(features: np.ndarray) -> None:
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise FlowloomError(
            f"features must be finite, got {features[row][~np.isfinite(features[row])][0]} in row {row}"
        )


@numba.njit(nogil=True, cache=True)
def _run(
    rows, inputs, learn, rate, shared, visible, hidden, weights, hidden_bias, visible_bias, low, high, scores
):  # fmt: skip
    """Writes the score of each row; with `learn`, updates the weights after each."""
    last = len(inputs)  # the autoencoder over the errors of the others
    x, z = np.empty(weights.shape[1]), np.empty(weights.shape[1])
    y, slope = np.empty(weights.shape[2]), np.empty(weights.shape[2])
    errors = np.empty(last + 1)
    for i in range(len(rows)):
        for a in range(last + 1):
            for j in range(visible[a]):
                x[j] = errors[j] if a == last else rows[i, inputs[a, j]]
            errors[a] = _reconstruct(
                x, visible[a], hidden[a], weights[a], hidden_bias[a], visible_bias[a], low[a], high[a],
                y, z, slope, learn, rate, shared,
            )  # fmt: skip
        scores[i] = errors[last]


@numba.njit(nogil=True, cache=True)
def _reconstruct(x, v, h, w, hidden_bias, visible_bias, low, high, y, z, slope, learn, rate, shared):
    """Returns the root mean square error of an autoencoder on x[:v], scaled in place; with `learn`, updates it."""
    for j in range(v):
        if learn:
            low[j] = min(low[j], x[j])
            high[j] = max(high[j], x[j])
        x[j] = (x[j] - low[j]) / (high[j] - low[j] + _SPREAD)
    for k in range(h):
        total = hidden_bias[k]
        for j in range(v):
            total += x[j] * w[j, k]
        y[k] = 1 / (1 + np.exp(-total))
    squares = 0.0
    for j in range(v):
        total = visible_bias[j]
        for k in range(h):
            total += y[k] * w[j, k]
        z[j] = x[j] - 1 / (1 + np.exp(-total))  # the error, which the descent uses as gradient
        squares += z[j] * z[j]
    if learn:
        mean = 0.0
        for k in range(h):
            total = 0.0
            for j in range(v):
                total += z[j] * w[j, k]
            slope[k] = total * y[k] * (1 - y[k])
            mean += slope[k] / h
        for k in range(h):
            hidden_bias[k] += rate * (mean if shared else slope[k])
        mean = 0.0
        for j in range(v):
            mean += z[j] / v
            for k in range(h):
                w[j, k] += rate * (x[j] * slope[k] + z[j] * y[k])
        for j in range(v):
            visible_bias[j] += rate * (mean if shared else z[j])
    return np.sqrt(squares / v)
