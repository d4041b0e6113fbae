"""Reference reading of JSON schemas: the keywords that pydantic writes, without formats and bounds."""

from collections.abc import Iterator
from typing import Any

KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "number": (int, float), "null": type(None)}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "") -> Iterator[str]:
    """Yields a line for each part of a document that a schema does not allow."""
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            found = [list(faults(value, each, root, place)) for each in schema[keyword]]
            if all(found):
                yield from min(found, key=len)
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: {value!r} is not {schema['const']!r}"
    kind = schema.get("type")
    whole = kind == "integer" and isinstance(value, int) and not isinstance(value, bool)
    if kind and not whole and not isinstance(value, KINDS.get(kind, ())):
        yield f"{place}: {value!r} is not of type {kind}"
        return
    if kind == "object":
        keys = schema.get("properties", {})
        yield from (f"{place}.{key}: required" for key in schema.get("required", ()) if key not in value)
        for key, each in value.items():
            others = schema.get("additionalProperties", {})
            if str(key) not in keys and others is False:
                yield f"{place}.{key}: unknown key"
            else:
                yield from faults(each, keys.get(str(key), others or {}), root, f"{place}.{key}")
    if kind == "array":
        for at, each in enumerate(value):
            yield from faults(each, schema.get("items", {}), root, f"{place}.{at}")
