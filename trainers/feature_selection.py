"""Which features of a table are worth keeping: none that is constant, and few that say what another one says."""

import numpy as np
import numpy.typing as npt

ALIKE = 0.95
"""Absolute correlation above which one of two features is redundant."""


def select_features(values: npt.NDArray[np.float64], count: int, alike: float = ALIKE) -> npt.NDArray[np.int64]:
    """Choose features by the train rows: without constant ones, and without the later one of the most correlated pair.

    Pairs are taken from the most correlated one on, while more than `count` features are left and a pair is above
    `alike`. MTC (section 3.2.1) removes ten features with little difference and 17 redundant ones of 78 without naming
    them, and has 49.

    Args:
      values: float64 [N, F], finite.
      count: features that are enough.
      alike: absolute Pearson correlation, above 0 and at most 1.

    Returns:
      int64 positions of the features that are kept, ascending.

    Raises:
      ValueError: if the values are no finite table of at least one row, or `alike` is out of range.
    """
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be a finite table with rows, got shape {values.shape}")
    if not 0 < alike <= 1:
        raise ValueError(f"alike must be above 0 and at most 1, got {alike}")
    kept = np.flatnonzero(values.min(axis=0) < values.max(axis=0))
    scaled = values[:, kept] / np.abs(values[:, kept]).max(axis=0)  # squares of large values would overflow
    correlation = np.abs(np.atleast_2d(np.corrcoef(scaled, rowvar=False)))
    np.fill_diagonal(correlation, 0.0)
    while len(kept) > max(count, 1) and correlation.max() > alike:
        later = max(np.unravel_index(correlation.argmax(), correlation.shape))
        kept = np.delete(kept, later)
        correlation = np.delete(np.delete(correlation, later, axis=0), later, axis=1)
    return kept
