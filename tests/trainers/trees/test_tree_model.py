"""Stored models of trees: they give what they gave before, and damaged files are refused before a loop runs."""

import numpy as np
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.trees.estimators import FitSettings, fit
from flowloom.trainers.trees.tree_model import TreeModel

TABLE = TableSpec(moments={f"f{n}": (0.0, 1.0) for n in range(5)}, scaling="none", missing="mean")
CLASSES = {"app": 3, "attack": 2}


def table_rows(rows=200, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)


@pytest.fixture(scope="module", params=["extra_trees", "boosted_trees", "logistic"])
def model(request):
    x = table_rows()
    labels = {"app": (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0.5), "attack": (x[:, 2] > 0).astype(np.int32)}
    settings = FitSettings(request.param, trees=4)
    return TreeModel(TABLE, "positions", {task: fit(settings, x, labels[task], CLASSES[task]) for task in CLASSES})


def test_a_stored_model_gives_the_same_bytes(model, tmp_path):
    model.save(tmp_path / "trees.npz")
    again = TreeModel.load(tmp_path / "trees.npz", TABLE, CLASSES)
    rows = table_rows(seed=1)
    one, two = model({"features": rows}), again.forward(rows)
    assert {task: each.shape for task, each in one.items()} == {"app": (200, 3), "attack": (200, 1)}
    assert all(one[task].tobytes() == two[task].tobytes() and one[task].dtype == np.float32 for task in CLASSES)
    assert again.count_params() == model.count_params() > 0
    assert again.macs == model.macs > 0
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "trees.npz").read_bytes()


def test_a_row_scores_the_same_beside_any_other(model):
    rows = table_rows(seed=2)
    whole = model.forward(rows)
    for at in (0, 17, 199):
        alone = model.forward(rows[at : at + 1])
        assert all(alone[task].tobytes() == whole[task][at].tobytes() for task in CLASSES)


def changed(model, path, **arrays):
    """Writes the model with other arrays, whose names end with those given."""
    model.save(path)
    with np.load(path) as stored:
        content = dict(stored)
    for name, change in arrays.items():
        content[f"0_{name}"] = change(content[f"0_{name}"])
    np.savez(path, **content)
    return path


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("feature", lambda x: np.where(x >= 0, 5, x).astype(x.dtype)),
        ("left", lambda x: np.zeros_like(x)),
        ("right", lambda x: x + np.int32(1_000_000)),
        ("output", lambda x: x + np.int32(3)),
        ("roots", lambda x: x - np.int32(1)),
        ("value", lambda x: x * np.nan),
        ("threshold", lambda x: x[:-1]),
        ("base", lambda x: np.append(x, 0.0)),
        ("roots", lambda x: x.astype(np.int64)),
    ],
)
def test_arrays_that_lead_outside_are_refused(model, tmp_path, name, change):
    if not hasattr(model.estimators["app"], name):
        pytest.skip("linear models have no such array")
    with pytest.raises(FlowloomError, match=r"is damaged .*train it again"):
        TreeModel.load(changed(model, tmp_path / "trees.npz", **{name: change}), TABLE, CLASSES)


def test_linear_arrays_of_other_shapes_are_refused(model, tmp_path):
    if hasattr(model.estimators["app"], "roots"):
        pytest.skip("trees have no weights")
    for name, change in {
        "weights": lambda x: x.T.copy(),
        "shift": lambda x: x * np.inf,
        "bias": lambda x: x - np.inf,
    }.items():
        with pytest.raises(FlowloomError, match="is damaged"):
            TreeModel.load(changed(model, tmp_path / f"{name}.npz", **{name: change}), TABLE, CLASSES)


def test_a_model_of_other_tasks_or_features_is_refused(model, tmp_path):
    model.save(tmp_path / "trees.npz")
    with pytest.raises(FlowloomError, match="tasks and classes must be those of the run"):
        TreeModel.load(tmp_path / "trees.npz", TABLE, {"app": 3})
    flows = FeatureSpec(k=3, channels=tuple(CHANNELS), scaling="none")
    with pytest.raises(FlowloomError, match="must read the columns of its features"):
        TreeModel.load(tmp_path / "trees.npz", flows, CLASSES)
    (tmp_path / "trees.npz").write_bytes(b"PK")
    with pytest.raises(FlowloomError, match="damaged or cannot be read"):
        TreeModel.load(tmp_path / "trees.npz", TABLE, CLASSES)
