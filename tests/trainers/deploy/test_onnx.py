"""ONNX files predict what the run predicts, with no TensorFlow, and hold nothing but a network."""

import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from untrained_models import MIXTURES, NETWORKS, untrained
from written_runs import CLASSES, K, flows, furthest, seeded, write_run

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SEAL, file_sha256, sealed
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.onnx_form import ONNXModel, convert
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.export_layout import CONTRACT
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run


@pytest.fixture(scope="module")
def onnx(extra_library):
    """The library, with those that convert and run its files."""
    extra_library("onnxruntime")
    extra_library("tf2onnx")
    return extra_library("onnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", seeded(MultitaskCNN, K, 3, CLASSES))


@pytest.fixture(scope="module")
def exported(onnx, run, tmp_path_factory):
    return export(ExportOptions(run, tmp_path_factory.mktemp("exports") / "deployed", "onnx"))


def scores(forward, rows):
    return forward(rows["sequence"], rows["length"])


def test_an_export_scores_any_number_of_flows(run, exported):
    assert sorted(path.name for path in exported.out.iterdir()) == ["features.json", "model.onnx"]
    assert exported.largest_error <= 1e-6
    assert not exported.streaming
    model = Run.open(run).load_model()
    alone = ONNXModel((exported.out / "model.onnx").read_bytes())
    for path in (exported.out, exported.out / "model.onnx"):
        deployed = DeployedModel.open(path)
        assert (deployed.kind, deployed.engine, deployed.root) == ("export", "onnx", exported.out)
        for rows in (1, 24):
            assert furthest(alone(flows(rows)), model(flows(rows))) <= 1e-6
            assert furthest(scores(deployed.load(), flows(rows)), model(flows(rows))) <= 1e-6


def test_the_contract_names_the_versions_that_wrote_it(onnx, exported):
    contract = json.loads((exported.out / CONTRACT).read_text())
    assert contract["format"] == "onnx"
    assert contract["batch"] is None
    assert contract["versions"]["onnx"] == onnx.__version__
    assert "tf2onnx" in contract["versions"]


def test_the_file_is_standard_and_names_its_tensors(onnx, exported):
    model = onnx.load(exported.out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {each.name for each in model.graph.input} == {"sequence", "length"}
    assert {each.name for each in model.graph.output} == set(CLASSES)
    for each in (*model.graph.input, *model.graph.output):
        assert each.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_scoring_imports_no_tensorflow(exported):
    program = (
        "import sys; from flowloom.trainers.deploy.deployed_model import DeployedModel; "
        "DeployedModel.open(sys.argv[1]).load(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, exported.out], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_mixture_keeps_its_streaming_weights(onnx, tmp_path):
    run = write_run(tmp_path / "run", seeded(LMMoE, K, 3, CLASSES, experts=2, units=4))
    report = export(ExportOptions(run, tmp_path / "deployed", "onnx"))
    model = Run.open(run).load_model()
    assert report.streaming
    assert DeployedModel.open(report.out).engine == "lanes"
    found = ONNXModel((report.out / "model.onnx").read_bytes())(flows())
    assert furthest(found, model(flows())) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *MIXTURES])
def test_networks_of_all_recipes_can_be_written(onnx, name):
    recipe = Recipe.named(*MIXTURES.get(name, (name,)))
    model = seeded(untrained, recipe)
    rows = random_rows(model, 30, seed=1)
    found, expected = ONNXModel(convert(inference_form(model)))(rows), model(rows, training=False)
    assert furthest(found, expected) <= 1e-5


def test_a_model_with_an_unknown_operation_is_refused(onnx):
    rows = keras.Input((3,), name="rows")
    output = keras.layers.Lambda(tf.math.bessel_i0e)(keras.layers.Dense(1)(rows))
    with pytest.raises(FlowloomError, match=r"operations BesselI0e cannot be written as ONNX; export it with --format"):
        convert(keras.Model({"rows": rows}, {"app": output}))


def changed(onnx, exported, folder, change):
    """Copies an export whose model is changed and whose digests are right."""
    folder.mkdir()
    model = onnx.load(exported.out / "model.onnx")
    content = change(model) or model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    contract = json.loads((exported.out / CONTRACT).read_bytes())
    del contract[SEAL]
    contract["sha256"]["model.onnx"] = file_sha256(folder / "model.onnx")
    (folder / CONTRACT).write_text(json.dumps(sealed(contract)))
    return DeployedModel.open(folder)


def test_a_file_that_does_more_than_compute_is_refused(onnx, exported, tmp_path):
    def foreign(model):
        model.graph.node[0].domain = "somewhere.else"

    def nested(model):
        inner = onnx.helper.make_graph([onnx.helper.make_node("Custom", [], ["x"])], "inner", [], [])
        model.graph.node.append(onnx.helper.make_node("If", ["sequence"], ["y"], then_branch=inner, else_branch=inner))

    def elsewhere(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    for number, (change, message) in enumerate([
        (foreign, r"only operations of ONNX, got somewhere\.else\."),
        (nested, "only operations of ONNX, got Custom, Custom; do not run this model"),
        (elsewhere, "must hold all of its tensors, got some in other files; do not run this model"),
    ]):  # fmt: skip
        with pytest.raises(FlowloomError, match=message):
            changed(onnx, exported, tmp_path / str(number), change).load()


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"\xff" * 99]
)
def test_a_damaged_file_is_named(onnx, exported, tmp_path, damage):
    deployed = changed(onnx, exported, tmp_path / "x", lambda model: damage(model.SerializeToString()) or b"\n")
    with pytest.raises(FlowloomError, match=r"model\.onnx (cannot be read|must have)"):
        deployed.load()
    (tmp_path / "x" / "model.onnx").write_bytes(b"other")
    with pytest.raises(FlowloomError, match=r"model\.onnx must have the SHA-256"):
        deployed.load()


def test_a_missing_library_is_named_before_anything_is_written(run, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    with pytest.raises(FlowloomError, match=r"needs (onnx|onnxruntime|tf2onnx); .* pip install 'flowloom\[onnx\]'"):
        ExportOptions(run, tmp_path / "deployed", "onnx")


def test_probabilities_are_those_of_a_padded_piece(exported):
    forward = DeployedModel.open(exported.out).load()
    rows = flows(24)
    whole = scores(forward, rows)
    for at in (0, 7, 23):
        alone = scores(forward, {name: values[at : at + 1] for name, values in rows.items()})
        assert all(np.array_equal(alone[task][0], whole[task][at]) for task in whole)
