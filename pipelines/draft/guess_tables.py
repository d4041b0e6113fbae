"""Guesses about label tables: their columns, the format of their times, their labels and their clock."""

import dataclasses
import os
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.protocol_names import PROTOCOL_NUMBERS
from flowloom.schemas.corpus.label_table import EPOCHS, LabelTable
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.ip_addresses import parse_addresses
from flowloom.transforms.labels.label_tables import seems_a_row
from flowloom.transforms.labels.table_files import table_of
from flowloom.transforms.labels.table_times import TimeReader

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
      columns: names of columns, or positions in a table without a header, by the keys of a label table.
      tasks: label values by column, as the table writes them.
      words: label values of a binary task by patterns, where a column has too many labels to list.
      rows: number of rows that were read.
      starts_ns: time of each row in ns since the epoch, on the table's clock read as UTC; null where unreadable.
      keys: addresses and ports of each row, in one order for both directions; null where one is missing.
      ambiguous: the times fit this other format too.
      header: whether the first line has names.
      self_described: whether the file says its own separator, as logs of Zeek do.
      twelve_hour_from: first hour of a day, if the hours seem to be of a clock of twelve hours without AM and PM.
    """

    path: str
    columns: dict[str, str | int]
    tasks: dict[str | int, tuple[str, ...]]
    words: dict[str | int, dict[str, str]]
    time_formats: tuple[str, ...]
    separator: str
    rows: int
    starts_ns: pl.Series
    keys: pl.Series
    ambiguous: str | None = None
    header: bool = True
    self_described: bool = False
    twelve_hour_from: int | None = None

    @property
    def tolerance_s(self) -> float:
        """Tolerance of the table's times: a minute without seconds, a second with them."""
        return 1.0 if all("%S" in form or form in EPOCHS for form in self.time_formats) else 60.0


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
        with table_of(os.path.join(folder, path), ",", header=False) as reader:
            if reader.self_described:
                return None
            (last,) = _head(reader.batches(reader.names[-1:]), MOST_RECORDS).get_columns()
    except FlowloomError:
        return None
    lines = len(last)
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
        rows = _rows(os.path.join(folder, path))
    except FlowloomError as error:
        return str(error).rpartition(": ")[2]
    frame = rows.frame
    found, labels = _named_columns(frame) if rows.header else _columns_by_content(frame)
    lacking = [kind for kind, there in (("a start time", "start" in found), ("a label", bool(labels))) if not there]
    if lacking:
        names_found = ", ".join(frame.columns[:_SHOWN])
        names_found += f" and {frame.width - _SHOWN:,} more" if frame.width > _SHOWN else ""
        return f"no column seems to be {' or '.join(lacking)}; columns: {names_found}"
    formats = _time_formats(frame[found["start"]])
    if not formats:
        first = frame[found["start"]].drop_nulls().first()
        return f"the times of column {found['start']!r} have no known format: {first!r}"
    values = {name: tuple(map(str, frame[name].drop_nulls().unique().sort().to_list())) for name in labels}
    patterns = {name: words for name, known in values.items() if (words := _patterns(known))}
    tasks = {name: known for name, known in values.items() if 2 <= len(known) <= MOST_LABELS or name in patterns}
    if not tasks:
        return f"the label columns ({', '.join(labels)}) do not have 2 to {MOST_LABELS} values"
    starts_ns, twelve_hour_from = _times_ns(frame[found["start"]], formats[0])

    def place(name: str) -> str | int:
        return name if rows.header else int(name)

    return TableGuess(
        path=path,
        columns={key: place(name) for key, name in _with_duration(found, frame).items()},
        tasks={place(name): known for name, known in tasks.items()},
        words={place(name): words for name, words in patterns.items()},
        time_formats=formats[0],
        separator=rows.separator,
        rows=frame.height,
        starts_ns=starts_ns,
        keys=_keys(frame, found),
        ambiguous=formats[1][0] if len(formats) > 1 else None,
        header=rows.header,
        self_described=rows.self_described,
        twelve_hour_from=twelve_hour_from,
    )


def _named_columns(frame: pl.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Returns columns of a table with names by the keys of a label table, and columns of labels."""
    names = {_plain(name): name for name in reversed(frame.columns)}
    found = {key: names[each] for key, known in _NAMES.items() for each in reversed(known) if each in names}
    return found, [name for name in frame.columns if _plain(name) in _LABELS and name not in found.values()]


def _columns_by_content(frame: pl.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Returns the same for a table without names, by content; the label is the last column that may be one."""
    found: dict[str, str] = {}
    sample = frame.head(1000)
    names = list(frame.columns)
    for at, name in enumerate(names):
        column = sample[name].cast(pl.String)
        if parse_addresses(column.to_arrow())[1].all() and "dst_ip" not in found:
            side = "dst" if "src_ip" in found else "src"
            found[f"{side}_ip"] = name
            if (
                at + 1 < len(names)
                and sample[names[at + 1]].str.contains("^(?:[0-9]{1,5}|0[xX][0-9a-fA-F]{1,4}|-)$").all()
            ):
                found[f"{side}_port"] = names[at + 1]
        elif "protocol" not in found and column.str.to_lowercase().is_in(list(PROTOCOL_NUMBERS)).any():
            found["protocol"] = name
        elif "start" not in found and _time_formats(column):
            found["start"] = name
    rest = [name for name in names if name not in found.values() and 2 <= frame[name].n_unique() <= MOST_LABELS]
    return found, rest[-1:]


def _patterns(values: Sequence[str]) -> dict[str, str] | None:
    """Returns the words of a binary task by patterns for labels of CTU-13; None for others."""
    if not all(value.startswith("flow=") for value in values) or len(values) < 2:
        return None
    return {"flow=*Botnet*": "positive", "flow=*Normal*": "negative", "flow=*": "negative"}


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


@dataclasses.dataclass(frozen=True)
class _Rows:
    """First rows of a table as texts, with its form."""

    frame: pl.DataFrame
    separator: str
    header: bool
    self_described: bool


def _rows(path: str) -> _Rows:
    """Returns the first rows of a table."""
    widths = {}
    for separator in ",;\t":
        with table_of(path, separator, header=True) as reader:
            widths[separator] = len(reader.names)
    separator = max(widths, key=lambda each: widths[each])
    with table_of(path, separator, header=True) as reader:
        header = not seems_a_row(reader.first_row()) or reader.self_described
    with table_of(path, separator, header=header) as reader:
        frame = _head(reader.batches(reader.names), LOOKED_AT_ROWS)
        return _Rows(frame, separator, header, reader.self_described)


def _head(batches: Iterator[pl.DataFrame], rows: int) -> pl.DataFrame:
    """Returns the first rows of a table."""
    taken: list[pl.DataFrame] = []
    for batch in batches:
        taken.append(batch)
        if sum(each.height for each in taken) >= rows:
            break
    return pl.concat(taken).head(rows) if taken else pl.DataFrame()


def _plain(name: str) -> str:
    return _SPLIT.sub("", name.strip().lower())


def _with_duration(found: Mapping[str, str], frame: pl.DataFrame) -> dict[str, str]:
    """Returns the columns with the unit of a duration: microseconds if many are longer than a day in seconds."""
    columns = {key: name for key, name in found.items() if key != "duration"}
    if "duration" in found and "end" not in found:
        longest = frame[found["duration"]].cast(pl.Float64, strict=False).quantile(0.9) or 0.0
        columns["duration_us" if longest > 86_400 else "duration_s"] = found["duration"]
    return columns


def _time_formats(times: pl.Series) -> list[tuple[str, ...]]:
    """Returns the formats that all times have, or several together; epochs by the size of the numbers."""
    if times.dtype.is_temporal():
        return [_FORMATS[:1]]
    texts = times.cast(pl.String).drop_nulls().head(10_000)
    numbers = texts.cast(pl.Float64, strict=False)
    if texts.len() and not numbers.null_count():
        size = statistics.median(numbers.to_list())
        fits = {"epoch_ns": 1e17, "epoch_us": 1e14, "epoch_ms": 1e11, "epoch_s": 1e8}
        return [(next((name for name, least in fits.items() if size >= least), ""),)] if size >= 1e8 else []
    read = {form: texts.str.to_datetime(form, strict=False, time_unit="ns").is_not_null() for form in _FORMATS}
    whole: list[tuple[str, ...]] = [(form,) for form, known in read.items() if texts.len() and known.all()]
    if whole or not texts.len():
        return whole
    chosen: tuple[str, ...] = ()
    left = pl.Series([True] * len(texts))
    while left.any():
        best = max(read, key=lambda form: int((read[form] & left).sum()))
        if not (read[best] & left).any():
            return []
        chosen, left = (*chosen, best), left & ~read[best]
    return [chosen]


def _times_ns(times: pl.Series, time_formats: tuple[str, ...]) -> tuple[pl.Series, int | None]:
    """Returns times in ns read as UTC, null where unreadable, and the first hour of a clock of twelve hours."""
    keys = {"path": "t", "task": "t", "columns": {"start": "t", "label": "l"}, "time_format": time_formats}
    reader = TimeReader(LabelTable.model_validate(keys))
    times_ns, lost = reader.times_ns(times, begin=True)
    first = reader.twelve_hour_from
    if first is not None:
        reader = TimeReader(LabelTable.model_validate({**keys, "twelve_hour_from": first}))
        times_ns, lost = reader.times_ns(times, begin=True)
    return pl.Series(times_ns).set(pl.Series(lost), None), first


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


def _flow_keys(flows: pa.Table, columns: Collection[str]) -> pl.Series:
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
