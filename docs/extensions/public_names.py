"""Reference of the Python surface as Markdown: docstrings of all names in `flowloom.__all__` and `flowloom.beam`."""

import inspect
import types
from collections.abc import Iterable
from typing import Any

import pydantic

import flowloom as fl
import flowloom.pipelines.api.beam_transforms as fl_beam


def public_names() -> str:
    """Returns the functions, then the classes, then the modules of `flowloom.__all__`."""
    values = {name: getattr(fl, name) for name in fl.__all__ if not name.startswith("_")}
    values = {name: value for name, value in values.items() if value is not fl_beam}  # has a page of its own
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Modules": []}
    for name, value in values.items():
        kind = "Modules" if inspect.ismodule(value) else "Classes" if inspect.isclass(value) else "Functions"
        kinds[kind].append(name)
    return "\n".join(
        f"## {kind}\n\n{_directives('flowloom', {name: values[name] for name in names})}"
        for kind, names in kinds.items()
        if names
    )


def beam_names() -> str:
    """Returns the PTransforms and functions of `flowloom.beam`."""
    return _directives(
        "flowloom.pipelines.api.beam_transforms", {name: getattr(fl_beam, name) for name in fl_beam.__all__}
    )


def _directives(module: str, values: dict[str, Any]) -> str:
    """Returns a block of reStructuredText with a directive of autodoc for each value."""
    lines = [line for name, value in values.items() for line in _directive(module, name, value)]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def _directive(module: str, name: str, value: Any) -> Iterable[str]:
    if isinstance(value, types.ModuleType):
        text = inspect.cleandoc(value.__doc__ or "").splitlines()
        inner = (line for each in value.__all__ for line in _directive(f"{module}::{name}", each, getattr(value, each)))
        return (f".. py:module:: {module}.{name}", "", *text, "", *inner)
    if not inspect.isclass(value):
        return (f".. autofunction:: {_place(module, name)}", "")
    value.__name__ = value.__qualname__ = name  # the public name; otherwise autodoc writes that it is an alias
    members = [
        member for member in vars(value) if not member.startswith(("_", "model_")) and _is_described(value, member)
    ]
    fields = (f"   :members: {', '.join(members)}",) if members else ()
    return (
        f".. autoclass:: {_place(module, name)}{'()' if issubclass(value, pydantic.BaseModel) else ''}",
        *fields,
        "",
    )


def _place(module: str, name: str) -> str:
    """Returns a name as autodoc finds it: two colons follow the part that can be imported."""
    return f"{module}.{name}" if "::" in module else f"{module}::{name}"


def _is_described(value: type, member: str) -> bool:
    """Returns whether a member of a class has a docstring of its own; fields of models have tables elsewhere."""
    found = inspect.getattr_static(value, member)
    if isinstance(value, type) and issubclass(value, pydantic.BaseModel) and member in value.model_fields:
        return False
    inner = getattr(found, "fget", None) or getattr(found, "__func__", None) or getattr(found, "func", None) or found
    return inspect.isfunction(inner) and bool(inner.__doc__)
