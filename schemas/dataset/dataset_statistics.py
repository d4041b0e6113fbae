"""What `flowloom describe --statistics` finds in the rows of a dataset; it lies beside the card and belongs to it."""

import json
import os
from pathlib import Path

import pydantic

from flowloom.schemas.errors import FlowloomError

STATISTICS = "statistics.json"
REPORT = "report.html"
STATISTICS_VERSION = 1

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The shares of values that lie at or below each quantile."""

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
    """One column in the rows of one split; of a list column its items."""

    model_config = _STRICT

    count: int
    """Values that are not null; of a list column items."""
    nulls: int
    distinct: int
    """Exact up to `DatasetStatistics.distinct_exact`, estimated beyond."""
    top: tuple[TopValue, ...]
    """The most frequent ones first; only values that are sure to occur more often than the sketch may err."""
    numbers: ValueStatistics | None
    """None of texts and bytes, and where there is no value."""
    lengths: ValueStatistics | None
    """Of a list column, its lists; None of others."""


class Contingency(pydantic.BaseModel):
    """Rows by their labels of two tasks, all splits together."""

    model_config = _STRICT

    tasks: tuple[str, str]
    counts: tuple[tuple[int, ...], ...]
    """A row for each word of the first task, then unknown; in it a number for each of the second, then unknown."""


class ClassProfile(pydantic.BaseModel):
    """The first packets of one class in the train split: quartiles of size times direction by position."""

    model_config = _STRICT

    task: str
    word: str
    flows: tuple[int, ...]
    """Flows that have a packet there; positions that no flow reaches are left out of all four."""
    lower: tuple[float, ...]
    median: tuple[float, ...]
    upper: tuple[float, ...]


class DatasetStatistics(pydantic.BaseModel):
    """What the rows of a dataset are like. A flow counts once in each stripe, as in the card."""

    model_config = _STRICT

    statistics_version: int = STATISTICS_VERSION
    content_hash: str
    """Of the dataset that was described."""
    quantile_error: float
    """How far the share of values at or below a quantile may be from its level."""
    distinct_exact: int
    rows: dict[str, int]
    """By split."""
    classes: dict[str, dict[str, dict[str, int]]]
    """By split, task and word: rows."""
    unknown: dict[str, dict[str, int]]
    """By split and task: rows without a label."""
    columns: dict[str, dict[str, ColumnStatistics]]
    """By split and column."""
    contingencies: tuple[Contingency, ...]
    """Of each pair of tasks that share rows: every pair under Aurora, none under Rainbow."""
    profiles: tuple[ClassProfile, ...]


def read_statistics(dataset: str | os.PathLike[str]) -> DatasetStatistics | None:
    """Read the statistics beside a dataset's card; None if they were not made.

    Raises:
      FlowloomError: if they are of another version, or damaged.
    """
    where = Path(dataset) / STATISTICS
    again = "make it again with `flowloom describe --statistics`"
    if not where.exists():
        return None
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
        version = document.get("statistics_version") if isinstance(document, dict) else None
        if version != STATISTICS_VERSION:
            raise FlowloomError(f"{where} has version {version!r}, this Flowloom reads {STATISTICS_VERSION}; {again}")
        return DatasetStatistics.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FlowloomError(f"{where} is damaged at {place}: {first['msg']}; {again}") from None
    except ValueError as error:
        raise FlowloomError(f"{where} is not JSON ({error}); {again}") from None
