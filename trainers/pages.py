"""Pages for people: a template of this package and what it shows, to one HTML file."""

import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def rendered(template: str, filters: Mapping[str, Callable[..., str]], **shown: Any) -> str:
    """Return a page; everything shown is escaped, and a name that the template asks for in vain is an error.

    Args:
      template: its file name.
      filters: what the template calls by name, to write figures.
      shown: what the template asks for by name.
    """
    text = importlib.resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= filters
    return environment.from_string(text).render(**shown)
