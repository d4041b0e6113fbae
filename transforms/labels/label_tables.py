"""Flow tables: rows of five-tuple, time and label, as label windows; packet tables: labels of records in order."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.arrow.protocol_names import PROTOCOL_NUMBERS
from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.label_words import label_code
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.arrays.ip_addresses import parse_addresses
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.labels.table_files import TableReader, table_of
from flowloom.transforms.labels.table_times import TimeReader, whole_numbers
from flowloom.transforms.windows.window_index import WHOLE_KEY, window_batch

_LIMITS = {"src_port": 65_535, "dst_port": 65_535, "protocol": 255}
_DURATIONS = {"duration_s": 1_000_000_000, "duration_ms": 1_000_000, "duration_us": 1_000}
_WITH_PORTS = np.array([6, 17, 132], np.uint8)
"""Protocols whose flows have ports: TCP, UDP, SCTP."""
_PORT_BITS, _PROTOCOL_BIT = np.uint8(0b01100), np.uint8(0b10000)
_END_OF_TIME = np.iinfo(np.int64).max


@dataclasses.dataclass
class TableSummary:
    """Account of a flow table.

    Attributes:
      rows: number of rows.
      unreadable: rejected rows, by the column of their first fault: number, first row from 1, and its cell.
      twelve_hour_from: first hour of a day, if hours seem to be of a clock of twelve hours without AM and PM.
    """

    rows: int = 0
    unreadable: dict[str, tuple[int, int, str | None]] = dataclasses.field(default_factory=dict)
    twelve_hour_from: int | None = None

    @property
    def rejected(self) -> int:
        """Number of rejected rows."""
        return sum(count for count, *_ in self.unreadable.values())

    def rejects(self, path: str) -> pa.RecordBatch:
        """Returns `REJECTS`, one row for each column with faults."""
        return reject_rows(
            [
                (
                    path, row, RejectReason.LABEL_ROWS,
                    f"{count:,} rows rejected, first row {row}: {_EXPECTED[name]}, got {cell!r}",
                )
                for name, (count, row, cell) in self.unreadable.items()
            ]
        )  # fmt: skip


def read_label_table(table: LabelTable, path: str, task: Task, write: Callable[[pa.RecordBatch], None]) -> TableSummary:
    """Reads a flow table as label windows on the capture's clock, in batches of bounded memory.

    Rows without a readable time, address, port, protocol or label are rejected. Ports count in rows of protocols that
    have ports; an empty port is 0, as in flows without ports. Protocol 0 is any protocol without ports.

    Args:
      path: the path of the table.
      task: the task of the labels.
      write: takes the label windows (`schemas.label_windows`) of each batch in the table's order.

    Raises:
      FlowloomError: if the table cannot be read, lacks a column, or has an undefined label.
    """
    summary, times = TableSummary(), TimeReader(table)
    with table_of(path, table.separator, header=table.header) as reader:
        found = _columns(table, reader, path)
        for batch in reader.batches(sorted({*found.values()}, key=reader.names.index)):
            frame = batch.select(**{ours: pl.col(name) for ours, name in found.items()})
            lacking = [name for name in table.columns.named if name not in frame.columns]
            frame = frame.with_columns(**{name: pl.lit(None, pl.String) for name in lacking})
            write(_windows(frame, table, times, task, summary))
            summary.rows += frame.height
    summary.twelve_hour_from = times.twelve_hour_from
    return summary


def _windows(
    frame: pl.DataFrame, table: LabelTable, times: TimeReader, task: Task, summary: TableSummary
) -> pa.RecordBatch:
    """Returns the label windows of some rows, and counts rejected ones."""
    faults: dict[str, np.ndarray] = {}
    key, masks = _keys(frame, table, faults)
    first_ns, last_ns = _periods(frame, times, faults)
    faults["label"] = frame["label"].is_null().to_numpy()
    kept = ~np.logical_or.reduce(list(faults.values()))
    rows = np.flatnonzero(kept)
    codes = label_numbers(frame["label"].filter(pl.Series(kept)), summary.rows + rows, table, task)
    _count_faults(frame, faults, summary)
    return window_batch(
        {name: values[kept] for name, values in key.items()}, first_ns[kept], last_ns[kept], codes, None, masks[kept]
    )


def _keys(
    frame: pl.DataFrame, table: LabelTable, faults: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the columns of `WINDOW_KEY`, with zeros where they are not given, and which ones count in each row."""
    rows = frame.height
    masks = np.full(rows, WHOLE_KEY, np.uint8)
    key: dict[str, np.ndarray] = {}
    for at, name in enumerate(WINDOW_KEY):
        bit = np.uint8(1 << at)
        if name not in frame.columns:
            key[name] = np.zeros((rows, 2), np.uint64) if name.endswith("_ip") else np.zeros(rows, np.uint16)
            masks &= ~bit
            continue
        key[name], faults[name] = _addresses(frame[name]) if name.endswith("_ip") else _numbers(frame[name], name)
        if table.empty_matches_any:
            empty = frame[name].is_null().to_numpy()
            masks[empty] &= ~bit
            faults[name] &= ~empty
    key["protocol"] = key["protocol"].astype(np.uint8)
    known = (masks & _PROTOCOL_BIT) != 0
    portless = known & ~np.isin(key["protocol"], _WITH_PORTS)
    masks[portless] &= ~_PORT_BITS
    unspecific = known & (key["protocol"] == 0)
    masks[unspecific] = (masks[unspecific] & ~_PROTOCOL_BIT) | _PORT_BITS
    for name in ("src_port", "dst_port"):
        key[name][portless] = 0
        if name in faults:
            faults[name] &= ~portless
    return key, masks


def _periods(frame: pl.DataFrame, times: TimeReader, faults: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and last time of each row in ns on the capture's clock."""
    table = times.table
    if "start" not in frame.columns:
        return np.zeros(frame.height, np.int64), np.full(frame.height, _END_OF_TIME)
    offset_ns = round(table.clock_offset_s * 1e9)
    first_ns, faults["start"] = times.times_ns(_dated(frame, "start"), begin=True)
    last_ns, ends = first_ns, next((name for name in ("end", *_DURATIONS) if name in frame.columns), None)
    if ends:
        if ends == "end":
            last_ns, faults[ends] = times.times_ns(_dated(frame, ends), begin=False)
        else:
            lasting_ns, faults[ends] = whole_numbers(frame[ends], _DURATIONS[ends])
            last_ns = first_ns + lasting_ns
        moment = frame[ends].is_null().to_numpy()
        last_ns = np.where(moment, first_ns, last_ns)
        faults[ends] = ~moment & (faults[ends] | (last_ns < first_ns))
    return first_ns - offset_ns, last_ns - offset_ns


def _dated(frame: pl.DataFrame, name: str) -> pl.Series:
    """Returns a column of times, behind the date of their rows if the table has a column for it."""
    if "date" not in frame.columns or frame[name].dtype.is_temporal():
        return frame[name]
    return frame.select(pl.col("date").cast(pl.String) + " " + pl.col(name)).to_series()


def label_numbers(labels: pl.Series, rows: np.ndarray, spec: LabelTable | PacketTable, task: Task) -> np.ndarray:
    """Returns the label numbers of a source's own labels, int32, `UNKNOWN_LABEL` for those that mean unknown.

    Args:
      rows: the row of each label in the table, for messages.

    Raises:
      FlowloomError: if a label is undefined and the source has `unknown_words: error`.
    """
    distinct = labels.unique(maintain_order=True)
    codes = [label_code(label, spec.words, task) for label in distinct.to_list()]
    undefined = [label for label, code in zip(distinct.to_list(), codes, strict=True) if code is None]
    if undefined and spec.unknown_words == "error":
        row = int(rows[(labels == undefined[0]).arg_max() or 0]) + 1
        defined = [*spec.words, *task.vocabulary]
        more = f" (and {len(undefined) - 1} more undefined labels)" if len(undefined) > 1 else ""
        raise FlowloomError(
            f"{spec.path}: row {row}: label of task {task.name!r} must be one of {', '.join(defined)}, got "
            f"{undefined[0]!r}{more}{did_you_mean(undefined[0], defined)}; map it under words, or write "
            "unknown_words: unknown"
        )
    numbers = pl.Series([UNKNOWN_LABEL if code is None else code for code in codes], dtype=pl.Int32)
    return labels.replace_strict(distinct, numbers, return_dtype=pl.Int32).to_numpy()


def _columns(table: LabelTable, reader: TableReader, path: str) -> dict[str, str]:
    """Returns the columns of a file by our names.

    Raises:
      FlowloomError: if the file lacks one.
    """
    wanted = {ours: str(name).strip() for ours, name in table.columns.named.items()}
    if reader.self_described and not table.header:
        raise FlowloomError(
            f"{path}: a log of Zeek has names of its own, got header: false; remove it, and write columns by name"
        )
    missing = [name for ours, name in wanted.items() if name not in reader.names and ours not in reader.omitted]
    if missing:
        hints = "".join(f"{did_you_mean(name, reader.names)}" for name in missing)
        mend = "correct columns in the manifest"
        if table.header and seems_a_row(reader.first_row()):
            mend = "its first line seems to be a row: write header: false, and columns by position, such as src_ip: 1"
        raise FlowloomError(
            f"{path}: the table must have the columns {', '.join(map(repr, missing))}, got {', '.join(reader.names)}"
            f"{hints}; {mend}"
        )
    return {ours: name for ours, name in wanted.items() if name in reader.names}


def seems_a_row(cells: Sequence[str]) -> bool:
    """Returns whether cells have an address or are mostly numbers, which names of columns are not."""
    texts = pl.Series([cell.strip() for cell in cells], dtype=pl.String)
    _, addresses = parse_addresses(texts.to_arrow())
    numbers = texts.cast(pl.Float64, strict=False).is_not_null()
    return bool(addresses.any()) or 2 * int(numbers.sum()) > len(texts) > 0


def _addresses(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    addresses, valid = parse_addresses(texts.cast(pl.String).to_arrow())
    return addresses, ~valid


def _numbers(texts: pl.Series, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns ports or protocols, and true where the text is not a valid one."""
    if name == "protocol":
        names = {known: str(number) for known, number in PROTOCOL_NUMBERS.items()}
        texts = texts.str.to_lowercase().replace(names)
    else:
        texts = texts.replace("-", None).fill_null("0")
    numbers, bad = whole_numbers(texts, 1)
    if name != "protocol" and bad.any():
        digits = texts.str.extract("^0[xX]([0-9a-fA-F]{1,4})$")
        numbers = np.where(bad, digits.str.to_integer(base=16, strict=False).fill_null(0).to_numpy(), numbers)
        bad &= digits.is_null().to_numpy()
    bad |= (numbers < 0) | (numbers > _LIMITS[name])
    return np.where(bad, 0, numbers).astype(np.uint16), bad


def _count_faults(frame: pl.DataFrame, faults: dict[str, np.ndarray], summary: TableSummary) -> None:
    """Adds the rows of a batch that have faults; each counts for its first fault."""
    counted = np.zeros(frame.height, bool)
    for name, bad in faults.items():
        new = np.flatnonzero(bad & ~counted)
        counted |= bad
        if len(new):
            cell = frame[name][int(new[0])]
            known = summary.unreadable.get(name, (0, summary.rows + int(new[0]) + 1, cell))
            summary.unreadable[name] = (known[0] + len(new), *known[1:])


_EXPECTED = {
    "src_ip": "src_ip must be an IPv4 or IPv6 address",
    "dst_ip": "dst_ip must be an IPv4 or IPv6 address",
    "src_port": "src_port must be a number up to 65535",
    "dst_port": "dst_port must be a number up to 65535",
    "protocol": "protocol must be a number up to 255 or a known name",
    "start": "start must be a time in the table's time_format",
    "end": "end must be a time in the table's time_format, not before start",
    "duration_s": "the duration must be a number, not below 0",
    "duration_ms": "the duration must be a number, not below 0",
    "duration_us": "the duration must be a number, not below 0",
    "label": "the label must not be empty",
}


def read_packet_labels(table: PacketTable, path: str, task: Task) -> np.ndarray:
    """Returns the label number of each row of a packet table, int32, `UNKNOWN_LABEL` for an empty cell.

    Raises:
      FlowloomError: if the table cannot be read, lacks the column, or has an undefined label.
    """
    found, rows = [np.empty(0, np.int32)], 0
    with table_of(path, table.separator, header=table.header) as reader:
        wanted = reader.names[-1] if table.column is None else table.column.strip()
        if wanted not in reader.names:
            raise FlowloomError(
                f"{path}: the table must have the column {table.column!r}, got {', '.join(reader.names)}"
                f"{did_you_mean(wanted, reader.names)}; correct column in the manifest"
            )
        for batch in reader.batches([wanted]):
            labels = batch[wanted]
            codes = np.full(len(labels), UNKNOWN_LABEL, np.int32)
            labelled = labels.is_not_null().to_numpy()
            known = label_numbers(labels.drop_nulls(), rows + np.flatnonzero(labelled), table, task)
            codes[labelled] = known
            found.append(codes)
            rows += len(labels)
    return np.concatenate(found)
