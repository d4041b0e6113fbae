"""Label sources beyond paths, as a manifest's user writes them: flow tables, packet tables and DPI."""

import zoneinfo
from typing import Annotated, Any, Literal, Self

import pydantic

from flowloom.schemas.corpus.tasks import LabelValue, Task
from flowloom.schemas.errors import did_you_mean

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")

EPOCHS = {"epoch_s": 1_000_000_000, "epoch_ms": 1_000_000, "epoch_us": 1_000, "epoch_ns": 1}
"""Time formats that count from 1970-01-01 UTC, and the nanoseconds of their unit."""


def _numbers_as_words(words: object) -> object:
    if isinstance(words, dict):
        return {str(word) if type(word) is int else word: value for word, value in words.items()}
    return words


Words = Annotated[dict[str, LabelValue | None], pydantic.BeforeValidator(_numbers_as_words)]
"""What a source's words mean for a task; null means unknown. Words of the vocabulary mean themselves unless listed."""


def word_code(word: str, words: dict[str, LabelValue | None], task: Task) -> int | None:
    """Return the label number that a source's word means, -1 for one that means unknown, None for one that is foreign.

    A binary task takes 0 and 1 for its two words.
    """
    if word in words:
        value = words[word]
        return -1 if value is None else task.index(value)
    if word in task.vocabulary:
        return task.vocabulary.index(word)
    if task.kind == "binary" and word in ("0", "1"):
        return int(word)
    return None


class TableColumns(pydantic.BaseModel):
    """The names of a flow table's columns. A key column that is not named means any value.

    Without an end or a duration a row is a moment. White space around names does not count.
    """

    model_config = _STRICT

    src_ip: str | None = None
    dst_ip: str | None = None
    src_port: str | None = None
    dst_port: str | None = None
    protocol: str | None = None
    start: str
    end: str | None = None
    duration_s: str | None = None
    duration_ms: str | None = None
    duration_us: str | None = None
    label: str

    @pydantic.model_validator(mode="after")
    def _one_end(self) -> Self:
        named = [name for name in ("end", "duration_s", "duration_ms", "duration_us") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"name one column that says when a row ends, got {', '.join(named)}")
        return self


class LabelTable(pydantic.BaseModel):
    """A flow table (CSV or Parquet): rows of five-tuple, time and label, matched in either direction.

    A flow matches a row when its time and the row's, moved to the capture's clock, are at most `tolerance_s` apart.
    """

    model_config = _STRICT

    path: str
    task: str
    columns: TableColumns
    separator: str = pydantic.Field(",", min_length=1, max_length=1)
    time_format: str = "%Y-%m-%d %H:%M:%S%.f"
    """How texts say times: a pattern of Rust's chrono (strptime's, and %.f for fractions of a second), or epoch_s,
    epoch_ms, epoch_us, epoch_ns."""
    time_zone: str = "UTC"
    """Of times that do not say theirs. A time that happens twice when clocks are set back is the earlier one."""
    clock_offset_s: float = 0.0
    """The table's clock less the capture's: -10800 for local times of UTC-3 that are read as UTC."""
    tolerance_s: float = pydantic.Field(1.0, ge=0, le=1e9)
    words: Words = {}
    unknown_words: Literal["error", "unknown"] = "error"
    """What a label is that neither `words` nor the vocabulary has."""
    default: LabelValue | None = None
    """The label of flows that no row matches."""

    @pydantic.field_validator("time_format")
    @classmethod
    def _says_a_time(cls, text: str) -> str:
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
    """A packet table (CSV): row by row the label of each record of one capture, in file order.

    `any`: a flow has the word most of its packets have but the vocabulary's first, and the first only where all its
    labelled packets have it; `majority`: the word of more than half of its packets; `all`: the word of all of them.
    Where the rule gives no word the label is unknown.
    """

    model_config = _STRICT

    path: str
    task: str
    rule: Literal["any", "majority", "all"] = "any"
    header: bool = False
    column: str | None = None
    """The column of labels, by its name in the header; the last one unless named."""
    separator: str = pydantic.Field(",", min_length=1, max_length=1)
    words: Words = {}
    unknown_words: Literal["error", "unknown"] = "error"

    @pydantic.model_validator(mode="after")
    def _named_by_a_header(self) -> Self:
        if self.column is not None and not self.header:
            raise ValueError(f"a column is named by a header; write header: true, or leave out column {self.column!r}")
        return self

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return self.path


class Dpi(pydantic.BaseModel):
    """Labels by deep packet inspection: what nDPI, run by NFStream over the captures, says of each flow.

    Names that neither `words` nor the vocabulary has are unknown; the card counts their flows.
    """

    model_config = _STRICT

    task: str
    field: Literal["application_name", "application_category_name"] = "application_name"
    min_confidence: int = pydantic.Field(0, ge=0, le=255)
    """The least confidence of nDPI that counts: 6 is inspection itself, 1 the port alone."""
    guesses: Literal["unknown", "keep"] = "unknown"
    """What a result is that nDPI guessed from ports or addresses."""
    words: Words = {}

    @property
    def name(self) -> str:
        """The source's name in the card."""
        return f"nDPI {self.field}"


WindowSpec = LabelTable | PacketTable | Dpi
"""A source whose labels are of flows, not of whole captures."""


def check_words(spec: WindowSpec, tasks: dict[str, Task]) -> None:
    """Check that a source's task exists and has the words that the source is to mean.

    Raises:
      ValueError: naming what is not known.
    """
    if spec.task not in tasks:
        raise ValueError(
            f"{spec.name!r} labels the task {spec.task!r}; tasks are {', '.join(tasks)}{did_you_mean(spec.task, tasks)}"
        )
    values: list[Any] = [*spec.words.values(), spec.default if isinstance(spec, LabelTable) else None]
    for value in values:
        if value is not None:
            try:
                tasks[spec.task].index(value)
            except ValueError as error:
                raise ValueError(f"words of {spec.name!r}: {error}") from None
