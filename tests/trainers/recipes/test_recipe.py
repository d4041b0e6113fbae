"""Recipes: named ones, overrides by section or flat key, recipes of 0.1, and errors that say how to mend them."""

import json
from pathlib import Path

import pydantic
import pydantic_core
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.recipes.builders import MODELS
from flowloom.trainers.recipes.model_settings import TREES
from flowloom.trainers.recipes.named_recipes import RECIPES
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.setting_keys import FLAT_KEYS, SECTIONS

OLD_RECIPE = Path(__file__).parents[2] / "fixtures/flowloom-0.1/state/versions/0001/run/recipe.json"


def test_named_recipes_differ_as_documented():
    assert Recipe.named("multa").model.experts > 1
    assert Recipe.named("lstm").model.experts == 1
    assert {Recipe.named(name).model.kind for name in RECIPES} <= {*MODELS, *TREES}


def test_overrides_are_yaml():
    recipe = Recipe.named(
        "multa",
        [
            "experts=3",
            "model.tower=[32, 16]",
            "learning_rate=1e-4",
            "loss_weights={app: 2}",
            "schedule.clip_norm=null",
            "paradigm=rainbow",
        ],
    )
    assert (recipe.model.experts, recipe.model.tower, recipe.schedule.learning_rate) == (3, (32, 16), 1e-4)
    assert (recipe.loss.weights, recipe.schedule.clip_norm, recipe.schedule.paradigm) == ({"app": 2.0}, None, "rainbow")


def test_a_recipe_of_0_1_is_read_into_sections():
    old = json.loads(OLD_RECIPE.read_text())
    assert set(old) <= {"name", *FLAT_KEYS}
    recipe = Recipe.model_validate_json(OLD_RECIPE.read_text())
    assert (recipe.model.kind, recipe.model.units, recipe.feed.k, recipe.schedule.epochs) == ("lmmoe", 4, 8, 2)
    for key, value in old.items():
        if key != "name":
            assert json.loads(json.dumps(recipe.setting(key))) == value
    assert set(json.loads(recipe.model_dump_json())) == {"name", "seed", *SECTIONS}


@pytest.mark.parametrize(("flat", "key"), FLAT_KEYS.items())
def test_a_flat_key_and_its_section_key_are_one_setting(flat, key):
    assert key.count(".") == (flat != "seed")
    recipe = Recipe.named("mtc")
    value = recipe.setting(key)
    assert recipe.setting(flat) == recipe.settings[key] == value
    for given in (flat, key):
        assert Recipe.named("mtc", [f"{given}={pydantic_core.to_json(value).decode()}"]) == recipe


def test_the_last_of_equal_overrides_counts():
    assert Recipe.named("multa", ["experts=3", "model.experts=4"]).model.experts == 4
    assert Recipe.named("multa", ["model=cnn_rnn2", "paradigm=single", "model.kind=lmmoe", "paradigm=auto"]) == (
        Recipe.named("multa")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 3, "model.experts": 3}, "recipe gives model.experts twice; remove one of them"),
        ({"model": {"experts": 3}, "experts": 4}, "recipe gives model.experts twice"),
        ({"expertz": 3}, "recipe has no setting 'expertz'; did you mean 'experts'"),
        ({"model": {"expertz": 3}}, "recipe has no setting 'model.expertz'; did you mean 'model.experts'"),
    ],
)
def test_settings_of_a_stored_recipe_are_known_and_given_once(settings, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Recipe.model_validate({"name": "multa", **settings})


def test_a_changed_recipe_is_validated():
    recipe = Recipe.named("mtc").changed({"model.masked": 0.1, "epochs": 3})
    assert (recipe.model.masked, recipe.schedule.epochs, recipe.name) == (0.1, 3, "mtc")
    with pytest.raises(pydantic.ValidationError, match=r"model.architecture=cgc needs model.kind=lmmoe, got mtc"):
        recipe.changed({"model.architecture": "cgc"})


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mulat", [], "recipe must be one of multa, lstm, .*, got 'mulat'; did you mean 'multa'"),
        ("multa", ["expert=3"], "no setting 'expert'; did you mean 'experts'"),
        ("multa", ["model.expert=3"], "no setting 'model.expert'; did you mean 'model.experts'"),
        ("multa", ["xyzzy=3"], "no setting 'xyzzy'; the settings are seed, model.kind, .*, feed.miniset_rows"),
        ("multa", ["name=other"], "no setting 'name'"),
        ("multa", ["experts"], "key=value, got 'experts'"),
        (
            "multa",
            ["experts=many"],
            "^model.experts must be a valid integer.*got 'many'; change model.experts or remove it to keep 2$",
        ),
        ("multa", ["experts=0"], "model.experts must be greater than or equal to 1, got 0; .* keep 2"),
        ("multa", ["tower=[16, -1]"], r"model.tower.1 must .*got -1; change model.tower or remove it to keep \[16\]"),
        ("multa", ["gate_input=last"], "model.gate_input must be 'flatten', .* got 'last'"),
        ("multa", ["tower=[16"], r"model.tower must be a YAML value, got '\[16'"),
        ("multa", ["loss_weights={app: -1}"], "loss.weights.app must"),
        ("multa", ["labels_per_class={app: 0}"], "feed.labels_per_class.app must"),
        ("multa", ["balance={task: app, how: less}"], "feed.balance.how must be 'undersample'"),
        ("multa", ["balance={task: app, hwo: less}"], "feed.balance.hwo is an unknown key"),
        ("multa", ["balance={task: app, how: equal_shares}"], "feed.balance: within must be set for how=equal_shares"),
        ("multa", ["balance={task: app, how: equal_shares, within: app}"], "another task than task, got app for both"),
        ("multa", ["balance={task: app, how: totals}"], "for how=totals"),
        ("multa", ["balance={task: app, how: totals, totals: {web: -1}}"], "feed.balance.totals.web must .*got -1"),
        ("multa", ["balance={task: app, how: oversample, totals: {web: 1}}"], "absent for how=oversample"),
        (
            "multa",
            ["paradigm=transfer"],
            "^schedule.paradigm=transfer needs model.kind=multitask_cnn, got lmmoe; set model.kind=multitask_cnn$",
        ),
        ("multa", ["architecture=mmoa"], "model.architecture must be .*'mmoe'"),
        ("multa", ["architecture=shared_bottom"], "experts must be 1 under model.architecture=shared_bottom, got 2"),
        ("multa", ["architecture=dselect_k", "selected_experts=3"], "at least model.selected_experts.* got model.exp"),
        ("multitask-cnn", ["architecture=cgc"], "architecture=cgc needs model.kind=lmmoe, got multitask_cnn"),
        (
            "flow-net",
            ["scaling=fixed"],
            "reads packets in units and needs feed.scaling=none, got fixed; set feed",
        ),
        ("multa-bins", ["scaling=fixed"], "model.kind=lmmoe reads packets in units and needs feed.scaling=none, got"),
        ("flow-net", ["latecomer=isolate", "paradigm=incremental"], "latecomer=isolate adds experts and needs model.k"),
        ("flow-net", ["keep=best"], "decay=cosine needs schedule.keep=last .*got keep=best.*; set schedule.keep=last"),
        (
            "flow-net",
            ["input=bins"],
            "model.input=bins needs model.kind=lmmoe and .* other than ple, got model.kind=flow",
        ),
        ("multa", ["scaling=none"], "packets in units, which model.kind=lmmoe needs as bins; set model.input=bins"),
        ("multa-bins", ["architecture=ple"], "architecture other than ple, got .*=ple; remove model.input"),
        (
            "multa",
            ["expert_kind=pooled"],
            "expert_kind=pooled needs model.input=bins, got scaled; set model.input=bins",
        ),
        ("multa", ["scaling=code_compat"], "feed.scaling=code_compat pads flows at the front"),
        ("cnn-rnn2", ["paradigm=aurora"], "has a network per task and needs schedule.paradigm=single, got aurora"),
        ("multa", ["paradigm=rainbow", "weighting=dwa"], "whose steps train one task each; set loss.weighting=fixed"),
        (
            "multa",
            ["paradigm=incremental", "balance={task: app, how: undersample}"],
            "feed.balance cannot be combined with schedule.paradigm=incremental, whose tasks share no rows; remove fe",
        ),
        ("mtc-lite", ["source=features"], "got standard; set feed.table_scaling=quantile as recipe mtc-lite-tables"),
        ("multitask-cnn", ["tasks=[app, app]"], r"feed.tasks must not repeat a task, got \['app', 'app'\]"),
        ("multa", ["paradigm=incremental", "arrivals=[a, b]", "tasks=[a]"], r"must order .*feed.tasks \(a\), got a, b"),
    ],
)
def test_bad_settings_are_refused(name, words, message):
    with pytest.raises(FlowloomError, match=message):
        Recipe.named(name, words)


@pytest.mark.parametrize("name", ["multitask-cnn", "cnn-rnn2", "transfer-cnn"])
def test_the_recipes_of_rezaei_and_liu_keep_their_settings(name):
    recipe = Recipe.named(name)
    assert (recipe.feed.k, recipe.feed.channels, recipe.feed.scaling) == (60, ("gap", "size"), "linear")
    assert (recipe.feed.batch_size, recipe.schedule.learning_rate, recipe.schedule.clip_norm) == (64, 1e-3, 1.0)
    assert recipe.schedule.epochs == (30 if name == "cnn-rnn2" else 20)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    words = ["tower=[8]", "labels_per_class={app: 3}", "balance={task: app, how: undersample}"]
    own = [] if Recipe.named(name).model.is_trees else ["epochs=3"]
    recipe = Recipe.named(name, [*words, *own])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
