"""Row specs of a recipe: its model's view of the rows of a dataset."""

from flowloom.schemas.arrow.rows import View
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.flow_spec import FeatureSpec
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
