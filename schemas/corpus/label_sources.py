"""Label sources in a manifest: flow tables, packet tables and deep packet inspection (DPI)."""

import zoneinfo
from typing import Annotated, Any, Literal, Self

import pydantic

from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import did_you_mean

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")

EPOCHS = {"epoch_s": 1_000_000_000, "epoch_ms": 1_000_000, "epoch_us": 1_000, "epoch_ns": 1}
"""Nanoseconds per unit of each time format that counts from 1970-01-01 UTC."""


def _texts_of_numbers(mapping: object) -> object:
    if isinstance(mapping, dict):
        return {str(label) if type(label) is int else label: value for label, value in mapping.items()}
    return mapping


LabelMapping = Annotated[dict[str, LabelValue | None], pydantic.BeforeValidator(_texts_of_numbers)]
"""Label values of a task by a source's own labels; null means unknown.

Labels that the mapping lacks keep their meaning if they are label values of the task.
"""


def label_code(label: str, mapping: dict[str, LabelValue | None], task: Task) -> int | None:
    """Returns the label number of a source's own label: -1 means unknown, None means that nothing defines the label.

    Also accepts 0 and 1 as the two values of a binary task.
    """
    if label in mapping:
        value = mapping[label]
        return -1 if value is None else task.index(value)
    if label in task.vocabulary:
        return task.vocabulary.index(label)
    if task.kind == "binary" and label in ("0", "1"):
        return int(label)
    return None


class TableColumns(pydantic.BaseModel):
    """Names of a flow table's columns, without the white space around them.

    A row matches any value of a key column that has no name here. Without an end or a duration a row is a moment.
    """

    model_config = _STRICT

    src_ip: str | None = None
    """Address of one side."""
    dst_ip: str | None = None
    """Address of the other side."""
    src_port: str | None = None
    """Port of the first side."""
    dst_port: str | None = None
    """Port of the other side."""
    protocol: str | None = None
    """IP protocol, by number or name."""
    start: str
    """Begin of the period, or the moment."""
    end: str | None = None
    """End of the period."""
    duration_s: str | None = None
    """Duration in seconds, in place of an end."""
    duration_ms: str | None = None
    """Duration in milliseconds."""
    duration_us: str | None = None
    """Duration in microseconds."""
    label: str
    """The label."""

    @pydantic.model_validator(mode="after")
    def _one_end(self) -> Self:
        named = [name for name in ("end", "duration_s", "duration_ms", "duration_us") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"columns must name one end or duration, got {', '.join(named)}; remove all but one")
        return self


class LabelTable(pydantic.BaseModel):
    """Flow table (CSV or Parquet): rows of five-tuple, time and label, matched in either direction.

    A flow matches a row if their times, both on the capture's clock, are at most `tolerance_s` apart.
    """

    model_config = _STRICT

    path: str
    """CSV, also compressed, or Parquet; relative to the manifest, or a URL."""
    task: str
    """Task that the table labels."""
    columns: TableColumns
    """Names of the columns."""
    separator: str = pydantic.Field(",", min_length=1, max_length=1)
    """Separator of CSV."""
    time_format: str = "%Y-%m-%d %H:%M:%S%.f"
    """Format of times: a pattern of Rust's chrono (strptime's, and %.f for fractions of a second), or epoch_s,
    epoch_ms, epoch_us, epoch_ns."""
    time_zone: str = "UTC"
    """Time zone of times without one. A time that occurs twice when clocks are set back means the earlier one."""
    clock_offset_s: float = 0.0
    """The table's clock minus the capture's: -10800 for local times of UTC-3 that are read as UTC."""
    tolerance_s: float = pydantic.Field(1.0, ge=0, le=1e9)
    """Largest distance in seconds of a row and a flow that match."""
    words: LabelMapping = {}
    """Label values by the table's own labels; null is unknown."""
    unknown_words: Literal["error", "unknown"] = "error"
    """Treatment of labels that neither `words` nor the vocabulary has."""
    default: LabelValue | None = None
    """Label of flows that match no row."""

    @pydantic.field_validator("time_format")
    @classmethod
    def _valid_format(cls, text: str) -> str:
        if text not in EPOCHS and "%" not in text:
            raise ValueError(
                f"time_format must be {', '.join(EPOCHS)} or a pattern such as %d/%m/%Y %H:%M:%S, got {text!r}"
                f"{did_you_mean(text, EPOCHS)}"
            )
        return text

    @pydantic.field_validator("time_zone")
    @classmethod
    def _exists(cls, name: str) -> str:
        known = {"UTC", *zoneinfo.available_timezones()}
        if name not in known:
            raise ValueError(
                f"time_zone must be a name of the tz database such as UTC or America/Halifax, got {name!r}"
                f"{did_you_mean(name, sorted(known))}"
            )
        return name

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return self.path


class PacketTable(pydantic.BaseModel):
    """Packet table (CSV): one row per record of one capture, in file order, with the record's label.

    `rule` derives a flow's label from its packets. `any`: the commonest label other than the vocabulary's first, and
    the first only if all labelled packets have it. `majority`: the label of more than half of the packets. `all`: the
    label of all packets. A flow to which the rule gives no label is unknown.
    """

    model_config = _STRICT

    path: str
    """CSV, relative to the manifest, or a URL."""
    task: str
    """Task that the table labels."""
    rule: Literal["any", "majority", "all"] = "any"
    """Label of a flow from those of its packets: any but the first label value, that of most, or that of all."""
    header: bool = False
    """True if the first line has names."""
    column: str | None = None
    """Name of the label column in the header; by default the last column."""
    separator: str = pydantic.Field(",", min_length=1, max_length=1)
    """Separator of CSV."""
    words: LabelMapping = {}
    """Label values by the table's own labels; null is unknown."""
    unknown_words: Literal["error", "unknown"] = "error"
    """A label without a meaning stops the build, or is unknown."""

    @pydantic.model_validator(mode="after")
    def _named_by_a_header(self) -> Self:
        if self.column is not None and not self.header:
            raise ValueError(f"column needs header: true, got {self.column!r}; write header: true, or remove column")
        return self

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return self.path


class Dpi(pydantic.BaseModel):
    """Labels by deep packet inspection: the result of nDPI, which NFStream runs over the captures, for each flow.

    Results that neither `words` nor the vocabulary has are unknown; the card counts their flows.
    """

    model_config = _STRICT

    task: str
    """Task that DPI labels."""
    field: Literal["application_name", "application_category_name"] = "application_name"
    """Result of nDPI that is the label."""
    min_confidence: int = pydantic.Field(0, ge=0, le=255)
    """Minimum confidence of nDPI: 6 is inspection of content, 1 a guess from the port alone."""
    guesses: Literal["unknown", "keep"] = "unknown"
    """Treatment of results that nDPI guessed from ports or addresses."""
    words: LabelMapping = {}
    """Label values by nDPI's names; others are unknown."""

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return f"nDPI {self.field}"


WindowSpec = LabelTable | PacketTable | Dpi
"""Source that labels single flows, not whole captures."""


def check_labels(spec: WindowSpec, tasks: dict[str, Task]) -> None:
    """Checks that a source's task exists and has the label values that the source uses.

    Raises:
      ValueError: if the task or a label value is unknown.
    """
    if spec.task not in tasks:
        raise ValueError(
            f"task of {spec.name!r} must be one of {', '.join(tasks)}, got {spec.task!r}"
            f"{did_you_mean(spec.task, tasks)}"
        )
    values: list[Any] = [*spec.words.values(), spec.default if isinstance(spec, LabelTable) else None]
    for value in values:
        if value is not None:
            try:
                tasks[spec.task].check(value)
            except ValueError as error:
                raise ValueError(f"words of {spec.name!r}: {error}") from None
