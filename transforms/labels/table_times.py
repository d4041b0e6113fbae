"""Times of tables: several formats, time zones, and clocks of twelve hours without AM and PM."""

import re
from collections.abc import Sequence

import numpy as np
import polars as pl

from flowloom.schemas.corpus.label_table import EPOCHS, LabelTable

_SECONDS = re.compile(r"%[-_0]?[STXcrs+]|%\.?[0-9]*f")
_HALVES = re.compile(r"%[-_0]?[pPrc]")
_DAY_NS = 86_400_000_000_000
_HOUR_NS = 3_600_000_000_000
_MORNING, _AFTERNOON = 6, 5
"""First hour that is taken for one of the morning, and last hour for one of the afternoon, if they come behind it."""


class TimeReader:
    """Reader of the times of a table's rows, which come in their order.

    Attributes:
      table: the table in the manifest.
    """

    def __init__(self, table: LabelTable):
        self.table = table
        self._mornings: set[int] = set()
        self._first_hour = 24
        self._goes_back = self._whole_day = False

    @property
    def twelve_hour_from(self) -> int | None:
        """First hour of a day, if the manifest does not mention that hours are of a clock of twelve.

        They never are 0 or above 12, and on one day hours from 1 to 5 follow on hours from 6 to 12.
        """
        return self._first_hour if self._goes_back and not self._whole_day else None

    def times_ns(self, times: pl.Series, *, begin: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns times in ns since the epoch, int64, and true where there is none.

        Args:
          times: texts, or times of Parquet.
          begin: whether these are the begins of rows, by which the clock is judged.
        """
        if times.dtype.is_temporal():
            return _since_epoch(times, self.table.time_zone)
        found_ns, lost = np.zeros(len(times), np.int64), np.ones(len(times), bool)
        for form in _with_seconds(self.table.time_formats):
            if not lost.any():
                break
            left = np.flatnonzero(lost)
            texts = times if len(left) == len(times) else times.gather(left)
            if form in EPOCHS:
                read_ns, bad = whole_numbers(texts, EPOCHS[form])
            else:
                read = texts.str.to_datetime(form, strict=False, time_unit="ns")
                if read.dtype.time_zone is None and not _HALVES.search(form):  # type: ignore[attr-defined]
                    read = self._of_whole_day(read, begin=begin)
                read_ns, bad = _since_epoch(read, self.table.time_zone)
            found_ns[left], lost[left] = read_ns, bad
        return found_ns, lost

    def _of_whole_day(self, times: pl.Series, *, begin: bool) -> pl.Series:
        """Returns times by a clock of 24 hours, and notes the hours."""
        clock_ns = times.cast(pl.Int64)
        first = self.table.twelve_hour_from
        if first is None:
            if begin:
                self._note(clock_ns.drop_nulls().to_numpy())
            return times
        clock = pl.col("clock")
        hours = clock // _HOUR_NS % 24
        whole = hours % 12 + pl.when(hours % 12 < first).then(12).otherwise(0)
        moved = clock + pl.when(hours > 12).then(0).otherwise(whole - hours) * _HOUR_NS
        return pl.DataFrame({"clock": clock_ns}).select(moved).to_series().cast(pl.Datetime("ns"))

    def _note(self, clock_ns: np.ndarray) -> None:
        """Notes whether hours are of a whole day, and whether those of one day go back to the afternoon."""
        if self._whole_day or not len(clock_ns):
            return
        days, hours = clock_ns // _DAY_NS, clock_ns // _HOUR_NS % 24
        self._whole_day = bool(((hours == 0) | (hours > 12)).any())
        morning, afternoon = hours >= _MORNING, (hours <= _AFTERNOON)
        if morning.any():
            self._first_hour = min(self._first_hour, int(hours[morning].min()))
        for day in np.unique(days[afternoon]):
            of_day = days == day
            early = np.flatnonzero(of_day & morning)
            begun = day in self._mornings or (len(early) and np.flatnonzero(of_day & afternoon)[-1] > early[0])
            self._goes_back |= bool(begun)
        self._mornings |= {int(day) for day in np.unique(days[morning])}


def whole_numbers(texts: pl.Series, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns decimal numbers of up to nine places in a smaller unit, int64, and true where there is none."""
    exact = texts.cast(pl.Decimal(38, 9), strict=False)
    numbers = (exact * unit).cast(pl.Int64, strict=False)
    bad = numbers.is_null() | (exact * unit != numbers) if unit == 1 else numbers.is_null()
    return numbers.fill_null(0).to_numpy().copy(), bad.fill_null(True).to_numpy().copy()


def _with_seconds(formats: Sequence[str]) -> tuple[str, ...]:
    """Returns formats, and behind them those without seconds again, with seconds."""
    more = [form.replace("%M", "%M:%S%.f") for form in formats if "%M" in form and not _SECONDS.search(form)]
    return tuple(dict.fromkeys([*formats, *more]))


def _since_epoch(times: pl.Series, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns times in ns since the epoch, int64, and true where there is none; `zone` is for times without one."""
    times = times.cast(pl.Datetime("ns", getattr(times.dtype, "time_zone", None)))
    if times.dtype.time_zone is None:  # type: ignore[attr-defined]
        times = times.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    numbers = times.dt.epoch("ns")
    return numbers.fill_null(0).to_numpy().copy(), numbers.is_null().to_numpy().copy()
