"""Feeds of a dataset by recipe or row spec: the arguments that `.tf`, `.torch` and `.to_numpy` share."""

import json
from collections.abc import Mapping
from typing import Any

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import row_spec, train_rows
from flowloom.trainers.recipes.schedule_settings import STRIPED

RecipeOrSpec = str | Recipe | RowSpec
"""Name of a recipe, a recipe, or the row spec of a model."""


def named_recipe(name: str, settings: Mapping[str, Any]) -> Recipe:
    """Returns a named recipe with other values for some settings, by flat key or `section.key`.

    Raises:
      FlowloomError: if the recipe or a setting is unknown, or a value is of the wrong type or out of range.
    """
    return Recipe.named(name, setting_texts(settings))


def setting_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns settings as the texts `key=value` of the command line."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def feed_arguments(
    dataset: Dataset,
    split: str,
    recipe: RecipeOrSpec,
    batch_size: int,
    seed: int | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the arguments of a feed.

    Those of a recipe on the train split with a seed are the trainer's own; in all other cases the feed has all rows.

    Raises:
      FlowloomError: if the recipe does not fit the dataset, or has rows that belong to a run.
    """
    if not isinstance(recipe, str | Recipe):
        if settings:
            raise FlowloomError(f"settings must come with a recipe, got {', '.join(settings)} with a row spec")
        return {
            "dataset": dataset, "split": split, "features": recipe, "batch_size": batch_size, "seed": seed
        }  # fmt: skip
    chosen = named_recipe(recipe, settings) if isinstance(recipe, str) else recipe
    if seed is not None:
        chosen = chosen.changed({"seed": seed})
    trained = dataset.restricted(chosen.feed.tasks or [task.name for task in dataset.tasks])
    features = row_spec(chosen, trained)
    arguments = {"dataset": trained, "split": split, "features": features, "batch_size": batch_size, "seed": seed}
    if split != "train" or seed is None:
        return arguments
    if chosen.feed.balance is not None and chosen.feed.balance.how == "smote":
        raise FlowloomError("feed.balance with how=smote makes rows in a run; train with it, or choose another how")
    paradigm = trained.card.layout if chosen.schedule.paradigm == "auto" else chosen.schedule.paradigm
    if paradigm == "incremental":
        raise FlowloomError(
            "schedule.paradigm=incremental has a feed for each phase of a training; train with it, or choose another"
        )
    rows = train_rows(chosen, trained, features)
    return arguments | rows | {"striped": paradigm in STRIPED, "balance": chosen.feed.balance}
