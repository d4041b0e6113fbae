"""Untrained models of all recipes and of more mixtures, for tests of what exports and checks do with any model."""

from typing import Any

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.recipe import Recipe

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="attack", kind="binary"),
)
MIXTURES = {
    "ple": ("multa", ("architecture=ple", "experts=2", "units=4")),
    "cgc": ("multa", ("architecture=cgc", "units=4")),
    "shared": ("multa", ("architecture=shared_bottom", "experts=1", "units=4")),
    "dselect-k": ("multa", ("architecture=dselect_k", "experts=4", "units=4")),
    "first packet": ("multa", ("gate_input=first_packet", "units=4")),
    "attention": ("flow-net", ("mixing=attention", "pooling=[attention]", "embedding=0")),
}
"""Structures that no named recipe has: the recipe that comes nearest, and its changed settings."""

NETWORKS = [name for name in RECIPES if not Recipe.named(name).model.is_trees]
"""Named recipes that train by epochs, unlike trees."""


def untrained(recipe: Recipe) -> Any:
    """Returns an untrained model of a recipe."""
    channels = recipe.feed.channels if recipe.feed.scaling == "none" else ("size", "direction", "gap")
    specs = {
        "flows": FeatureSpec(k=12, channels=channels, scaling="none" if recipe.feed.scaling == "none" else "fixed"),
        "packets": ByteSpec(length=120),
        "tables": TableSpec(moments={f"f{at}": (0.0, 1.0) for at in range(12)}, scaling="standard", missing="mean"),
    }
    return MODELS[recipe.model.kind](recipe, specs[recipe.view], TASKS)
