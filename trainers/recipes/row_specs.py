"""Rows of a recipe: its model's view of the rows of a dataset, and its choice among them."""

from typing import Any

from flowloom.schemas.arrow.rows import View
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.few_labels import kept_flows
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_spec import RowSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.recipe import Recipe

AnyRowSpec = FeatureSpec | ByteSpec | TableSpec

ROW_SPECS: dict[View, type[AnyRowSpec]] = {"flows": FeatureSpec, "packets": ByteSpec, "tables": TableSpec}
"""Row specs by view; a run stores one of them."""


def row_spec(recipe: Recipe, dataset: Dataset) -> AnyRowSpec:
    """Returns the row spec of a recipe on a dataset, with the scaling of the dataset's train split.

    Raises:
      FlowloomError: if the dataset lacks the view, or features that the recipe needs.
    """
    if recipe.view == "packets":
        return ByteSpec.of(dataset.card, recipe.feed.length)
    if recipe.view == "tables":
        return TableSpec.of(dataset, scaling=recipe.feed.table_scaling, most=recipe.feed.most_features)
    return FeatureSpec.of(dataset.card, recipe.feed.k, recipe.feed.channels, recipe.feed.scaling, recipe.feed.signed)


def train_rows(recipe: Recipe, dataset: Dataset, features: RowSpec) -> dict[str, Any]:
    """Returns the arguments of a recipe's feed on the train split that choose its rows, but for balancing."""
    feed = recipe.feed
    return {
        "seed": recipe.seed,
        "window_rows": feed.window_rows,
        "miniset_rows": feed.miniset_rows,
        "kept": kept_flows(dataset, feed.labels_per_class, recipe.seed, features.view),
        "only_labelled": feed.only_labelled,
        "augment": feed.augmentation,
    }
