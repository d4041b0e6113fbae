"""Flow tables in a manifest: their columns, their times, and presets of well-known tables."""

import functools
import zoneinfo
from typing import Annotated, Any, Literal, Self

import pydantic

from flowloom.schemas.corpus.label_words import LabelMapping
from flowloom.schemas.corpus.tasks import LabelValue
from flowloom.schemas.errors import did_you_mean

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")

EPOCHS = {"epoch_s": 1_000_000_000, "epoch_ms": 1_000_000, "epoch_us": 1_000, "epoch_ns": 1}
"""Nanoseconds per unit of each time format that counts from 1970-01-01 UTC."""

TablePreset = Literal["zeek", "ctu-13", "unsw-nb15", "cicids2017", "mawilab"]
"""Names of `PRESETS`."""

PRESETS: dict[TablePreset, dict[str, Any]] = {
    "zeek": {
        "columns": {
            "src_ip": "id.orig_h", "dst_ip": "id.resp_h", "src_port": "id.orig_p", "dst_port": "id.resp_p",
            "protocol": "proto", "start": "ts", "duration_s": "duration", "label": "label",
        },
        "separator": "\t",
        "time_format": ("epoch_s", "%Y-%m-%dT%H:%M:%S%.fZ"),
    },
    "ctu-13": {
        "columns": {
            "src_ip": "SrcAddr", "dst_ip": "DstAddr", "src_port": "Sport", "dst_port": "Dport", "protocol": "Proto",
            "start": "StartTime", "duration_s": "Dur", "label": "Label",
        },
        "time_format": "%Y/%m/%d %H:%M:%S%.f",
    },
    "unsw-nb15": {
        "columns": {
            "src_ip": 1, "src_port": 2, "dst_ip": 3, "dst_port": 4, "protocol": 5, "start": 29, "end": 30, "label": 49,
        },
        "header": False,
        "time_format": "epoch_s",
    },
    "cicids2017": {
        "columns": {
            "src_ip": "Source IP", "dst_ip": "Destination IP", "src_port": "Source Port",
            "dst_port": "Destination Port", "protocol": "Protocol", "start": "Timestamp",
            "duration_us": "Flow Duration", "label": "Label",
        },
        "time_format": ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M"),
        "time_zone": "America/Halifax",
        "twelve_hour_from": 7,
        "tolerance_s": 60,
    },
    "mawilab": {
        "columns": {
            "src_ip": "srcIP", "dst_ip": "dstIP", "src_port": "srcPort", "dst_port": "dstPort", "start": None,
            "label": "label",
        },
        "empty_matches_any": True,
    },
}  # fmt: skip
"""Keys of a flow table by the name of a well-known kind of table; keys of the manifest take precedence.

`zeek`: conn.log, also conn.log.labeled of IoT-23. `ctu-13`: binetflow of CTU-13 (Garcia et al. 2014). `unsw-nb15`: the
four tables of UNSW-NB15 without a header. `cicids2017`: GeneratedLabelledFlows of CICIDS2017. `mawilab`: the CSV of
MAWILab.
"""

_LENGTHS = ("end", "duration_s", "duration_ms", "duration_us")

ColumnName = str | Annotated[int, pydantic.Field(ge=1)]
"""Name of a column, or its position from 1 in a table without a header."""


class TableColumns(pydantic.BaseModel):
    """Names of a flow table's columns, without the white space around them, or their positions from 1.

    A row matches any value of a key column that has no name here. Without an end or a duration, or where they are
    empty, a row is a moment.
    """

    model_config = _STRICT

    src_ip: ColumnName | None = None
    """Address of one side."""
    dst_ip: ColumnName | None = None
    """Address of the other side."""
    src_port: ColumnName | None = None
    """Port of the first side, decimal or hexadecimal (0x)."""
    dst_port: ColumnName | None = None
    """Port of the other side."""
    protocol: ColumnName | None = None
    """IP protocol, by number or name; 0 is any protocol without ports."""
    date: ColumnName | None = None
    """Date of start and end, where their columns have the time alone."""
    start: ColumnName | None
    """Begin of the period, or the moment; null if all rows hold at any time."""
    end: ColumnName | None = None
    """End of the period."""
    duration_s: ColumnName | None = None
    """Duration in seconds, in place of an end."""
    duration_ms: ColumnName | None = None
    """Duration in milliseconds."""
    duration_us: ColumnName | None = None
    """Duration in microseconds."""
    label: ColumnName
    """The label."""

    @pydantic.model_validator(mode="after")
    def _one_end(self) -> Self:
        named = [name for name in _LENGTHS if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"columns must name one end or duration, got {', '.join(named)}; remove all but one")
        if self.start is None and (rest := [*named, *(["date"] if self.date else [])]):
            raise ValueError(f"columns must name a start beside {rest[0]}, got none; add start, or remove {rest[0]}")
        return self

    @property
    def named(self) -> dict[str, str | int]:
        """The columns that are named, by our names."""
        return {ours: theirs for ours, theirs in self.model_dump().items() if theirs is not None}


class LabelTable(pydantic.BaseModel):
    """Flow table (CSV, Parquet, a log of Zeek): rows of five-tuple, time and label, matched in either direction.

    A flow matches a row if their times, both on the capture's clock, are at most `tolerance_s` apart.
    """

    model_config = _STRICT

    path: str
    """CSV or a log of Zeek (TSV or JSON), also compressed, or Parquet; relative to the manifest, or a URL."""
    task: str
    """Task that the table labels."""
    preset: TablePreset | None = None
    """Well-known kind of table, whose keys hold where the manifest has none."""
    columns: TableColumns
    """Names of the columns, or their positions."""
    header: bool = True
    """Whether the first line has names; else `columns` has positions. Logs of Zeek have a header of their own."""
    separator: str = pydantic.Field(",", min_length=1, max_length=1)
    """Separator of CSV."""
    time_format: str | tuple[str, ...] = "%Y-%m-%d %H:%M:%S%.f"
    """Format of times, or several: a pattern of Rust's chrono (strptime's, and %.f for fractions of a second), or
    epoch_s, epoch_ms, epoch_us, epoch_ns. A pattern without seconds also reads times that have them."""
    time_zone: str = "UTC"
    """Time zone of times without one. A time that occurs twice when clocks are set back means the earlier one."""
    twelve_hour_from: int | None = pydantic.Field(None, ge=0, le=11)
    """First hour of a day, for times of a 12-hour clock without AM and PM: with 7 the hours 1 to 6 are 13 to 18."""
    clock_offset_s: float = 0.0
    """The table's clock minus the capture's: -10800 for local times of UTC-3 that are read as UTC."""
    tolerance_s: float = pydantic.Field(1.0, ge=0, le=1e9)
    """Largest distance in seconds of a row and a flow that match."""
    empty_matches_any: bool = False
    """Whether an empty address, port or protocol matches any value. Else a row without an address is rejected, and an
    empty port is that of flows without ports."""
    words: LabelMapping = {}
    """Label values by the table's own labels or by patterns of them; null is unknown."""
    unknown_words: Literal["error", "unknown"] = "error"
    """Treatment of labels that neither `words` nor the vocabulary has."""
    default: LabelValue | None = None
    """Label of flows that match no row."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: object) -> object:
        preset = PRESETS.get(given["preset"]) if isinstance(given, dict) and given.get("preset") else None
        if preset is None or not isinstance(given, dict):
            return given
        own = given.get("columns", {})
        if not isinstance(own, dict):
            return given
        known = {
            ours: name for ours, name in preset["columns"].items() if ours not in _LENGTHS or not {*_LENGTHS} & {*own}
        }
        return {**preset, **given, "columns": {**known, **own}}

    @pydantic.field_validator("time_format")
    @classmethod
    def _valid_format(cls, formats: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (formats,) if isinstance(formats, str) else formats:
            if text not in EPOCHS and "%" not in text:
                raise ValueError(
                    f"time_format must be {', '.join(EPOCHS)} or a pattern such as %d/%m/%Y %H:%M:%S, got {text!r}"
                    f"{did_you_mean(text, EPOCHS)}"
                )
        if not formats:
            raise ValueError("time_format must have at least one format, got none; remove the key")
        return formats

    @pydantic.field_validator("time_zone")
    @classmethod
    def _exists(cls, name: str) -> str:
        known = _time_zones()
        if name not in known:
            raise ValueError(
                f"time_zone must be a name of the tz database such as UTC or America/Halifax, got {name!r}"
                f"{did_you_mean(name, sorted(known))}"
            )
        return name

    @pydantic.model_validator(mode="after")
    def _positions_without_a_header(self) -> Self:
        wrong = next((each for each in self.columns.named.items() if isinstance(each[1], int) == self.header), None)
        if wrong is not None and self.header:
            raise ValueError(
                f"columns must be names where a table has a header, got position {wrong[1]} of {wrong[0]}; write "
                "header: false if the first line is a row"
            )
        if wrong is not None:
            raise ValueError(
                f"columns must be positions from 1 with header: false, got {wrong[1]!r} of {wrong[0]}; write its "
                "position, such as 1, or remove header: false"
            )
        return self

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return self.path

    @property
    def time_formats(self) -> tuple[str, ...]:
        """The formats of times in the order in which they are tried."""
        return (self.time_format,) if isinstance(self.time_format, str) else self.time_format


@functools.cache
def _time_zones() -> frozenset[str]:
    return frozenset({"UTC", *zoneinfo.available_timezones()})
