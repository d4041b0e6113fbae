"""Linear models as plain arrays, and the compiled loop that computes them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numba
import numpy as np
import numpy.typing as npt

from flowloom.trainers.trees.class_scores import softmax

LINEAR_ARRAYS = ("shift", "scale", "weights", "bias")


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """Multinomial logistic regression on standardised columns.

    Attributes:
      shift: float64 [columns], subtracted first.
      scale: float64 [columns], multiplied next.
      weights: float64 [columns, classes].
      bias: float64 [classes]; minus infinity for a class that no train row has.
    """

    shift: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def sums(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Returns the logits, float64 [B, classes], each summed in the order of the columns."""
        sums = np.tile(self.bias, (len(rows), 1))
        _add_products(np.asarray(rows, np.float32), self.shift, self.scale, self.weights, sums)
        return sums

    def probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Returns the probability of each class, float64 [B, classes]; a row's does not depend on other rows."""
        return softmax(self.sums(rows))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in LINEAR_ARRAYS}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.bias)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.weights.size + self.bias.size

    @property
    def operations(self) -> int:
        """Number of multiplications and additions for one row."""
        return self.weights.size + len(self.shift)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], classes: int, columns: int) -> Self:
        """Returns a model from arrays that may come from anyone, after all checks that the loop relies on.

        Raises:
          ValueError: if an array is missing, has another type or shape, or is not finite.
        """
        shapes = {"shift": (columns,), "scale": (columns,), "weights": (columns, classes), "bias": (classes,)}
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != np.float64:
                raise ValueError(f"{name} must be float64 {list(shape)}")
            if name != "bias" and not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} must be finite")
        bias = arrays["bias"]
        if np.isnan(bias).any() or (bias == np.inf).any() or not (bias > -np.inf).any():
            raise ValueError("bias must have a finite number, and no other ones than those and minus infinity")
        return cls(**{name: np.ascontiguousarray(arrays[name]) for name in shapes})


@numba.njit(nogil=True, cache=True)
def _add_products(rows: Any, shift: Any, scale: Any, weights: Any, sums: Any) -> None:
    """Adds the products of standardised columns and weights, column after column."""
    for row in range(len(rows)):
        for column in range(len(shift)):
            value = (np.float64(rows[row, column]) - shift[column]) * scale[column]
            for output in range(sums.shape[1]):
                sums[row, output] += value * weights[column, output]
