"""The page and the JSON of a reproduction: a paper's figures and ours, side by side, whether its claims hold or not."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.pipelines.reproduce.engine.claims import Claim
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.evaluation.pages import rendered
from flowloom.trainers.recipes.run_directory import write_json, write_text

TEMPLATE = "reproduction.html.j2"
PAGE, RESULTS = "index.html", "results.json"


Row = Mapping[str, str | float | Mean | None]
"""A row of a table by column; some may not be shown."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of figures; `columns` are the keys of a row that the page shows, and their headings."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often each class was said of each: counts [true][said]."""

    title: str
    words: Sequence[str]
    counts: Sequence[Sequence[int]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each class with its cells: the count, its share of the row, and whether it is right."""
        return [
            {
                "word": word,
                "cells": [
                    {"count": count, "share": count / max(sum(counts), 1), "right": said == true}
                    for said, count in enumerate(counts)
                ],
            }
            for true, (word, counts) in enumerate(zip(self.words, self.counts, strict=True))
        ]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: sentences, tables by their name in results.json, figures as SVG, confusions."""

    title: str
    text: Sequence[str] = ()
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    figures: Sequence[str] = ()
    confusions: Sequence[Confusion] = ()


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What came of repeating a paper's experiments.

    Attributes:
      paper: its title and authors.
      lines: what data there was, in sentences; the first thing a reader sees.
      data: the same as JSON-ready values.
      claims: all of them, also those that do not hold and those that too few repeats leave open.
      command: how to get the same again.
      digits: of means and of the intervals of claims.
      note: what these intervals are.
    """

    paper: str
    lines: Sequence[str]
    data: Mapping[str, Any]
    claims: Sequence[Claim]
    sections: Sequence[Section]
    command: str = ""
    digits: int = 1
    note: str = (
        "Differences are paired: both methods on the same splits. Intervals are of Student's t over the repeats, in "
        "points of accuracy."
    )

    def document(self) -> dict[str, Any]:
        """Return what results.json holds: data, tables by name, and claims."""
        tables = {name: table.rows for section in self.sections for name, table in section.tables.items()}
        return {
            "data": {**self.data, "lines": list(self.lines), "command": self.command},
            "tables": {name: [_plain(row) for row in rows] for name, rows in tables.items()},
            "claims": [claim.document() for claim in self.claims],
        }

    def page(self) -> str:
        """Return one HTML page with inline styles and figures."""
        held, undecided = sum(c.holds for c in self.claims), sum(not c.decided for c in self.claims)
        return rendered(__package__, TEMPLATE, {"shown": shown}, reproduction=self, held=held, undecided=undecided)

    def write(self, out: Path) -> dict[str, Any]:
        """Write index.html and results.json into a directory; return what the latter holds."""
        document = self.document()
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / PAGE, self.page())
        write_json(out / RESULTS, document)
        return document


def shown(value: str | float | Mean | None, digits: int = 1) -> str:
    """Return a figure as a table shows it: a mean with half the width of its interval."""
    if value is None:
        return ""
    if isinstance(value, Mean):
        half = "" if value.high is None else f" ± {value.high - value.mean:.{digits}f}"
        return f"{value.mean:.{digits}f}{half}"
    return value if isinstance(value, str) else f"{value:,.2f}".rstrip("0").rstrip(".")


def _plain(row: Row) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) if isinstance(value, Mean) else value for name, value in row.items()}
