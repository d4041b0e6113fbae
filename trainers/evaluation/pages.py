"""HTML pages from Jinja templates that lie beside the calling module, in one look (`page.html.j2`)."""

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowloom.schemas.extras import extra_needed
from flowloom.trainers.evaluation import page_units

PALETTE = ("#2563a8", "#d1622b", "#2f8f6b", "#a23b72", "#b58a00", "#5b5fc7", "#5c8a99", "#8a5a44")
"""Colours of classes and tasks on light paper, as the variables `--c0` to `--c7` of a page."""
DARK_PALETTE = ("#6ea8e8", "#ef8a57", "#5cc19a", "#da7fb0", "#d9b13b", "#9a9df0", "#8dbccb", "#c8957d")
"""The same colours on dark paper."""
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 2), (7, 2, 1.5, 2))
"""Dashes of lines: the colours repeat with the next dash."""
MOST_LINES = len(PALETTE) * len(DASHES)
"""Number of lines of a figure that a legend tells apart."""
LONG_NAME = 28
"""Number of characters from which a name in a table wraps."""

_SHARED = __package__
_UNITS: Mapping[str, Callable[..., str]] = {
    "count": page_units.count,
    "figure": page_units.figure,
    "percent": page_units.percent,
    "duration": page_units.duration,
    "moment": page_units.moment,
    "size": page_units.size,
    "bin_of": page_units.bin_of,
}
"""Filters of all pages."""


def line_style(number: int) -> tuple[int, tuple[float, ...]]:
    """Returns the position in the palette, and the dashes, of a line of a figure by its number."""
    return number % len(PALETTE), DASHES[number // len(PALETTE) % len(DASHES)]


def rendered(package: str, template: str, filters: Mapping[str, Callable[..., Any]], **shown: Any) -> str:
    """Returns a page; all values are escaped, and a missing value is an error.

    A template extends `page.html.j2` of this package, whose parts every template can import.

    Args:
      package: package whose folder has the template, `__package__` of the caller.
      template: file name of the template.
      filters: functions that format values in the template, by name, beside those of all pages.
      shown: values of the template, by name.

    Raises:
      FlowloomError: if Jinja is not installed.
    """
    with extra_needed("a page needs"):
        import jinja2

    def source(name: str) -> str | None:
        for folder in (package, _SHARED):
            file = importlib.resources.files(folder).joinpath(name)
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(source),
    )
    environment.filters |= {**_UNITS, "name": _name, "line_style": _line_attributes, **filters}
    environment.globals |= {"palette": PALETTE, "dark_palette": DARK_PALETTE}
    return str(environment.get_template(template).render(**shown))


def confusion_rows(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Returns a confusion matrix as rows of the macro `heat`, whose shade is the share of the actual class.

    Args:
      classes: names of the classes.
      counts: counts [actual class][predicted class].
    """
    rows = []
    for name, row in zip(classes, counts, strict=True):
        whole = sum(row)
        cells = [
            {
                "share": number / max(whole, 1),
                "text": page_units.count(number) if number else "",
                "title": f"{page_units.percent(number, whole)} of actual {name} is predicted as {predicted}",
                "marked": predicted == name,
            }
            for predicted, number in zip(classes, row, strict=True)
        ]
        rows.append({"label": name, "cells": cells})
    return rows


def _name(text: str) -> Any:
    """Returns a name for a cell of a table, which wraps if it is long."""
    import markupsafe

    return markupsafe.Markup('<span class="long">{}</span>').format(text) if len(text) > LONG_NAME else text


def _line_attributes(number: int) -> Any:
    """Returns the SVG attributes of a line by its number."""
    import markupsafe

    color, dashes = line_style(number)
    dashed = f' stroke-dasharray="{" ".join(f"{each:g}" for each in dashes)}"' if dashes else ""
    return markupsafe.Markup(f'stroke="var(--c{color})"{dashed}')
