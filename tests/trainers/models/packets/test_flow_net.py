"""FlowNet: its variables, its cost, padding, and stored models."""

import keras
import numpy as np
import pytest
from packets_in_units import FEATURES, units

from flowloom.trainers.models.packets.flow_net import FlowNet

TASKS = {"app": 3, "attack": 2}
K = 5
SMALL = {"k": K, "features": FEATURES, "tasks": TASKS, "width": 8, "embedding": 4, "readout": 6, "first": 2}
FORMS = {
    "convolution": {},
    "no layers": {"layers": 0, "first": 0},
    "attention": {"mixing": "attention", "attention_heads": 2, "pooling": ("attention", "mean")},
    "bins alone": {"embedding": 0, "pooling": ("max",)},
}


def network(**changes):
    keras.utils.set_random_seed(5)
    return FlowNet(**{**SMALL, **changes})


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_ignored(form):
    model, given = network(**FORMS[form]), units(7, K)
    padding = np.arange(K)[None] >= given["length"][:, None]
    noisy = {**given, "sequence": np.where(padding[..., None], 99, given["sequence"]).astype(np.float32)}
    for task, outputs in model(given).items():
        assert outputs.shape == (7, 3 if task == "app" else 1)
        np.testing.assert_array_equal(outputs, model(noisy)[task])


@pytest.mark.parametrize("form", FORMS)
def test_variables_divide_into_shared_and_own(form):
    model = network(**FORMS[form])
    parts = [model.shared_variables, *(model.task_variables(task) for task in TASKS)]
    paths = [variable.path for part in parts for variable in part]
    assert sorted(paths) == sorted(variable.path for variable in model.trainable_variables)
    assert len(paths) == len(set(paths))
    assert {id(variable) for variable in model.last_shared_variables} <= {id(each) for each in model.shared_variables}


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_predicts_the_same(tmp_path, form):
    model, given = network(**FORMS[form], name="again"), units(7, K)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for task in TASKS:
        np.testing.assert_array_equal(loaded(given)[task], model(given)[task])


def test_the_order_of_packets_counts_by_convolutions_positions_and_first_packets():
    given = {**units(1, K), "length": np.array([K], np.int32)}
    given["sequence"][:, :, FEATURES.index("gap")] = 0
    turned = {**given, "sequence": given["sequence"][:, ::-1]}
    model = network()
    assert np.abs(model(given)["app"] - model(turned)["app"]).max() > 1e-4


def test_multiply_accumulates_are_those_of_the_weights():
    model = network()
    bins = model.get_layer("packets").width
    pooled = bins + 2 * 8 + 2 * 24
    assert model.macs == K * (bins * 8 + 2 * 3 * 8 * 8) + 2 * 8 * 24 + pooled * 6 + 6 * 3 + 6
    attending = network(mixing="attention", layers=1, attention_heads=2, first=0, pooling=("attention",))
    mixing = 5 * K * 8 * 8 + 2 * K * K * 8
    assert attending.macs == K * bins * 8 + mixing + 2 * K * 8 + (bins + 8) * 6 + 6 * 3 + 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"layers": -1}, "layers must be >= 0, got -1"),
        ({"tasks": {"a": 1}}, "2 or more classes"),
        ({"mixing": "pooling"}, "mixing must be convolution or attention, got 'pooling'"),
        ({"pooling": ("sum",)}, r"distinct names among mean, max, attention, got \['sum'\]"),
        ({"pooling": ()}, "distinct names"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"features": ("bytes",)}, "distinct names among size"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        network(**change)
