"""Flow tables: rows of five-tuple, time and label from CSV or Parquet, as label windows."""

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.corpus.label_sources import EPOCHS, LabelTable, PacketTable, label_code
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.labels.ip_addresses import parse_addresses
from flowloom.transforms.labels.window_index import window_batch

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "icmp6": 58,
    "ipv6-icmp": 58, "ospf": 89, "pim": 103, "sctp": 132,
}  # fmt: skip
"""IP protocol numbers by the names that flow tables use."""

_LIMITS = {"src_port": 65_535, "dst_port": 65_535, "protocol": 255}
_DURATIONS = {"duration_s": 1_000_000_000, "duration_ms": 1_000_000, "duration_us": 1_000}


def read_label_table(table: LabelTable, path: str, task: Task) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Reads a flow table as label windows on the capture's clock.

    Rows without a readable time, address, port, protocol or label are rejected. An empty port is 0, as in flows without
    ports.

    Args:
      path: the path of the table.
      task: the task of the labels.

    Returns:
      Label windows (`schemas.label_windows`) in the table's order, and `REJECTS`, one row for each cause of rejection.

    Raises:
      FlowloomError: if the table cannot be read, lacks a column, or has an undefined label.
    """
    frame = _selected(table, path)
    faults: dict[str, np.ndarray] = {}
    key: dict[str, np.ndarray] = {}
    for name in WINDOW_KEY:
        if name in frame.columns:
            read = _addresses if name.endswith("_ip") else _numbers
            key[name], faults[name] = read(frame[name], name)
    first_ns, faults["start"] = _times_ns(frame["start"], table)
    last_ns, ends = first_ns, next((name for name in ("end", *_DURATIONS) if name in frame.columns), None)
    if ends == "end":
        last_ns, faults[ends] = _times_ns(frame[ends], table)
    elif ends:
        lasting_ns, faults[ends] = _whole_numbers(frame[ends], _DURATIONS[ends])
        last_ns = first_ns + lasting_ns
    if ends:
        faults[ends] |= last_ns < first_ns
    faults["label"] = frame["label"].is_null().to_numpy()
    kept = ~np.logical_or.reduce(list(faults.values()))
    codes = label_numbers(frame["label"].filter(pl.Series(kept)), np.flatnonzero(kept), table, task)
    offset_ns = round(table.clock_offset_s * 1e9)
    windows = window_batch(
        {name: values[kept] for name, values in key.items()},
        first_ns[kept] - offset_ns,
        last_ns[kept] - offset_ns,
        codes,
    )
    return windows, _rejects(frame, faults, table)


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


def read_csv(path: str, separator: str, *, header: bool) -> pl.LazyFrame:
    """Returns the columns of a CSV file as texts; compressed and remote files are read into memory.

    Raises:
      FlowloomError: if the file cannot be opened or is damaged.
    """
    source: Any = path
    try:
        with contextlib.closing(CaptureBytes(path)) as file:
            if file.compression != "none" or "://" in path:
                while not file.complete:
                    file.grow()
                if file.damage:
                    raise file.damage
                source = io.BytesIO(file.window.tobytes())
    except CaptureError as error:
        raise FlowloomError(
            f"{path}: the table cannot be read ({error.detail}); correct its path, or copy it again"
        ) from None
    return pl.scan_csv(
        source, separator=separator, has_header=header, infer_schema=False, encoding="utf8-lossy",
        truncate_ragged_lines=True,
    )  # fmt: skip


def collected(frame: pl.LazyFrame, path: str) -> pl.DataFrame:
    """Returns the rows of a file.

    Raises:
      FlowloomError: if the file is not a table of its format.
    """
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> FlowloomError:
    reason = str(error).splitlines()[0]
    return FlowloomError(f"{path}: the table cannot be read ({reason}); correct its path, or copy it again")


def _selected(table: LabelTable, path: str) -> pl.DataFrame:
    """Returns the columns that the manifest names, under our names, as times or stripped texts, null where empty."""
    parquet = os.path.splitext(path)[1] in (".parquet", ".pq")
    frame = pl.scan_parquet(path) if parquet else read_csv(path, table.separator, header=True)
    try:
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    found = _by_name(schema.names())
    wanted = {ours: name.strip() for ours, name in table.columns.model_dump().items() if name is not None}
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        hints = "".join(f"{did_you_mean(name, found)}" for name in missing)
        raise FlowloomError(
            f"{path}: the table must have the columns {', '.join(map(repr, missing))}, got {', '.join(found)}{hints}; "
            "correct columns in the manifest"
        )
    texts = {ours: pl.col(found[name]) for ours, name in wanted.items()}
    return collected(
        frame.select(
            **{
                ours: column if schema[found[wanted[ours]]].is_temporal() else _text(column)
                for ours, column in texts.items()
            }
        ),
        path,
    )


def _by_name(names: Sequence[str]) -> dict[str, str]:
    """Returns column names by their stripped form; the first of equal ones."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.strip(), name)
    return found


def _text(column: pl.Expr) -> pl.Expr:
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _addresses(texts: pl.Series, name: str) -> tuple[np.ndarray, np.ndarray]:
    addresses, valid = parse_addresses(texts.to_arrow())
    return addresses, ~valid


def _numbers(texts: pl.Series, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns ports or protocols, and true where the text is not a valid one."""
    if name == "protocol":
        texts = texts.str.to_lowercase().replace({known: str(number) for known, number in PROTOCOLS.items()})
    else:
        texts = texts.fill_null("0")
    numbers, bad = _whole_numbers(texts, 1)
    bad |= (numbers < 0) | (numbers > _LIMITS[name])
    return np.where(bad, 0, numbers).astype(np.uint8 if name == "protocol" else np.uint16), bad


def _whole_numbers(texts: pl.Series, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns decimal numbers of up to nine places in a smaller unit, int64, and true where there is none."""
    exact = texts.cast(pl.Decimal(38, 9), strict=False)
    numbers = (exact * unit).cast(pl.Int64, strict=False)
    bad = numbers.is_null() | (exact * unit != numbers) if unit == 1 else numbers.is_null()
    return numbers.fill_null(0).to_numpy().copy(), bad.fill_null(True).to_numpy().copy()


def _times_ns(times: pl.Series, table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Returns times in ns since the epoch, int64, and true where there is none."""
    if table.time_format in EPOCHS and not times.dtype.is_temporal():
        return _whole_numbers(times, EPOCHS[table.time_format])
    if not times.dtype.is_temporal():
        times = times.str.to_datetime(table.time_format, strict=False, time_unit="ns")
    times = times.cast(pl.Datetime("ns", getattr(times.dtype, "time_zone", None)))
    if times.dtype.time_zone is None:  # type: ignore[attr-defined]
        times = times.dt.replace_time_zone(table.time_zone, ambiguous="earliest", non_existent="null")
    numbers = times.dt.epoch("ns")
    return numbers.fill_null(0).to_numpy().copy(), numbers.is_null().to_numpy().copy()


def _rejects(frame: pl.DataFrame, faults: dict[str, np.ndarray], table: LabelTable) -> pa.RecordBatch:
    """Returns one reject row for each column with faults; a table row counts for its first fault only."""
    rows: list[tuple[str, int, RejectReason, str]] = []
    counted = np.zeros(frame.height, bool)
    for name, bad in faults.items():
        new = np.flatnonzero(bad & ~counted)
        counted |= bad
        if len(new):
            first = frame[name][int(new[0])]
            detail = f"{len(new):,} rows rejected, first row {new[0] + 1}: {_EXPECTED[name]}, got {first!r}"
            rows.append((table.path, int(new[0]) + 1, RejectReason.LABEL_ROWS, detail))
    return reject_rows(rows)


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
    frame = read_csv(path, table.separator, header=table.header)
    names: Sequence[str] = collected(frame.head(0), path).columns
    found = _by_name(names)
    wanted = names[-1].strip() if table.column is None else table.column.strip()
    if wanted not in found:
        raise FlowloomError(
            f"{path}: the table must have the column {table.column!r}, got {', '.join(found)}"
            f"{did_you_mean(wanted, found)}; correct column in the manifest"
        )
    labels = collected(frame.select(label=_text(pl.col(found[wanted]))), path)["label"]
    codes = np.full(len(labels), UNKNOWN_LABEL, np.int32)
    labelled = labels.is_not_null().to_numpy()
    codes[labelled] = label_numbers(labels.drop_nulls(), np.flatnonzero(labelled), table, task)
    return codes
