"""Sketches of one column: summaries of any number of values in a fixed amount of memory.

The module `tfx_bsl.sketches` comes with the extra `train` and is imported where it is used. It does not import
TensorFlow.
"""

import ipaddress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import IDENTITY
from flowloom.schemas.dataset.dataset_statistics import LEVELS, ColumnStatistics, TopValue, ValueStatistics
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.arrays.moments import Moments, channel_moments

QUANTILE_ERROR = 0.001
"""Maximum error of ranks, as a share of all values; the sketches of 30 columns take 6 MB for each split."""
DISTINCT_EXACT = 4096
"""Number of distinct values that `KmvSketch` counts exactly; above, its standard error is 1 / sqrt(4094) = 1.6 %."""
TOP_BUCKETS = 256
"""Number of counters of `MisraGriesSketch`: exact for so many distinct values; above, at most count / 256 too high."""
TOP_VALUES = 10
"""Number of frequent values in the statistics."""

_MOST_VALUES = 1 << 32
_PERCENT = 100
_SLICE = 1 << 24
"""Number of values added at a time; float32, the type of weights, counts exactly up to it."""


class NumberSketch:
    """Exact moments of integers and a `QuantilesSketch` of them."""

    def __init__(self) -> None:
        from tfx_bsl import sketches

        self.moments = Moments()
        self._quantiles = sketches.QuantilesSketch(QUANTILE_ERROR, _MOST_VALUES, 1)

    def add(self, values: pa.Array, distinct: pa.Array, weights: pa.Array) -> None:
        """Adds integers without nulls, and the same integers as distinct values with float weights."""
        self.moments += channel_moments(view(values).astype(np.int64, copy=False))
        self._quantiles.AddValues(distinct, weights)

    def merge(self, other: "NumberSketch") -> None:
        """Adds another sketch."""
        self.moments += other.moments
        self._quantiles.Merge(other._quantiles)

    def compact(self) -> None:
        """Frees the memory that merging does not need."""
        self._quantiles.Compact()

    def statistics(self) -> ValueStatistics | None:
        """Returns the statistics; None without values. Nothing can be added afterwards."""
        moments = self.moments
        if moments.minimum is None or moments.maximum is None:
            return None
        found = moments.statistics()
        percentiles = self._quantiles.GetQuantiles(_PERCENT).to_pylist()[0]
        return ValueStatistics(
            mean=found.mean,
            std=found.std,
            minimum=moments.minimum,
            maximum=moments.maximum,
            quantiles=tuple(percentiles[round(level * _PERCENT)] for level in LEVELS),
        )


class ColumnSketch:
    """Sketch of one column of integers, timestamps, texts, bytes, or lists of integers."""

    def __init__(self, field: pa.Field):
        from tfx_bsl import sketches

        self.nulls = 0
        self.count = 0
        self._address = field.name in IDENTITY
        self._lengths = NumberSketch() if pa.types.is_list(field.type) else None
        items = field.type.value_type if pa.types.is_list(field.type) else field.type
        self._text = pa.types.is_string(items)
        numeric = pa.types.is_integer(items) or pa.types.is_timestamp(items)
        self._numbers = NumberSketch() if numeric else None
        self._distinct = sketches.KmvSketch(DISTINCT_EXACT)
        self._top = sketches.MisraGriesSketch(TOP_BUCKETS)

    def add(self, column: pa.Array) -> None:
        """Adds the values of a column of some rows."""
        self.nulls += column.null_count
        values = column.drop_null()
        if self._lengths:
            lengths = pc.list_value_length(values)
            self._lengths.add(lengths, *_counted(lengths))
            values = values.flatten()
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.int64())
        self.count += len(values)
        for start in range(0, len(values), _SLICE):
            some = values.slice(start, _SLICE)
            distinct, weights = _counted(some)
            if pa.types.is_fixed_size_binary(distinct.type):
                distinct = distinct.cast(pa.binary())
            if self._numbers:
                self._numbers.add(some, distinct, weights)
            self._distinct.AddValues(distinct)
            self._top.AddValues(distinct, weights)

    def merge(self, other: "ColumnSketch") -> None:
        """Adds another sketch of the same column."""
        self.nulls += other.nulls
        self.count += other.count
        for mine, its in ((self._numbers, other._numbers), (self._lengths, other._lengths)):
            if mine and its:
                mine.merge(its)
        self._distinct.Merge(other._distinct)
        self._top.Merge(other._top)

    def compact(self) -> None:
        """Frees the memory that merging does not need."""
        for sketch in (self._numbers, self._lengths):
            if sketch:
                sketch.compact()

    def statistics(self) -> ColumnStatistics:
        """Returns the statistics. Nothing can be added afterwards."""
        return ColumnStatistics(
            count=self.count,
            nulls=self.nulls,
            distinct=self._distinct.Estimate() if self.count else 0,
            top=self._top_values(),
            numbers=self._numbers.statistics() if self._numbers else None,
            lengths=self._lengths.statistics() if self._lengths else None,
        )

    def _top_values(self) -> tuple[TopValue, ...]:
        """Returns the values that occur more often than the error of the sketch."""
        found = [(entry["values"], int(entry["counts"])) for entry in self._top.Estimate().to_pylist()]
        # with full counters the sketch subtracts one number from all of them, and an estimate adds the total again:
        # estimates sum to less than the number of values by at least that total, and none is below it
        missing = self.count - sum(count for _, count in found)
        subtracted = min([missing, self.count // TOP_BUCKETS, *(count for _, count in found)])
        sure = [(value, count) for value, count in found if count - subtracted > subtracted]
        sure.sort(key=lambda entry: (-entry[1], entry[0]))
        return tuple(
            TopValue(value=self._shown(value), at_least=count - subtracted, at_most=count)
            for value, count in sure[:TOP_VALUES]
        )

    def _shown(self, value: bytes) -> str:
        if self._address:
            address = ipaddress.IPv6Address(value)
            return str(address.ipv4_mapped or address)
        return value.decode() if self._text or self._numbers else value.hex()


def _counted(values: pa.Array) -> tuple[pa.Array, Any]:
    """Returns the distinct values of an array without nulls, in order of appearance, and their float32 weights."""
    counted = pc.value_counts(values)
    return counted.field(0), counted.field(1).cast(pa.float32())
