"""Features of tables as a model sees them: float32, standardised, by rank or as they are, without gaps."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic

from flowloom.schemas.arrow.rows import View
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feature_selection import select_features
from flowloom.trainers.feed.row_spec import Input, aligned_empty, require_view

QUANTILES = 1_000
"""Of each feature that are stored at most, the default of scikit-learn's `QuantileTransformer`."""

Scaling = Literal["standard", "quantile", "none"]


class TableSpec(pydantic.BaseModel):
    """Which features of the tables view, in which order, how scaled; stored with a run, as scoring must repeat it.

    `standard` is the z-score with the moments of the train split; a constant feature is only centred. `quantile` is the
    share of the train split below a value, in [0, 1], as MTC scales CICIDS2017 (section 3.2.1). A value that is not
    known (null or NaN) is the feature's mean there under `missing: mean`, and an error under `refuse`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    view: ClassVar[View] = "tables"

    moments: dict[str, tuple[float, float]] = pydantic.Field(min_length=1)
    """Mean and standard deviation of each feature over its known values, by the feature's column, in order."""
    scaling: Scaling
    missing: Literal["mean", "refuse"]
    quantiles: dict[str, tuple[float, ...]] = {}
    """Of each feature over its known values, in equal steps from the least to the greatest; for `quantile`."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        features: Sequence[str] = (),
        scaling: Scaling = "standard",
        missing: Literal["mean", "refuse"] = "mean",
        most: int | None = None,
    ) -> Self:
        """Return the representation of a dataset's tables by some features (none named: all), fitted on train rows.

        With `most`, those that `select_features` keeps.

        Raises:
          FlowloomError: if the dataset has no tables or not the feature, or a feature is known of no train row.
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
        """The same features of rows that were scaled before."""
        unit = dict.fromkeys(self.moments, (0.0, 1.0))
        return self.model_copy(update={"moments": unit, "scaling": "none", "missing": "refuse", "quantiles": {}})

    @property
    def seen(self) -> str:
        """What of a row a model sees, in words."""
        return f"its {len(self.moments)} features"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what it is given of a row."""
        return self.columns

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that must be decoded."""
        return tuple(self.moments)

    @property
    def inputs(self) -> dict[str, Input]:
        """What a model is given of a row."""
        return {"features": Input((len(self.moments),), np.float32)}

    def prepared(self, rows: pa.RecordBatch, furthest_start: int = 0) -> pa.RecordBatch:
        """Return rows as they are: their few floats are scaled by the window."""
        return rows

    def renderer(self, rows: pa.RecordBatch) -> Callable[[npt.NDArray[np.int64]], tuple[np.ndarray, ...]]:
        """Return a function from int64 [N], positions in `rows`, to their features, float32 [N, F].

        Raises:
          FlowloomError: if a value is not known and should be, or is infinite.
        """
        scaled = np.empty((rows.num_rows, len(self.moments)), np.float32)
        for column, (name, (mean, deviation)) in enumerate(self.moments.items()):
            values = rows[name].to_numpy(zero_copy_only=False)
            unknown = np.isnan(values)  # nulls become NaN
            if unknown.any() and self.missing == "refuse":
                raise FlowloomError(
                    f"feature {name} is not known of {unknown.sum()} of {len(values)} rows; set missing=mean, or leave "
                    "the feature out"
                )
            if np.isinf(values).any():
                raise FlowloomError(f"feature {name} has infinite values; build the dataset again")
            values = np.where(unknown, mean, values)
            if self.scaling == "standard":
                values = (values - mean) / (deviation or 1.0)
            if self.scaling == "quantile":
                values = uniform(values, np.array(self.quantiles[name]))
            scaled[:, column] = values

        def gathered(positions: npt.NDArray[np.int64]) -> tuple[np.ndarray]:
            # mode: others would gather into a copy of `out` first, in case that a position is none
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
    """Return the share of what the quantiles are of that lies below each value, 0 and below to 1 and above.

    A value that is as frequent as several steps is the middle of them; the least is 0 and the greatest 1. Source:
    `QuantileTransformer` of scikit-learn.
    """
    levels = np.linspace(0, 1, len(quantiles))
    from_below = np.interp(values, quantiles, levels)
    from_above = -np.interp(-values, -quantiles[::-1], -levels[::-1])
    shares = (from_below + from_above) / 2
    return np.where(values <= quantiles[0], 0.0, np.where(values >= quantiles[-1], 1.0, shares))


def _known(dataset: Dataset, feature: str) -> np.ndarray:
    """Return the known values of a feature over the rows of the train split; of a stripe's rows each time."""
    paths = dict.fromkeys(group.path for group in dataset.row_groups("train", view="tables"))
    columns = [pq.read_table(path, columns=[feature], partitioning=None)[feature].to_numpy() for path in paths]
    values = np.concatenate([np.empty(0), *columns])
    known = values[np.isfinite(values)]
    if not len(known):
        raise FlowloomError(
            f"feature {feature} of dataset {dataset.root} is known of no train row; leave it out of the features"
        )
    return known


def _moments(known: np.ndarray) -> tuple[float, float]:
    return float(known.mean()), float(known.std())


def _quantiles(known: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(known, np.linspace(0, 1, min(QUANTILES, len(known)))).tolist())
