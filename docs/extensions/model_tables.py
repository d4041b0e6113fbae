"""Reference of pydantic models as Markdown: a section for each model with its docstring and a table of its keys."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import pydantic
from sphinx.pycode import ModuleAnalyzer

from flowloom.schemas.corpus.flow_definition import PRESETS, FlowDefinition
from flowloom.schemas.corpus.flow_definition import SUMMARIES as PRESET_SUMMARIES
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.named_recipes import SUMMARIES as RECIPE_SUMMARIES

BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def model_tables(model: type[pydantic.BaseModel]) -> str:
    """Returns the section of a model, then those of the models in its fields, each once."""
    models = list(dict.fromkeys(_reached(model)))
    names = {each.__name__: each for each in models}
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    parts = []
    for name, each in names.items():
        of = schema if each is model else definitions.get(name)
        if of is not None and "properties" in of:
            anchor = f"({model.__name__.lower()}-{name.lower()})="
            parts.append("\n\n".join([f"{anchor}\n## {name}", _text(each), _table(model, each, of, names)]))
    return "\n\n".join(parts)


def preset_table() -> str:
    """Returns the presets with their summaries, and a table of the options in which they differ."""
    definitions = {name: FlowDefinition.of(name).model_dump(mode="json", exclude={"preset"}) for name in PRESETS}
    differing = [
        key for key in definitions["default"] if len({json.dumps(each[key]) for each in definitions.values()}) > 1
    ]
    rows = [[f"`{key}`", *(_value(each[key]) for each in definitions.values())] for key in differing]
    summaries = [[f"`{name}`", PRESET_SUMMARIES[name]] for name in PRESETS]
    header = ["option", *(f"`{name}`" for name in PRESETS)]
    return f"{_rows(['preset', 'summary'], summaries)}\n\n{_rows(header, rows)}\n\n{model_tables(FlowDefinition)}"


def recipe_table() -> str:
    """Returns the named recipes: summary, and the settings that differ from the defaults."""
    rows = []
    for name, settings in RECIPES.items():
        flat = ", ".join(f"`{key}={_plain(value)}`" for key, value in _flat(settings))
        rows.append([f"`{name}`", RECIPE_SUMMARIES[name], flat])
    return _rows(["recipe", "summary", "settings that differ from the defaults"], rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{prefix}{key}", value


def _reached(model: Any) -> Iterator[type[pydantic.BaseModel]]:
    """Yields a model and all models in its annotations, depth first."""
    if inspect.isclass(model) and issubclass(model, pydantic.BaseModel):
        yield model
        for field in model.model_fields.values():
            yield from _reached(field.annotation)
    for inner in get_args(model):
        yield from _reached(inner)


def _text(model: type) -> str:
    """Returns a docstring as Markdown, examples as blocks of Python."""
    lines, in_example = [], False
    for line in inspect.cleandoc(model.__doc__ or "").splitlines():
        if line.startswith(">>>") and not in_example:
            lines.append("```pycon")
            in_example = True
        elif in_example and not line.strip():
            lines.append("```")
            in_example = False
        lines.append(line)
    return "\n".join([*lines, "```"] if in_example else lines)


def _table(root: type, model: type[pydantic.BaseModel], schema: Mapping[str, Any], names: Mapping[str, type]) -> str:
    required = schema.get("required", ())
    rows = []
    for key, of in schema["properties"].items():
        field = model.model_fields.get(key) or next(each for each in model.model_fields.values() if key == each.alias)
        text = _described(model, key) or field.description or ""
        default = "required" if key in required else _default(of)
        rows.append([f"`{key}`", _type(root, of, names), default, text])
    return _rows(["key", "value", "default", "meaning"], rows)


def _described(model: type[pydantic.BaseModel], key: str) -> str:
    """Returns the docstring of a field, of the model itself or of the model that it inherits the field from."""
    for each in model.__mro__:
        if issubclass(each, pydantic.BaseModel) and each is not pydantic.BaseModel:
            found = ModuleAnalyzer.for_module(each.__module__).find_attr_docs().get((each.__name__, key))
            if found:
                return " ".join(found).strip()
    return ""


def _type(root: type, of: Mapping[str, Any], names: Mapping[str, type]) -> str:
    """Returns the form of a value in words, with links to the sections of models."""
    if "$ref" in of:
        name = of["$ref"].rpartition("/")[2]
        return f"[{name}](#{root.__name__.lower()}-{name.lower()})" if name in names else name
    choices = of.get("anyOf") or of.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(root, each, names) for each in choices))
    if "enum" in of or "const" in of:
        return ", ".join(_value(each) for each in of.get("enum", [of.get("const")]))
    if of.get("type") == "array":
        items = of.get("items") or {"anyOf": of.get("prefixItems")} if of.get("items") or of.get("prefixItems") else {}
        return f"list of {_type(root, items, names)}" if items else "list"
    if of.get("type") == "object":
        inner = of.get("additionalProperties")
        return f"mapping to {_type(root, inner, names)}" if isinstance(inner, Mapping) and inner else "mapping"
    bounds = [f"{word} {of[key]:,}" for key, word in BOUNDS.items() if key in of]
    return " ".join([of.get("type", "any"), *([f"({', '.join(bounds)})"] if bounds else [])])


def _default(of: Mapping[str, Any]) -> str:
    if "$ref" in of and isinstance(of.get("default"), Mapping):
        return "its defaults"
    return _value(of["default"]) if "default" in of else ""


def _plain(value: Any) -> str:
    return json.dumps(value, default=str).replace('"', "")


def _value(value: Any) -> str:
    return f"`{_plain(value)}`"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
