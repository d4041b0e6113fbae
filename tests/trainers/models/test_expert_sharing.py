"""Sharing of experts by tasks: mixtures, gates, variables, and the forms after training."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.conversion.growth import grown
from flowloom.trainers.conversion.inference_form import fused
from flowloom.trainers.conversion.pruning import prune_experts
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.layers.batched_lstm import BatchedLSTM
from flowloom.trainers.layers.dselect_k import DSelectK, EntropyPenalty, selectors, smooth_step
from flowloom.trainers.models.lmmoe import LMMoE, shared_and_own
from flowloom.trainers.models.ple import PLE
from flowloom.trainers.recipes.builders import build_lmmoe
from flowloom.trainers.recipes.recipe import Recipe

K, C = 3, 3
TASKS = {"app": 3, "attack": 2}
ARCHITECTURES = {
    "shared_bottom": lambda: LMMoE(K, C, TASKS, experts=1, units=5),
    "mmoe": lambda: LMMoE(K, C, TASKS, experts=3, units=5, gate_input="first_packet"),
    "cgc": lambda: LMMoE(K, C, TASKS, experts=4, units=5, gate_input="mean", sees=shared_and_own(TASKS, 2, 1)),
    "ple": lambda: PLE(K, C, TASKS, 1, 2, units=5, gate_input="mean", tower=()),
    "dselect_k": lambda: LMMoE(K, C, TASKS, experts=3, units=5, gating="dselect_k", selected=2),
}


def inputs(rows=40, k=K, seed=0):
    """Returns flows of every length, also without packets."""
    generator = np.random.default_rng(seed)
    length = generator.integers(0, k + 1, rows).astype(np.int32)
    sequence = generator.normal(size=(rows, k, C)).astype(np.float32)
    sequence[np.arange(k)[None, :] >= length[:, None]] = 0
    return {"sequence": sequence, "length": length}


@functools.cache
def made(name):
    """Returns a model of an architecture with changed weights, which tests must not change."""
    keras.utils.set_random_seed(1)
    model = ARCHITECTURES[name]()
    stir(model.variables)
    return model


@functools.cache
def made_and_fused(name):
    """Returns the inference form of `made`."""
    return fused(made(name))


def furthest(model, other, given=None):
    given = given or inputs()
    found, expected = model(given), other(given)
    assert set(found) >= set(expected)
    return max(float(np.max(np.abs(found[task] - expected[task]))) for task in expected)


def stir(variables, seed=2):
    """Changes the values of variables, as a training would."""
    generator = np.random.default_rng(seed)
    for variable in variables:
        variable.assign_add(generator.normal(0, 0.3, variable.shape).astype(np.float32))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_variables_divide_into_shared_and_own(name):
    model = made(name)
    parts = [model.shared_variables, *(model.task_variables(task) for task in TASKS)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    layers = {path.split("/")[0] for path in (variable.path for variable in model.task_variables("app"))}
    tower = {"app_tower_0", "app_head"}
    own = {
        "shared_bottom": tower,
        "mmoe": tower | {"app_gate"},
        "cgc": tower | {"app_gate", "expert_2"},
        "ple": {f"level_{level}_expert_{n}" for level in (0, 1) for n in (1, 2)}
        | {"app_gate_0", "app_gate_1", "app_head"},
        "dselect_k": tower | {"app_gate"},
    }
    assert layers == own[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_is_ignored(name):
    model = made(name)
    given = inputs()
    padding = np.arange(K)[None, :, None] >= given["length"][:, None, None]
    noisy = {**given, "sequence": np.where(padding, 9.0, given["sequence"]).astype(np.float32)}
    for form in (model, made_and_fused(name)):
        for task in TASKS:
            np.testing.assert_array_equal(form(noisy)[task], form(given)[task])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_fused_form_predicts_the_same(name, tmp_path):
    model = made(name)
    batched = made_and_fused(name)
    assert furthest(batched, model) < 1e-6
    assert batched.macs == model.macs
    assert sum(isinstance(layer, BatchedLSTM) for layer in batched.layers) == (2 if name == "ple" else 1)
    assert not any(isinstance(layer, keras.layers.LSTM) for layer in batched.layers)
    batched.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert furthest(loaded, batched) == 0
    assert fused(loaded) is loaded


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_model_predicts_the_same(name, tmp_path):
    model = made(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert furthest(loaded, model) == 0


@pytest.mark.parametrize("name", ["mmoe", "cgc", "ple", "dselect_k"])
def test_gate_weights_are_shares_of_the_experts_of_a_task(name):
    model = made(name)
    shares = model.gates(inputs())
    for task in TASKS:
        assert shares[task].shape == (40, {"mmoe": 3, "cgc": 4, "ple": 5, "dselect_k": 3}[name])
        np.testing.assert_allclose(np.sum(shares[task], axis=1), 1, rtol=1e-6)
    if name in ("cgc", "ple"):
        own = {"cgc": slice(3, 4), "ple": slice(3, 5)}[name]
        assert np.all(shares["app"][:, own] == 0)
        assert np.all(shares["attack"][:, own] > 0)


def test_models_saved_before_there_were_architectures_load():
    old = {"k": K, "channels": C, "tasks": TASKS, "experts": 2, "units": 3, "gate_input": "flatten", "tower": [4]}
    model = LMMoE.from_config(old)
    assert [layer.name for layer in model.layers if layer.weights] == [
        "expert_0", "expert_1", "app_gate", "attack_gate", "app_tower_0", "attack_tower_0", "app_head", "attack_head",
    ]  # fmt: skip


@pytest.mark.parametrize(("k", "read_by_each"), [(1, False), (6, False), (6, True)])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_the_batched_layer_equals_keras_layers(k, read_by_each, return_sequences):
    generator = np.random.default_rng(k)
    lstms = [keras.layers.LSTM(4, return_sequences=return_sequences) for _ in range(3)]
    sequence = generator.normal(size=(9, 3, k, C)).astype(np.float32)
    sequence = sequence if read_by_each else sequence[:, 0]
    length = generator.integers(0, k + 1, 9)
    present = np.arange(k) < length[:, None]
    expected = [
        lstm(sequence[:, n] if read_by_each else sequence, mask=tf.constant(present)) for n, lstm in enumerate(lstms)
    ]
    batched = BatchedLSTM(3, 4, return_sequences)
    batched.build(sequence.shape)
    batched.adopt(lstms)
    said, expected = np.array(batched(sequence, present)), np.stack(expected, axis=1)
    if return_sequences:
        said, expected = said * present[:, None, :, None], expected * present[:, None, :, None]
    np.testing.assert_allclose(said, expected, atol=1e-6)


def test_ple_equals_its_equations():
    """Equations 5 to 7 of Tang et al. for one task, with Keras layers and the model's weights."""
    model = PLE(K, C, TASKS, 1, 1, units=4, gate_input="first_packet")
    given = inputs()
    full = {**given, "length": np.full(40, K, np.int32), "sequence": given["sequence"] + 1}
    layer = model.get_layer
    first = np.stack([layer(f"level_0_expert_{n}")(full["sequence"]) for n in range(3)], axis=1)
    mixes = {
        name: np.einsum("bn,bnkh->bkh", layer(f"{name}_gate_0")(full["sequence"][:, 0]), first[:, seen])
        for name, seen in {"app": [0, 1], "attack": [0, 2], "shared": [0, 1, 2]}.items()
    }
    second = {0: layer("level_1_expert_0")(mixes["shared"]), 2: layer("level_1_expert_2")(mixes["attack"])}
    gate = np.array(layer("attack_gate_1")(mixes["attack"][:, 0]))
    mixed = gate[:, :1] * second[0] + gate[:, 1:] * second[2]
    expected = layer("attack_head")(layer("attack_tower_0")(mixed))
    np.testing.assert_allclose(model(full)["attack"], expected, atol=1e-6)


# DSelect-k


def test_smooth_steps_reach_zero_and_one():
    t = np.linspace(-1, 1, 201).astype(np.float32)
    steps = np.array(smooth_step(t))
    assert np.all(steps[t <= -0.5] == 0)
    assert np.all(steps[t >= 0.5] == 1)
    assert np.all(np.diff(steps) >= 0)
    np.testing.assert_allclose(steps + steps[::-1], 1, atol=1e-6)


def test_selectors_are_shares_and_codes_select_experts():
    bits = np.random.default_rng(0).normal(0, 0.3, (5, 3)).astype(np.float32)
    np.testing.assert_allclose(np.sum(selectors(bits), axis=1), 1, atol=1e-6)
    for number in range(8):
        logits = np.where(number >> np.arange(3) & 1, 0.6, -0.6)[None].astype(np.float32)
        np.testing.assert_array_equal(selectors(logits)[0], np.eye(8)[number])
        assert float(EntropyPenalty(1.0)(logits)) == 0
    assert float(EntropyPenalty(1.0)(np.zeros((1, 3), np.float32))) == pytest.approx(np.log(8), rel=1e-5)


@pytest.mark.parametrize(("experts", "selected"), [(2, 1), (5, 2)])
def test_a_gate_selects_the_experts_that_lower_the_loss(experts, selected):
    keras.utils.set_random_seed(experts)
    gate = DSelectK(experts, selected, 0.1)
    gate.build((None, 1))
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(gate.trainable_variables)
    costs = tf.constant([3.0, 1.0, 3.0, 3.0, 3.0][:experts])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(costs * gate.shares) + sum(gate.losses)
        optimizer.apply(tape.gradient(loss, gate.trainable_variables))

    for _ in range(200):
        step()
    np.testing.assert_array_equal(np.array(gate.shares) > 0, np.arange(experts) == 1)
    np.testing.assert_allclose(np.array(gate(np.zeros((2, 1), np.float32)))[:, 1], 1, atol=1e-6)


@pytest.mark.parametrize("selected", [1, 2])
def test_experts_that_no_gate_selected_are_pruned(selected):
    model = LMMoE(K, C, TASKS, 5, units=3, gating="dselect_k", selected=selected)
    stir(model.variables)
    codes = {"app": [4, 2], "attack": [2, 2]}
    for task, numbers in codes.items():
        bits = np.array(numbers[:selected])[:, None] >> np.arange(3) & 1
        model.get_layer(f"{task}_gate").bits.assign(np.where(bits, 0.6, -0.6))
    pruned = prune_experts(model)
    assert pruned.experts == 2
    assert pruned.sees == {"app": (1,) if selected == 1 else (0, 1), "attack": (0,)}
    assert pruned.count_params() < model.count_params()
    assert furthest(pruned, model) < 1e-6
    assert furthest(fused(pruned), model) < 1e-6
    assert prune_experts(pruned).get_config() == pruned.get_config()


def test_an_expert_that_no_task_reads_is_pruned():
    model = LMMoE(K, C, TASKS, experts=4, units=3, sees={"app": [1, 3], "attack": [3]})
    pruned = prune_experts(model)
    assert (pruned.experts, pruned.sees) == (2, {"app": (0, 1), "attack": (1,)})
    assert furthest(pruned, model) == 0
    with pytest.raises(ValueError, match="model must not be batched, got a batched one; use fused\\(prune"):
        prune_experts(fused(model))


# growth


@pytest.mark.parametrize(("name", "expert"), [("shared_bottom", True), ("mmoe", True), ("mmoe", False), ("cgc", True)])
def test_old_outputs_stay_the_same_to_the_bit_when_a_grown_model_is_trained(name, expert):
    model = made(name)
    given = inputs(300, seed=5)
    forms = {"keras": model(given), "fused": made_and_fused(name)(given)}
    larger = grown(model, "late", 4, expert)
    known, fresh = {layer.name for layer in model.layers}, larger.task_variables("late")
    added = [each for layer in larger.layers if layer.name not in known for each in layer.trainable_variables]
    assert {variable.path for variable in fresh} == {variable.path for variable in added}
    late = np.array(larger(given)["late"])

    for trained in (False, True):
        if trained:
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(tf.math.log(larger(given)["late"][:, 0]))
            keras.optimizers.Adam(0.1).apply(tape.gradient(loss, fresh), fresh)
            assert not np.array_equal(larger(given)["late"], late)
        for form, before in forms.items():
            said = (fused(larger) if form == "fused" else larger)(given)
            assert said["late"].shape == (300, 4)
            for task in TASKS:
                np.testing.assert_array_equal(said[task], before[task])
    assert larger.experts == model.experts + expert
    assert larger.sees["late"] == tuple(range(larger.experts))


def test_a_model_may_grow_twice_and_is_saved(tmp_path):
    model = made("mmoe")
    larger = grown(grown(model, "late", 4), "later", 2)
    assert larger.sees == {"app": (0, 1, 2), "attack": (0, 1, 2), "late": (0, 1, 2, 3), "later": (0, 1, 2, 3, 4)}
    larger.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert furthest(loaded, larger) == 0
    assert furthest(loaded, model) == 0


def test_impossible_growth_is_refused():
    model = made("mmoe")
    with pytest.raises(ValueError, match="task must be new, got 'app'"):
        grown(model, "app", 2)
    with pytest.raises(ValueError, match="model must not be batched, got a batched one; use fused\\(grown"):
        grown(fused(model), "late", 2)


# recipes


@pytest.mark.parametrize(
    ("words", "experts", "kind"),
    [
        (["architecture=shared_bottom", "experts=1"], 1, LMMoE),
        (["experts=3"], 3, LMMoE),
        (["architecture=cgc", "experts=1", "task_experts=2"], 5, LMMoE),
        (["architecture=dselect_k", "experts=4", "selected_experts=2"], 4, LMMoE),
        (["architecture=ple", "experts=2"], 8, PLE),
    ],
)
def test_a_recipe_selects_the_architecture(words, experts, kind):
    recipe = Recipe.named("multa", ["units=4", "k=3", "scaling=fixed", *words])
    features = FeatureSpec(k=3, channels=("size", "gap"), scaling="fixed")
    tasks = (Task(name="app", kind="multiclass", vocabulary=("a", "b", "c")), Task(name="attack", kind="binary"))
    model = build_lmmoe(recipe, features, tasks)
    assert isinstance(model, kind)
    assert sum(isinstance(layer, keras.layers.LSTM) for layer in model.layers) == experts
    assert len(model.losses) == (2 if "architecture=dselect_k" in words else 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LMMoE(K, C, TASKS, sees={"app": [0, 2]}), "sees of app must be ascending numbers from 0 to 1"),
        (lambda: LMMoE(K, C, TASKS, sees={"ap": [0]}), "sees must name tasks among app, attack, got ap"),
        (lambda: LMMoE(K, C, TASKS, gating="hard"), "gating of app must be softmax, dselect_k, constant, got 'hard'"),
        (lambda: DSelectK(1), "experts must be >= 2 for a DSelect-k gate, got 1"),
        (lambda: DSelectK(3, 4), "selected must be from 1 to 3, the number of experts, got 4"),
        (lambda: EntropyPenalty(-1.0), "weight must be >= 0, got -1.0"),
        (lambda: PLE(K, C, TASKS, task_experts=0), "task_experts must be >= 1, got 0"),
        (lambda: PLE(K, C, {"shared": 2}), "tasks must not contain 'shared'"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
