"""HTML page and results.json of a reproduction: the paper's claims and figures beside ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.pipelines.reproduce.engine.claims import Claim, judged
from flowloom.schemas.atomic_files import write_json, write_text
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.evaluation.pages import confusion_rows, rendered

TEMPLATE = "reproduction.html.j2"
PAGE, RESULTS = "index.html", "results.json"


Row = Mapping[str, str | float | Mean | None]
"""A row of a table by column; the page may show only some columns."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of figures; `columns` maps the keys that the page shows to their headings."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts [actual][predicted]."""

    title: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table: by actual class its cells of predicted classes."""
        return confusion_rows(self.classes, self.counts)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: sentences, tables by their name in results.json, SVG figures, confusion matrices."""

    title: str
    text: Sequence[str] = ()
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    figures: Sequence[str] = ()
    confusions: Sequence[Confusion] = ()


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """The results of a paper's experiments.

    Attributes:
      paper: title and authors.
      lines: sentences about the data, at the top of the page.
      data: the same as JSON-ready values.
      claims: all claims, also those that fail or are not decided; the page shows them `judged` together.
      command: repeats the reproduction.
      digits: of means and of the intervals of claims.
      note: explains the intervals.
    """

    paper: str
    lines: Sequence[str]
    data: Mapping[str, Any]
    claims: Sequence[Claim]
    sections: Sequence[Section]
    command: str = ""
    digits: int = 1
    note: str = (
        "Differences are paired: both methods use the same splits. Intervals are of Student's t over the repeats, "
        "corrected for the rows that repeated splits share (Nadeau and Bengio, 2003), in points of accuracy."
    )

    def document(self) -> dict[str, Any]:
        """Returns the content of results.json: data, tables by name, and claims."""
        tables = {name: table.rows for section in self.sections for name, table in section.tables.items()}
        return {
            "data": {**self.data, "lines": list(self.lines), "command": self.command},
            "tables": {name: [_plain(row) for row in rows] for name, rows in tables.items()},
            "claims": [claim.document() for claim in judged(self.claims)],
        }

    def page(self) -> str:
        """Returns one HTML page with inline styles and figures."""
        claims = judged(self.claims)
        held, undecided = sum(c.holds for c in claims), sum(not c.decided for c in claims)
        return rendered(
            __package__, TEMPLATE, {"shown": shown}, reproduction=self, claims=claims, held=held, undecided=undecided
        )

    def write(self, out: Path) -> dict[str, Any]:
        """Writes index.html and results.json into a directory, and returns the content of results.json."""
        document = self.document()
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / PAGE, self.page())
        write_json(out / RESULTS, document)
        return document


def shown(value: str | float | Mean | None, digits: int = 1) -> str:
    """Returns a figure as text for a table: a mean with half the width of its interval."""
    if value is None:
        return ""
    if isinstance(value, Mean):
        half = "" if value.high is None else f" ± {value.high - value.mean:.{digits}f}"
        return f"{value.mean:.{digits}f}{half}"
    return value if isinstance(value, str) else f"{value:,.2f}".rstrip("0").rstrip(".")


def _plain(row: Row) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) if isinstance(value, Mean) else value for name, value in row.items()}
