"""Guesses about label tables: their columns, the format of their times, their labels and their clock."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from flowloom.schemas.corpus.label_sources import EPOCHS
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.labels.ip_addresses import parse_addresses
from flowloom.transforms.labels.label_tables import collected, read_csv

LOOKED_AT_ROWS = 200_000
"""Rows of a table that are read."""
MOST_RECORDS = 5_000_000
"""Rows of a table of packets that are counted."""
MOST_LABELS = 100
_SHOWN = 8
FEWEST_MATCHES = 3
"""Flows that must be in a table and in the captures before their times are compared."""

_SPLIT = re.compile(r"[^a-z0-9]+")
_NAMES: dict[str, tuple[str, ...]] = {
    "src_ip": ("srcip", "sourceip", "ipsrc", "saddr", "srcaddr", "sourceaddress", "idorigh", "src"),
    "dst_ip": ("dstip", "destinationip", "ipdst", "daddr", "dstaddr", "destinationaddress", "idresph", "dst"),
    "src_port": ("srcport", "sourceport", "sport", "idorigp"),
    "dst_port": ("dstport", "destinationport", "dport", "idrespp", "dsport"),
    "protocol": ("protocol", "proto", "ipproto"),
    "start": ("start", "starttime", "timestamp", "stime", "flowstart", "firstseen", "ts", "time"),
    "end": ("end", "endtime", "ltime", "flowend", "lastseen"),
    "duration": ("flowduration", "duration", "dur"),
}  # fmt: skip
_LABELS = ("label", "class", "attack", "attackcat", "attacktype", "category", "traffic", "application",
           "applicationname", "detailedlabel", "service", "type")  # fmt: skip
_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%dT%H:%M:%S%.f", "%Y/%m/%d %H:%M:%S%.f",
    "%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M",
)  # fmt: skip
_BENIGN = ("benign", "normal", "background", "legitimate", "negative", "none", "clean")


@dataclasses.dataclass(frozen=True)
class TableGuess:
    """Label table that a manifest can use.

    Attributes:
      columns: keys of a label table by the names of its columns.
      tasks: label values by column, as the table writes them.
      rows: number of rows that were read.
      starts_ns: time of each row in ns since the epoch, on the table's clock read as UTC; null where unreadable.
      keys: addresses and ports of each row, in one order for both directions; null where one is missing.
      ambiguous: the times fit this other format too.
    """

    path: str
    columns: dict[str, str]
    tasks: dict[str, tuple[str, ...]]
    time_format: str
    separator: str
    rows: int
    starts_ns: pl.Series
    keys: pl.Series
    ambiguous: str | None = None

    @property
    def tolerance_s(self) -> float:
        """Tolerance of the table's times: a minute without seconds, a second with them."""
        return 1.0 if "%S" in self.time_format or self.time_format in EPOCHS else 60.0


@dataclasses.dataclass(frozen=True)
class PacketTableGuess:
    """Table with a row for each record of a capture.

    Attributes:
      header: whether the first line has names.
      column: name of the last column, which has the labels.
      values: label values, as the table writes them.
    """

    path: str
    capture: str
    header: bool
    column: str
    values: tuple[str, ...]
    rows: int


def guess_packet_table(folder: str, path: str, records: Mapping[str, int]) -> PacketTableGuess | None:
    """Returns a table whose number of rows is that of the records of one capture; None for any other table.

    Args:
      records: number of records by path of capture.
    """
    if path.endswith((".parquet", ".pq")):
        return None
    try:
        frame = collected(read_csv(os.path.join(folder, path), ",", header=False).head(MOST_RECORDS), path)
    except FlowloomError:
        return None
    lines, last = frame.height, frame.to_series(-1).str.strip_chars()
    owners = [(capture, count) for capture, count in records.items() if count in (lines, lines - 1)]
    if len(owners) != 1 or lines == MOST_RECORDS:
        return None
    ((capture, count),) = owners
    header = count == lines - 1
    labels = last[1:] if header else last
    values = tuple(labels.drop_nulls().unique().sort().to_list())
    if not 2 <= len(values) <= MOST_LABELS:
        return None
    return PacketTableGuess(path, capture, header, last[0] if header else "label", values, count)


def guess_table(folder: str, path: str) -> TableGuess | str:
    """Returns a label table as a manifest can use it, or a sentence about the reason why it cannot."""
    try:
        separator, frame = _rows(os.path.join(folder, path))
    except FlowloomError as error:
        return str(error).rpartition(": ")[2]
    names = {_plain(name): name.strip() for name in reversed(frame.columns)}
    found = {key: names[each] for key, known in _NAMES.items() for each in reversed(known) if each in names}
    labels = [name.strip() for name in frame.columns if _plain(name) in _LABELS and name.strip() not in found.values()]
    lacking = [kind for kind, there in (("a start time", "start" in found), ("a label", bool(labels))) if not there]
    if lacking:
        names_found = ", ".join(name.strip() for name in frame.columns[:_SHOWN])
        names_found += f" and {frame.width - _SHOWN:,} more" if frame.width > _SHOWN else ""
        return f"no column seems to be {' or '.join(lacking)}; columns: {names_found}"
    frame = frame.rename({name: name.strip() for name in frame.columns})
    formats = _time_formats(frame[found["start"]])
    if not formats:
        first = frame[found["start"]].drop_nulls().first()
        return f"the times of column {found['start']!r} have no known format: {first!r}"
    tasks = {name: tuple(map(str, frame[name].drop_nulls().unique().sort().to_list())) for name in labels}
    tasks = {name: values for name, values in tasks.items() if 2 <= len(values) <= MOST_LABELS}
    if not tasks:
        return f"the label columns ({', '.join(labels)}) do not have 2 to {MOST_LABELS} values"
    return TableGuess(
        path=path,
        columns=_with_duration(found, frame),
        tasks=tasks,
        time_format=formats[0],
        separator=separator,
        rows=frame.height,
        starts_ns=_times_ns(frame[found["start"]], formats[0]),
        keys=_keys(frame, found),
        ambiguous=formats[1] if len(formats) > 1 else None,
    )


def guess_offset(table: TableGuess, flows: pa.Table) -> tuple[float, int] | None:
    """Returns the table's clock minus the captures' in seconds, and the number of flows that were compared.

    These are flows whose addresses and ports are in one row of the table and in one flow of the captures. The result is
    None if there are too few.

    Args:
      flows: flows of the captures: src_ip, dst_ip, src_port, dst_port, start.
    """
    if not flows.num_rows or not {"src_ip", "dst_ip"} <= set(table.columns):
        return None
    ours = pl.DataFrame(
        {"key": _flow_keys(flows, table.columns), "ours": pl.Series(flows["start"].cast(pa.int64()).to_numpy())}
    )
    theirs = pl.DataFrame({"key": table.keys, "theirs": table.starts_ns}).drop_nulls()
    single = [each.filter(pl.col("key").is_unique()) for each in (ours, theirs)]
    both = single[0].join(single[1], on="key").select((pl.col("theirs") - pl.col("ours")) / 1e9).to_series()
    middle = both.median()
    if len(both) < FEWEST_MATCHES or not isinstance(middle, float):
        return None
    # clocks differ by time zones and by seconds; times without seconds are late by half a minute in the middle
    step = 60.0 if table.tolerance_s > 1 else 1.0
    offset = round(middle / step) * step
    return (0.0 if abs(offset) <= step else offset), len(both)


def benign_first(values: Sequence[str]) -> Mapping[str, str] | None:
    """Returns the label values of a binary task by a table's labels; None if none of two is benign."""
    if set(values) == {"0", "1"}:
        return {"0": "negative", "1": "positive"}
    benign = [value for value in values if value.strip().lower() in _BENIGN]
    if len(values) != 2 or len(benign) != 1:
        return None
    return {value: "negative" if value == benign[0] else "positive" for value in values}


def _rows(path: str) -> tuple[str, pl.DataFrame]:
    """Returns the separator and the first rows of a table, all columns of CSV as texts."""
    if path.endswith((".parquet", ".pq")):
        return ",", collected(pl.scan_parquet(path).head(LOOKED_AT_ROWS), path)
    frames = {separator: collected(read_csv(path, separator, header=True).head(1), path) for separator in ",;\t"}
    separator = max(frames, key=lambda each: frames[each].width)
    return separator, collected(read_csv(path, separator, header=True).head(LOOKED_AT_ROWS), path)


def _plain(name: str) -> str:
    return _SPLIT.sub("", name.strip().lower())


def _with_duration(found: Mapping[str, str], frame: pl.DataFrame) -> dict[str, str]:
    """Returns the columns with the unit of a duration: microseconds if many are longer than a day in seconds."""
    columns = {key: name for key, name in found.items() if key != "duration"}
    if "duration" in found and "end" not in found:
        longest = frame[found["duration"]].cast(pl.Float64, strict=False).quantile(0.9) or 0.0
        columns["duration_us" if longest > 86_400 else "duration_s"] = found["duration"]
    return columns


def _time_formats(times: pl.Series) -> list[str]:
    """Returns the formats that all times have; epochs by the size of the numbers."""
    if times.dtype.is_temporal():
        return [_FORMATS[0]]
    texts = times.cast(pl.String).str.strip_chars().drop_nulls().head(10_000)
    numbers = texts.cast(pl.Float64, strict=False)
    if texts.len() and not numbers.null_count():
        size = float(numbers.median() or 0)  # type: ignore[arg-type]
        fits = {"epoch_ns": 1e17, "epoch_us": 1e14, "epoch_ms": 1e11, "epoch_s": 1e8}
        return [next((name for name, least in fits.items() if size >= least), "")] if size >= 1e8 else []
    return [
        form for form in _FORMATS
        if texts.len() and not texts.str.to_datetime(form, strict=False, time_unit="ns").null_count()
    ]  # fmt: skip


def _times_ns(times: pl.Series, time_format: str) -> pl.Series:
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("ns")).cast(pl.Int64)
    texts = times.cast(pl.String).str.strip_chars()
    if time_format in EPOCHS:
        return (texts.cast(pl.Float64, strict=False) * EPOCHS[time_format]).cast(pl.Int64)
    return texts.str.to_datetime(time_format, strict=False, time_unit="ns").cast(pl.Int64)


def _keys(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.Series:
    """Returns the addresses and ports of rows as texts, the lower end first."""
    ends = []
    for side in ("src", "dst"):
        addresses: Any = pl.Series([None] * frame.height, dtype=pl.String)
        if f"{side}_ip" in columns:
            parsed, valid = parse_addresses(frame[columns[f"{side}_ip"]].cast(pl.String).str.strip_chars().to_arrow())
            texts = [bytes(each).hex() if good else None for each, good in zip(parsed, valid, strict=True)]
            addresses = pl.Series(texts, dtype=pl.String)
        if f"{side}_port" in columns:
            addresses = addresses + ":" + frame[columns[f"{side}_port"]].cast(pl.String).str.strip_chars()
        ends.append(addresses)
    return _joined(*ends)


def _flow_keys(flows: pa.Table, columns: Mapping[str, str]) -> pl.Series:
    ends = []
    for side in ("src", "dst"):
        texts = pl.Series([value.hex() for value in flows[f"{side}_ip"].to_pylist()], dtype=pl.String)
        if f"{side}_port" in columns:
            texts = texts + ":" + pl.Series(flows[f"{side}_port"].to_numpy()).cast(pl.String)
        ends.append(texts)
    return _joined(*ends)


def _joined(one: pl.Series, other: pl.Series) -> pl.Series:
    frame = pl.DataFrame({"one": one, "other": other})
    low, high = pl.min_horizontal("one", "other"), pl.max_horizontal("one", "other")
    key = pl.when(pl.col("one").is_not_null() & pl.col("other").is_not_null()).then(low + " " + high)
    return frame.select(key=key)["key"]
