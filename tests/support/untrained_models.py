"""Untrained models of all recipes and of more mixtures, for tests of what exports and checks do with any model."""

from typing import Any

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.recipe import Recipe

TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="attack", kind="binary"),
)
MIXTURES = {
    "ple": ("architecture=ple", "experts=2"),
    "cgc": ("architecture=cgc",),
    "shared": ("architecture=shared_bottom", "experts=1"),
    "dselect-k": ("architecture=dselect_k", "experts=4"),
    "first packet": ("gate_input=first_packet",),
}
"""Settings of recipe `multa` by name."""


def untrained(recipe: Recipe) -> Any:
    """Returns an untrained model of a recipe."""
    specs = {
        "flows": FeatureSpec(k=12, channels=("size", "direction", "gap"), scaling="fixed"),
        "packets": ByteSpec(length=120),
        "tables": TableSpec(moments={f"f{at}": (0.0, 1.0) for at in range(12)}, scaling="standard", missing="mean"),
    }
    return MODELS[recipe.model.kind](recipe, specs[recipe.view], TASKS)
