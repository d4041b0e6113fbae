"""First weights: a recipe and a seed give the same weights after every change of the network's code.

Published figures depend on the order in which layers are made, and no other test shows it. After an intended change
write the file again: `python tests/trainers/recipes/test_first_weights.py`.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.recipe import Recipe

NETWORKS = [name for name in RECIPES if not Recipe.named(name).model.is_trees]
PINNED = Path(__file__).with_name("first_weights.json")
"""One number per weight, by version of Keras, which has the initialisers, and by recipe."""
SEED = 11
TASKS = [
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="attack", kind="binary"),
    Task(name="bulk", kind="binary"),
]
SMALLER = {
    "mtc": ("transformer_tasks=[app]",),
    "mtc-lite": ("transformer_tasks=[app]",),
    "mtc-lite-tables": ("transformer_tasks=[app]",),
}


def first_weights(name: str) -> list[list[float]]:
    """Returns the shape of each weight, and its product with a vector of signs, which depends on every value."""
    recipe = Recipe.named(name, SMALLER.get(name, ()))
    if recipe.view == "flows":
        moments = dict.fromkeys(("size", "gap", "window", "payload"), (3.0, 2.0))
        spec = FeatureSpec(k=recipe.feed.k, channels=recipe.feed.channels, scaling=recipe.feed.scaling, moments=moments)
    elif recipe.view == "packets":
        spec = ByteSpec(length=1500)
    else:
        moments = {f"feature_{n}": (float(n), 1.0) for n in range(49)}
        spec = TableSpec(moments=moments, scaling="standard", missing="mean")
    keras.utils.set_random_seed(SEED)
    model = MODELS[recipe.model.kind](recipe, spec, TASKS)
    found = []
    for at, variable in enumerate(model.variables):
        values = np.asarray(variable.value, np.float64).ravel()
        signs = np.random.default_rng(at).choice([-1.0, 1.0], len(values))
        found.append([*variable.shape, round(float(signs @ values), 5)])
    return found


@pytest.mark.parametrize("recipe", NETWORKS)
def test_a_seed_gives_the_pinned_weights(recipe):
    pinned = json.loads(PINNED.read_text())
    if keras.__version__ not in pinned:
        pytest.skip(f"first weights are pinned for Keras {', '.join(pinned)}, got {keras.__version__}")
    expected, found = pinned[keras.__version__][recipe], first_weights(recipe)
    assert found == [pytest.approx(each, abs=2e-4) for each in expected]


if __name__ == "__main__":
    lines = (f"  {json.dumps(name)}: {json.dumps(first_weights(name), separators=(',', ':'))}" for name in NETWORKS)
    PINNED.write_text(f'{{"{keras.__version__}": {{\n' + ",\n".join(lines) + "\n}}\n")
