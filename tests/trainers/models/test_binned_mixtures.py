"""Mixtures of experts over represented packets: their parts, padding, cost, growth and stored forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from binned_models import MIXTURE, POOLED, K
from packets_in_units import FEATURES, units
from written_runs import CLASSES, TASKS, seeded

from flowloom.trainers.conversion.growth import grown
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.layers.packets.packet_representation import PacketRepresentation
from flowloom.trainers.layers.packets.pooled_packets import PooledPackets
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.builders import build_lmmoe
from flowloom.trainers.recipes.recipe import Recipe

FORMS = {"lstm": {}, "pooled": {"pooled": POOLED}}


def mixture(form, **changes):
    return seeded(LMMoE, **{**MIXTURE, "experts": 2, "gate_input": "mean", **FORMS[form], **changes})


def test_lstms_read_what_the_representation_makes_of_packets():
    model, given = mixture("lstm"), units(6, K)
    bins = model.get_layer("packets")
    represented = np.asarray(bins(given["sequence"], np.arange(K)[None] < given["length"][:, None]))
    plain = LMMoE(K, bins.width, CLASSES, experts=2, units=8, gate_input="mean")
    for name in ["expert_0", "expert_1", *(f"{task}_{part}" for task in CLASSES for part in ("gate", "head"))]:
        plain.get_layer(name).set_weights(model.get_layer(name).get_weights())
    for task in CLASSES:
        plain.get_layer(f"{task}_tower_0").set_weights(model.get_layer(f"{task}_tower_0").get_weights())
        expected = plain({"sequence": represented, "length": given["length"]})[task]
        np.testing.assert_allclose(model(given)[task], expected, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_ignored(form):
    model, given = mixture(form), units(7, K)
    padding = np.arange(K)[None] >= given["length"][:, None]
    noisy = {**given, "sequence": np.where(padding[..., None], 99, given["sequence"]).astype(np.float32)}
    for task in CLASSES:
        np.testing.assert_array_equal(model(given)[task], model(noisy)[task])


@pytest.mark.parametrize("form", FORMS)
def test_the_representation_is_shared_by_tasks_of_one_time(form):
    model = mixture(form)
    parts = [model.shared_variables, *(model.task_variables(task) for task in CLASSES)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert len(paths) == len(set(paths))
    shared = {variable.path for variable in model.shared_variables}
    assert {variable.path for variable in model.get_layer("packets").trainable_variables} <= shared
    assert {variable.path for variable in model.last_shared_variables} <= shared
    assert len(model.last_shared_variables) == 2


@pytest.mark.parametrize("form", FORMS)
def test_latecomers_do_not_train_the_representation(form):
    """Under `isolate` the first task brings it; a grown model trains the variables of its new tasks alone."""
    first, late = CLASSES
    sees = {first: (0,), late: (0, 1)}
    model = mixture(form, generations=[1, 1], sees=sees)
    own = {task: {variable.path for variable in model.task_variables(task)} for task in CLASSES}
    tables = {variable.path for variable in model.get_layer("packets").trainable_variables}
    assert tables <= own[first]
    assert not tables & own[late]
    assert model.shared_variables == []

    champion, given = mixture(form), units(9, K)
    larger = grown(champion, "late", 3)
    before = {task: larger(given)[task].numpy() for task in CLASSES}
    for task in CLASSES:
        np.testing.assert_array_equal(before[task], champion(given)[task])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(larger(given, training=True)["late"] ** 2)
    variables = larger.task_variables("late")
    for variable, gradient in zip(variables, tape.gradient(loss, [each.value for each in variables]), strict=True):
        variable.assign_sub(0.1 * gradient)
    for task in CLASSES:
        np.testing.assert_array_equal(before[task], larger(given)[task])


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_predicts_the_same(tmp_path, form):
    model, given = mixture(form, dropout=0.2), units(7, K)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for task in CLASSES:
        np.testing.assert_array_equal(loaded(given)[task], model(given)[task])


def test_multiply_accumulates_are_those_of_the_weights():
    read = PacketRepresentation(FEATURES, 4).width
    gates, heads = 2 * 2 * read, 16 * 3 + 16
    assert mixture("lstm").macs == 2 * K * 4 * 8 * (read + 8) + 2 * 2 * 8 + gates + 2 * 8 * 16 + heads
    pooled = K * (read * 8 + 3 * 8 * 8) + 2 * 8 * 24 + (read + 2 * 8 + 2 * 24) * 16
    assert mixture("pooled").macs == 2 * pooled + 2 * 2 * 16 + gates + 2 * 16 * 16 + heads


def test_pooled_experts_that_no_gate_chose_are_pruned():
    model, given = mixture("pooled", experts=4, gating="dselect_k"), units(6, K)
    for task in CLASSES:
        model.get_layer(f"{task}_gate").bits.assign([[1.0, -1.0]])
    pruned = prune_experts(model)
    assert pruned.experts < model.experts
    for task in CLASSES:
        np.testing.assert_allclose(pruned(given)[task], model(given)[task], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "features must name the packets' features for pooled experts and for dropout, got None"),
        ({"features": FEATURES[1:]}, "features must name 18 channels"),
        ({"batched": True}, "batched must be false for pooled experts"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mixture("pooled", **change)


@pytest.mark.parametrize(
    ("recipe", "words", "experts", "kind"),
    [
        ("multa-bins", [], 2, keras.layers.LSTM),
        ("multa-pooled", ["experts=3"], 3, PooledPackets),
        ("multa-pooled", ["architecture=cgc", "experts=1"], 3, PooledPackets),
        ("multa-bins", ["paradigm=incremental", "latecomer=isolate", "arrivals=[attack, app]"], 3, keras.layers.LSTM),
    ],
)
def test_a_recipe_selects_the_experts(recipe, words, experts, kind):
    named = Recipe.named(recipe, ["units=4", "k=3", *words])
    features = FeatureSpec(k=3, channels=("size", "gap"), scaling="none")
    model = build_lmmoe(named, features, TASKS)
    assert sum(isinstance(layer, kind) for layer in model.layers) == experts
    assert model.features == ("size", "gap")
    assert model.dropout == named.model.dropout
