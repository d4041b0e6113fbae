"""Which features of tables are worth a model's while: no constants, and not two that say the same."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset

LARGEST_CORRELATION = 0.95
"""Of two features with a higher |rho| one is redundant."""
DIGITS = 9
"""|rho| is rounded to so many, so that copies of a column tie on every machine."""

Moments = Mapping[str, tuple[float, float]]
"""Mean and standard deviation by feature."""


def select_features(dataset: Dataset, moments: Moments, most: int) -> tuple[str, ...]:
    """Return at most so many features of a dataset's tables, in their order, by what its train split shows.

    Constant features go first. Then, while there are too many, the pair with the highest |rho| above 0.95 loses its
    later feature; of several such pairs the first. MTC removes 10 features of low variance and 17 redundant ones of
    CICIDS2017 and has 49 (section 3.2.1), without naming them.

    Raises:
      FlowloomError: if too many remain of which no two are that similar.
    """
    varying = {name: each for name, each in moments.items() if each[1] > 0}
    kept = distinct_features(correlations(dataset, varying), tuple(varying), most)
    if not kept:
        raise FlowloomError(f"all features of dataset {dataset.root} are constant on the train split; name others")
    return kept


def selected_columns(values: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """Return the positions of the features that remain of a table in memory by the rule of `select_features`.

    Args:
      values: the train rows, float64 [N, F], finite.
      most: features that are few enough.

    Raises:
      ValueError: if the values are no finite table of at least one row.
      FlowloomError: if too many remain of which no two are that similar.
    """
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be a finite table with rows, got shape {values.shape}")
    varying = np.flatnonzero(values.min(axis=0) < values.max(axis=0))
    scaled = values[:, varying] / np.abs(values[:, varying]).max(axis=0)  # squares of large values would overflow
    rho = np.atleast_2d(np.corrcoef(scaled, rowvar=False))
    return np.array([int(name) for name in distinct_features(rho, [str(place) for place in varying], most)], np.int64)


def distinct_features(rho: np.ndarray, names: Sequence[str], most: int) -> tuple[str, ...]:
    """Return the features that remain by the rule of `select_features`; rho is their correlations, [F, F]."""
    similar = np.triu(np.round(np.abs(rho), DIGITS), 1)
    kept = np.ones(len(names), bool)
    while kept.sum() > most:
        earlier, later = np.unravel_index(np.argmax(similar), similar.shape)
        if similar[earlier, later] <= LARGEST_CORRELATION:
            raise FlowloomError(
                f"{kept.sum()} features vary and have no two with |rho| > {LARGEST_CORRELATION}, got "
                f"most_features={most}; set most_features={kept.sum()}, or build the tables with fewer"
            )
        kept[later] = False
        similar[later, :] = similar[:, later] = 0
    return tuple(name for name, keep in zip(names, kept, strict=True) if keep)


def correlations(dataset: Dataset, moments: Moments) -> np.ndarray:
    """Return Pearson's rho of features over the train split, float64 [F, F]; what is not known counts as the mean.

    Args:
      dataset: with tables; one row group is in memory at a time.
      moments: of the features, none of them constant.
    """
    names = list(moments)
    means, deviations = np.array([moments[name] for name in names]).reshape(-1, 2).T
    products = np.zeros((len(names), len(names)))
    for group in dataset.row_groups("train", view="tables"):
        with pq.ParquetFile(group.path) as file:
            table = file.read_row_group(group.index, columns=names)
        values = np.stack([table[name].to_numpy() for name in names], axis=1) if names else np.empty((0, 0))
        scaled = (values - means) / deviations
        scaled[~np.isfinite(scaled)] = 0
        products += scaled.T @ scaled
    lengths = np.sqrt(np.diag(products))
    return products / np.outer(lengths, lengths)
