"""HTML pages from Jinja templates that lie beside the calling module."""

import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

from flowloom.schemas.extras import extra_needed


def rendered(package: str, template: str, filters: Mapping[str, Callable[..., Any]], **shown: Any) -> str:
    """Returns a page; all values are escaped, and a missing value is an error.

    Args:
      package: package whose folder has the template, `__package__` of the caller.
      template: file name of the template.
      filters: functions that format values in the template, by name.
      shown: values of the template, by name.

    Raises:
      FlowloomError: if Jinja is not installed.
    """
    with extra_needed("a page needs"):
        import jinja2
    text = importlib.resources.files(package).joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= filters
    return str(environment.from_string(text).render(**shown))
