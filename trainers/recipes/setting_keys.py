"""Keys of recipe settings: `section.key`, and the flat keys of Flowloom 0.1."""

from collections.abc import Mapping
from typing import Any

import pydantic
import yaml

from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.trainers.recipes.feed_settings import FeedSettings
from flowloom.trainers.recipes.loss_settings import LossSettings
from flowloom.trainers.recipes.model_settings import ModelSettings
from flowloom.trainers.recipes.schedule_settings import ScheduleSettings

SECTIONS: dict[str, type[pydantic.BaseModel]] = {
    "model": ModelSettings,
    "loss": LossSettings,
    "schedule": ScheduleSettings,
    "feed": FeedSettings,
}
OTHER_FLAT_KEYS = {"model.kind": "model", "loss.weights": "loss_weights"}
"""Flat keys that are not the last part of `section.key`."""
SECTION_KEYS = (
    "seed",
    *(f"{section}.{key}" for section, settings in SECTIONS.items() for key in settings.model_fields),
)
FLAT_KEYS: dict[str, str] = {OTHER_FLAT_KEYS.get(key, key.rpartition(".")[2]): key for key in SECTION_KEYS}
"""`section.key` by flat key, as recipes of 0.1 hold it and `--set` accepts it; `seed` belongs to no section."""


def section_key(key: str) -> str:
    """Returns the `section.key` of a flat key, or the key itself where it is one already.

    Raises:
      FlowloomError: if no setting has the key.
    """
    known = (*FLAT_KEYS, *SECTION_KEYS)
    if key not in known:
        near = did_you_mean(key, known) or f"; the settings are {', '.join(SECTION_KEYS)}"
        raise FlowloomError(f"recipe has no setting {key!r}{near}")
    return FLAT_KEYS.get(key, key)


def in_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as nested sections, from sections, `section.key` and flat keys.

    Raises:
      FlowloomError: if no setting has a key, or a setting is given twice.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key in SECTIONS and isinstance(value, Mapping | pydantic.BaseModel):
            given = {section_key(f"{key}.{inner}"): each for inner, each in dict(value).items()}
        else:
            given = {key if key == "name" else section_key(key): value}
        for place, each in given.items():
            section, _, inner = place.rpartition(".")
            target = found.setdefault(section, {}) if section else found
            if inner in target:
                raise FlowloomError(f"recipe gives {place} twice; remove one of them")
            target[inner] = each
    return found


def parse_setting(text: str) -> tuple[str, Any]:
    """Returns the `section.key` and the value of `key=value`, whose value is YAML.

    Raises:
      FlowloomError: if the text has another form, or no setting has the key.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise FlowloomError(f"a recipe setting must have the form key=value, got {text!r}")
    place = section_key(key)
    try:
        return place, yaml.safe_load(value)
    except yaml.YAMLError:
        raise FlowloomError(f"{place} must be a YAML value, got {value!r}; quote it or close its brackets") from None
