"""Messages for invalid manifests: the place of each invalid key, the keys that are known there, the nearest one."""

from typing import Any, get_args

import pydantic

from flowloom.schemas.corpus.published_sources import FORMATS
from flowloom.schemas.errors import did_you_mean, placed_message

CAPTURED = "glob"
"""Tag of entries of `captures` that are captures; the others are tagged with their published format."""


def explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """Returns all problems of a manifest in one line.

    Args:
      error: the error of validating the manifest.
      model: the model that validated it.
    """
    found = error.errors()
    # an invalid entry also makes its list seem too short: report the innermost problems only
    inner = [entry for entry in found if not any(_contains(entry, other) for other in found)]
    return "; ".join(_explain_one(entry, model) for entry in inner)


def _contains(outer: Any, inner: Any) -> bool:
    place = outer["loc"]
    return len(inner["loc"]) > len(place) and inner["loc"][: len(place)] == place


def _explain_one(entry: Any, manifest: type[pydantic.BaseModel]) -> str:
    """Returns one pydantic error as `captures.0.glb: unknown key, expected one of ...`."""
    loc = entry["loc"]
    tagged = loc[:1] == ("captures",) and len(loc) > 2  # the third part is the entry's format, not a key
    place = ".".join(str(part) for part in ((*loc[:2], *loc[3:]) if tagged else loc)) or "manifest"
    if entry["type"] == "union_tag_invalid":
        tag = entry["ctx"]["tag"]
        return f"{place}.published: expected one of {', '.join(FORMATS)}, got {tag!r}{did_you_mean(tag, FORMATS)}"
    if entry["type"] == "extra_forbidden":
        known = _known_keys(manifest, loc[:-1])
        listed, of, key = ", ".join(known), "", str(loc[-1])
        if loc[:1] == ("captures",) and len(loc) == 4:  # an entry's own keys, which depend on its kind
            if loc[2] == CAPTURED:
                known, listed = [*known, "published"], f"{listed}, or published with keys of its own"
            else:
                of = f" of published: {loc[2]}"
        return f"{place}: unknown key{of}, expected one of {listed}{did_you_mean(key, known)}"
    if entry["type"] == "missing":
        return f"{place}: required and missing"
    return placed_message(place, entry)


def _known_keys(model: type[pydantic.BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Returns the keys that the model at a place of the manifest has."""
    for part in place:
        if part in FORMATS:
            model = FORMATS[str(part)]
        elif isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[pydantic.BaseModel] | None:
    """Returns the model in an annotation such as `tuple[Task, ...]` or `Dpi | None`."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
