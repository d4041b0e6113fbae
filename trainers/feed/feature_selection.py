"""Selection of table features: drops constants, and the later one of two correlated features."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.parquet_files import read_row_group
from flowloom.trainers.feed.dataset import Dataset

LARGEST_CORRELATION = 0.95
"""Two features with a higher |rho| are redundant."""
DIGITS = 9
"""Decimal digits of |rho|, so that copies of a column tie on every machine."""

Moments = Mapping[str, tuple[float, float]]
"""Mean and standard deviation by feature."""


def select_features(dataset: Dataset, moments: Moments, most: int) -> tuple[str, ...]:
    """Returns at most `most` features of a dataset's tables in their order, chosen on the train split.

    Constant features are dropped first. Then, while there are too many, the pair with the highest |rho| above 0.95
    loses its later feature; the first such pair counts. MTC keeps 49 features of CICIDS2017 after removing 10 of low
    variance and 17 redundant ones (section 3.2.1), without naming them.

    Raises:
      FlowloomError: if all features are constant, or too many remain and no two of them are correlated.
    """
    varying = {name: each for name, each in moments.items() if each[1] > 0}
    kept = distinct_features(correlations(dataset, varying), tuple(varying), most)
    if not kept:
        raise FlowloomError(
            f"features of dataset {dataset.root} must vary in the train split, got constants alone; name others"
        )
    return kept


def selected_columns(values: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """Returns the positions of the features of a table in memory that `select_features` would keep.

    Args:
      values: the train rows, float64 [N, F], finite.
      most: largest number of features.

    Raises:
      ValueError: if the values are not a finite table with at least one row.
      FlowloomError: if too many features remain and no two of them are correlated.
    """
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be a finite table with rows, got shape {values.shape}")
    varying = np.flatnonzero(values.min(axis=0) < values.max(axis=0))
    scaled = values[:, varying] / np.abs(values[:, varying]).max(axis=0)  # squares of large values would overflow
    rho = np.atleast_2d(np.corrcoef(scaled, rowvar=False))
    return np.array([int(name) for name in distinct_features(rho, [str(place) for place in varying], most)], np.int64)


def distinct_features(rho: np.ndarray, names: Sequence[str], most: int) -> tuple[str, ...]:
    """Returns the features that `select_features` keeps; `rho` [F, F] holds their correlations."""
    similar = np.triu(np.round(np.abs(rho), DIGITS), 1)
    kept = np.ones(len(names), bool)
    while kept.sum() > most:
        earlier, later = np.unravel_index(np.argmax(similar), similar.shape)
        if similar[earlier, later] <= LARGEST_CORRELATION:
            raise FlowloomError(
                f"most_features must be at least {kept.sum()}, the features without a pair of |rho| > "
                f"{LARGEST_CORRELATION}, got {most}; set most_features={kept.sum()}, or build narrower tables"
            )
        kept[later] = False
        similar[later, :] = similar[:, later] = 0
    return tuple(name for name, keep in zip(names, kept, strict=True) if keep)


def correlations(dataset: Dataset, moments: Moments) -> np.ndarray:
    """Returns Pearson's rho of features over the train split, float64 [F, F]; unknown values count as the mean.

    Args:
      dataset: a dataset with tables; one row group is in memory at a time.
      moments: mean and standard deviation of the features, none of them constant.
    """
    names = list(moments)
    means, deviations = np.array([moments[name] for name in names]).reshape(-1, 2).T
    products = np.zeros((len(names), len(names)))
    for group in dataset.row_groups("train", view="tables"):
        table = read_row_group(group.path, group.index, names)
        values = np.stack([table[name].to_numpy() for name in names], axis=1) if names else np.empty((0, 0))
        scaled = (values - means) / deviations
        scaled[~np.isfinite(scaled)] = 0
        products += scaled.T @ scaled
    lengths = np.sqrt(np.diag(products))
    return products / np.outer(lengths, lengths)
