"""Row spec of feature tables: float32, scaled, with unknown values replaced or rejected."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feature_selection import select_features
from flowloom.trainers.feed.row_spec import Input, aligned_empty, require_view

QUANTILES = 1_000
"""Largest number of stored quantiles per feature, the default of scikit-learn's `QuantileTransformer`."""

Scaling = Literal["standard", "quantile", "none"]


class TableSpec(pydantic.BaseModel):
    """The features of the tables view, their order and their scaling; stored with every run, as scoring must repeat it.

    The scaling `standard` is the z-score with the moments of the train split; a constant feature is only centred.
    `quantile` is the share of the train split below a value, in [0, 1], as MTC scales CICIDS2017 (section 3.2.1). An
    unknown value (null or NaN) becomes the feature's mean in the train split under `missing: mean`, and is an error
    under `missing: refuse`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "tables"

    moments: dict[str, tuple[float, float]] = pydantic.Field(min_length=1)
    """Mean and standard deviation of the known values of each feature, by column, in the order of the input."""
    scaling: Scaling
    missing: Literal["mean", "refuse"]
    quantiles: dict[str, tuple[float, ...]] = {}
    """Quantiles of the known values of each feature in equal steps, for the scaling `quantile`."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        features: Sequence[str] = (),
        scaling: Scaling = "standard",
        missing: Literal["mean", "refuse"] = "mean",
        most: int | None = None,
    ) -> Self:
        """Returns the spec for a dataset's tables, fitted on the train split.

        Args:
          dataset: a dataset with tables.
          features: columns in the order of the input; empty selects all.
          scaling: see the class.
          missing: see the class.
          most: keeps at most this many features, chosen by `select_features`.

        Raises:
          FlowloomError: if the dataset has no tables or lacks a feature, or a feature is unknown in every train row.
        """
        card = dataset.card
        require_view(card, cls.view)
        for name in features:
            if name not in card.features:
                raise FlowloomError(
                    f"features must be columns of dataset {card.name!r}, got {name!r}"
                    f"{did_you_mean(name, card.features)}"
                )
        if len(set(features)) != len(features):
            raise FlowloomError(f"features must not repeat, got {list(features)}")
        moments = {
            name: _moments(_known(dataset, name)) for name in features or card.features
        }  # one in memory at a time
        if most is not None:
            moments = {name: moments[name] for name in select_features(dataset, moments, most)}
        quantiles = {name: _quantiles(_known(dataset, name)) for name in moments} if scaling == "quantile" else {}
        return cls(moments=moments, scaling=scaling, missing=missing, quantiles=quantiles)

    @property
    def scaled(self) -> Self:
        """The spec for the same features in rows that are scaled already."""
        unit = dict.fromkeys(self.moments, (0.0, 1.0))
        return self.model_copy(update={"moments": unit, "scaling": "none", "missing": "refuse", "quantiles": {}})

    @property
    def seen(self) -> str:
        """The input in words, for reports."""
        return f"its {len(self.moments)} features"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.columns

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to decode."""
        return tuple(self.moments)

    @property
    def inputs(self) -> dict[str, Input]:
        """The model input of one row: `features`."""
        return {"features": Input((len(self.moments),), np.float32)}

    def prepared(self, rows: pa.RecordBatch, further: int = 0) -> pa.RecordBatch:
        """Returns the rows unchanged; `renderer` scales their few floats per window."""
        return rows

    def renderer(self, rows: pa.RecordBatch) -> Callable[[npt.NDArray[np.int64]], tuple[np.ndarray, ...]]:
        """Returns a function from positions in `rows`, int64 [N], to their features, float32 [N, F].

        Raises:
          FlowloomError: if a value is infinite, or unknown under `missing: refuse`.
        """
        scaled = np.empty((rows.num_rows, len(self.moments)), np.float32)
        for column, (name, (mean, deviation)) in enumerate(self.moments.items()):
            values = rows[name].to_numpy(zero_copy_only=False)
            unknown = np.isnan(values)  # nulls become NaN
            if unknown.any() and self.missing == "refuse":
                raise FlowloomError(
                    f"feature {name} is unknown in {unknown.sum()} of {len(values)} rows; set missing=mean, or remove "
                    "the feature"
                )
            if np.isinf(values).any():
                raise FlowloomError(f"feature {name} must be finite, got infinite values; build the dataset again")
            values = np.where(unknown, mean, values)
            if self.scaling == "standard":
                values = (values - mean) / (deviation or 1.0)
            if self.scaling == "quantile":
                values = uniform(values, np.array(self.quantiles[name]))
            scaled[:, column] = values

        def gathered(positions: npt.NDArray[np.int64]) -> tuple[np.ndarray]:
            # mode="clip": other modes buffer `out`, in case a position is out of range
            return (
                np.take(
                    scaled,
                    positions,
                    axis=0,
                    out=aligned_empty((len(positions), scaled.shape[1]), np.float32),
                    mode="clip",
                ),
            )

        return gathered


def uniform(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Returns the share of the train split that lies below each value, in [0, 1].

    A value that spans several quantiles gets the middle of their shares; the smallest quantile gets 0 and the largest
    1. Source: `QuantileTransformer` of scikit-learn.
    """
    levels = np.linspace(0, 1, len(quantiles))
    from_below = np.interp(values, quantiles, levels)
    from_above = -np.interp(-values, -quantiles[::-1], -levels[::-1])
    shares = (from_below + from_above) / 2
    return np.where(values <= quantiles[0], 0.0, np.where(values >= quantiles[-1], 1.0, shares))


def _known(dataset: Dataset, feature: str) -> np.ndarray:
    """Returns the known values of a feature in the train split; a row of several stripes counts in each."""
    paths = dict.fromkeys(group.path for group in dataset.row_groups("train", view="tables"))
    columns = [read_table(path, [feature])[feature].to_numpy() for path in paths]
    values = np.concatenate([np.empty(0), *columns])
    known = values[np.isfinite(values)]
    if not len(known):
        raise FlowloomError(
            f"feature {feature} of dataset {dataset.root} is unknown in every train row; remove it from the features"
        )
    return known


def _moments(known: np.ndarray) -> tuple[float, float]:
    return float(known.mean()), float(known.std())


def _quantiles(known: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(known, np.linspace(0, 1, min(QUANTILES, len(known)))).tolist())
