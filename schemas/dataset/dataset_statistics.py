"""Statistics of a dataset's rows, which `flowloom describe --statistics` writes beside the card."""

import json
import os
from pathlib import Path

import pydantic

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import unsealed

STATISTICS = "statistics.json"
REPORT = "report.html"
STATISTICS_VERSION = 1

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Shares of values at or below each quantile."""

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


class ValueStatistics(pydantic.BaseModel):
    """Exact moments of numbers, and their quantiles at `LEVELS` within `DatasetStatistics.quantile_error`."""

    model_config = _STRICT

    mean: float
    std: float
    minimum: int
    maximum: int
    quantiles: tuple[float, ...]


class TopValue(pydantic.BaseModel):
    """A frequent value as text (bytes in hex, addresses as addresses), and bounds of how often it occurs."""

    model_config = _STRICT

    value: str
    at_least: int
    at_most: int


class ColumnStatistics(pydantic.BaseModel):
    """Statistics of one column in one split; for a list column, of its items."""

    model_config = _STRICT

    count: int
    """Number of values that are not null; for a list column, of items."""
    nulls: int
    distinct: int
    """Exact up to `DatasetStatistics.distinct_exact`, estimated beyond."""
    top: tuple[TopValue, ...]
    """Most frequent values, in descending order; only those whose count exceeds the sketch's largest error."""
    numbers: ValueStatistics | None
    """None for texts and bytes, and for a column without values."""
    lengths: ValueStatistics | None
    """Lengths of the lists of a list column; None for other columns."""


class Contingency(pydantic.BaseModel):
    """Row counts by the labels of two tasks, over all splits."""

    model_config = _STRICT

    tasks: tuple[str, str]
    counts: tuple[tuple[int, ...], ...]
    """Counts [classes of the first task + unknown, classes of the second task + unknown]."""


class ClassProfile(pydantic.BaseModel):
    """Quartiles of size times direction at each packet position, for one class in the train split."""

    model_config = _STRICT

    task: str
    word: str
    flows: tuple[int, ...]
    """Number of flows with a packet at each position; the four tuples end at the longest flow."""
    lower: tuple[float, ...]
    median: tuple[float, ...]
    upper: tuple[float, ...]


class DatasetStatistics(pydantic.BaseModel):
    """Statistics of all rows of a dataset. A flow counts once in each stripe, as in the card."""

    model_config = _STRICT

    statistics_version: int = STATISTICS_VERSION
    content_hash: str
    """Content hash of the described dataset."""
    quantile_error: float
    """Largest difference between a quantile's level and the actual share of values at or below it."""
    distinct_exact: int
    rows: dict[str, int]
    """Rows by split."""
    classes: dict[str, dict[str, dict[str, int]]]
    """Rows by split, task and label value."""
    unknown: dict[str, dict[str, int]]
    """Rows without a label, by split and task."""
    columns: dict[str, dict[str, ColumnStatistics]]
    """Statistics by split and column."""
    contingencies: tuple[Contingency, ...]
    """One per pair of tasks that share rows: all pairs in the Aurora layout, none in the Rainbow layout."""
    profiles: tuple[ClassProfile, ...]


def read_statistics(dataset: str | os.PathLike[str]) -> DatasetStatistics | None:
    """Returns the statistics beside a dataset's card, None if there are none.

    Raises:
      FlowloomError: if the file has another version or is damaged.
    """
    where = Path(dataset) / STATISTICS
    again = "write it again with `flowloom describe --statistics`"
    if not where.exists():
        return None
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
        version = document.get("statistics_version") if isinstance(document, dict) else None
        if version != STATISTICS_VERSION:
            raise FlowloomError(f"{where} has version {version!r}, this Flowloom reads {STATISTICS_VERSION}; {again}")
        return DatasetStatistics.model_validate(unsealed(document, where, again))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FlowloomError(f"{where} is damaged at {place}: {first['msg']}; {again}") from None
    except FlowloomError:
        raise
    except ValueError as error:
        raise FlowloomError(f"{where} is not JSON ({error}); {again}") from None
