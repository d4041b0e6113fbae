"""Label sources in a manifest: flow tables, packet tables and deep packet inspection (DPI)."""

from typing import Any, Literal, Self

import pydantic

from flowloom.schemas.corpus.label_table import LabelTable
from flowloom.schemas.corpus.label_words import LabelMapping
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import did_you_mean

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")


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
