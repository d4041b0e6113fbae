"""HTML pages: a template beside the module that shows it, filled and escaped."""

import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

from flowloom.schemas.errors import FlowloomError


def rendered(package: str, template: str, filters: Mapping[str, Callable[..., Any]], **shown: Any) -> str:
    """Return a page; everything shown is escaped, and a name that the template lacks is an error.

    Args:
      package: the package whose folder holds the template, `__package__` of the caller.
      template: its file name.
      filters: functions that the template calls by name, to write figures.
      shown: values that the template asks for by name.

    Raises:
      FlowloomError: if Jinja is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise FlowloomError(f"a page needs {error.name}; install it with: pip install 'flowloom[train]'") from None
    text = importlib.resources.files(package).joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= filters
    return str(environment.from_string(text).render(**shown))
