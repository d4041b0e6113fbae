"""Recipes: named, overridden word by word, and refused with the reason."""

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.recipe import RECIPES, Recipe


def test_named_recipes_differ_as_they_say():
    assert Recipe.named("multa").experts > 1
    assert Recipe.named("lstm").experts == 1
    assert {Recipe.named(name).model for name in RECIPES} <= set(MODELS)


def test_overrides_are_yaml():
    recipe = Recipe.named(
        "multa",
        [
            "experts=3",
            "tower=[32, 16]",
            "learning_rate=1e-4",
            "loss_weights={app: 2}",
            "clip_norm=null",
            "paradigm=rainbow",
        ],
    )
    assert (recipe.experts, recipe.tower, recipe.learning_rate) == (3, (32, 16), 1e-4)
    assert (recipe.loss_weights, recipe.clip_norm, recipe.paradigm) == ({"app": 2.0}, None, "rainbow")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mulat", [], "recipe must be one of multa, lstm, .*, got 'mulat'; did you mean 'multa'"),
        ("multa", ["expert=3"], "no setting 'expert'.*did you mean 'experts'"),
        ("multa", ["name=other"], "no setting 'name'"),
        ("multa", ["experts"], "key=value, got 'experts'"),
        ("multa", ["experts=many"], "experts: .*integer.*got 'many'"),
        ("multa", ["experts=0"], "experts: .*greater than or equal to 1, got 0"),
        ("multa", ["tower=[16, -1]"], "tower.1: .*got -1"),
        ("multa", ["gate_input=last"], "gate_input: .*'flatten'"),
        ("multa", ["tower=[16"], "tower must be a YAML value"),
        ("multa", ["loss_weights={app: -1}"], "loss_weights.app"),
        ("multa", ["labels_per_class={app: 0}"], "labels_per_class.app"),
        ("multa", ["balance={task: app, how: less}"], "balance.how: .*'undersample'"),
        ("multa", ["balance={task: app, how: equal_shares}"], "balance: equal_shares and no other take within"),
        ("multa", ["balance={task: app, how: equal_shares, within: app}"], "another task than task, got app for both"),
        ("multa", ["balance={task: app, how: totals}"], "how=totals needs totals"),
        ("multa", ["balance={task: app, how: totals, totals: {web: -1}}"], "balance.totals.web: .*got -1"),
        ("multa", ["balance={task: app, how: oversample, totals: {web: 1}}"], "oversample takes no totals"),
        ("multa", ["paradigm=transfer"], "^paradigm transfer needs model=multitask_cnn, got lmmoe"),
        ("multa", ["architecture=mmoa"], "architecture: .*'mmoe'"),
        ("multa", ["architecture=shared_bottom"], "shared_bottom has one expert and needs experts=1, got 2"),
        ("multa", ["architecture=dselect_k", "selected_experts=3"], "at least as many as selected_experts, got exp"),
        ("multitask-cnn", ["architecture=cgc"], "architecture cgc needs model=lmmoe, got multitask_cnn"),
        ("multa", ["scaling=code_compat"], "code_compat pads in front"),
        ("cnn-rnn2", ["paradigm=aurora"], "cnn_rnn2 has a network per task and needs paradigm=single, got aurora"),
        ("mtc-lite", ["source=features"], "need table_scaling=quantile, as recipe mtc-lite-tables has, got standard"),
        ("multitask-cnn", ["tasks=[app, app]"], "tasks must not repeat a task"),
    ],
)
def test_bad_words_are_refused(name, words, message):
    with pytest.raises(FlowloomError, match=message):
        Recipe.named(name, words)


@pytest.mark.parametrize("name", ["multitask-cnn", "cnn-rnn2", "transfer-cnn"])
def test_the_recipes_of_rezaei_and_liu_train_as_they_did(name):
    recipe = Recipe.named(name)
    assert (recipe.k, recipe.channels, recipe.scaling) == (60, ("gap", "size"), "linear")
    assert (recipe.batch_size, recipe.learning_rate, recipe.clip_norm) == (64, 1e-3, 1.0)
    assert recipe.epochs == (30 if name == "cnn-rnn2" else 20)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    words = ["tower=[8]", "epochs=3", "labels_per_class={app: 3}", "balance={task: app, how: undersample}"]
    recipe = Recipe.named(name, words)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
