"""Exported models predict what the run predicts, and a failed export leaves no folder."""

import hashlib
import json

import pytest
import tensorflow as tf
from written_runs import CLASSES, TASKS, K, flows, furthest, seeded, write_run

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.inference_form import inference_form
from flowloom.trainers.conversion.litert import LiteRTModel
from flowloom.trainers.deploy import export as exporting
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.recipes.run_directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = seeded(LMMoE, K, 3, CLASSES, experts=4, units=16, gating="dselect_k")
    for task, code in {"app": 0, "attack": 2}.items():
        model.get_layer(f"{task}_gate").bits.assign([[1.0 if code >> bit & 1 else -1.0 for bit in range(2)]])
    return write_run(tmp_path_factory.mktemp("runs") / "run", model)


@pytest.fixture(scope="module")
def lite(run, tmp_path_factory):
    return export(ExportOptions(run, tmp_path_factory.mktemp("exports") / "lite", "litert"))


@pytest.mark.slow
def test_a_saved_model_scores_any_number_of_flows(run, tmp_path):
    report = export(ExportOptions(run, tmp_path / "deployed"))
    model = Run.open(run).load_model()
    served = tf.saved_model.load(str(report.out / "saved_model")).signatures["serving_default"]
    for rows in (1, 24):
        said = served(**{name: tf.constant(values) for name, values in flows(rows).items()})
        assert furthest(said, model(flows(rows))) <= 1e-6
    assert report.parameters < report.parameters_trained == model.count_params()
    assert report.largest_error <= 1e-6
    assert report.streaming
    StreamingScorer.load(report.out)


def test_a_litert_model_scores_one_flow(run, lite):
    said = LiteRTModel((lite.out / "model.tflite").read_bytes())(flows())
    assert furthest(said, Run.open(run).load_model()(flows())) <= 1e-6
    assert lite.parameters < lite.parameters_trained
    assert lite.largest_error <= 1e-6
    assert sorted(path.name for path in lite.out.iterdir()) == ["features.json", "model.tflite", "weights.npz"]


def test_the_contract_lists_inputs_and_outputs(run, lite):
    contract = json.loads((lite.out / "features.json").read_text())
    assert FeatureSpec.model_validate(contract["features"]) == Run.open(run).features
    assert contract["feature_names"] == ["size", "direction", "gap"]
    assert contract["inputs"]["sequence"]["shape"] == ["batch", K, 3]
    assert contract["batch"] == 1
    assert contract["constants"]["fixed_size"] == 1500.0
    assert [task["vocabulary"] for task in contract["tasks"]] == [list(task.vocabulary) for task in TASKS]
    assert [task["outputs"] for task in contract["tasks"]] == [3, 1]
    assert set(contract["versions"]) == {"flowloom", "tensorflow", "keras"}
    for name, digest in contract["sha256"].items():
        assert hashlib.sha256((lite.out / name).read_bytes()).hexdigest() == digest


@pytest.mark.slow
def test_weights_of_8_bits_are_smaller_and_their_error_is_reported(run, lite, tmp_path):
    report = export(ExportOptions(run, tmp_path / "small", "litert", int8=True))
    assert report.size_bytes < lite.size_bytes
    assert 1e-6 < report.largest_error < 0.05
    assert json.loads((report.out / "features.json").read_text())["check"]["largest_error"] == report.largest_error


@pytest.mark.slow
def test_other_models_are_exported_unchanged(tmp_path):
    run = write_run(tmp_path / "run", seeded(MultitaskCNN, K, 3, CLASSES))
    report = export(ExportOptions(run, tmp_path / "lite", "litert"))
    said = LiteRTModel((report.out / "model.tflite").read_bytes())(flows(6))
    assert furthest(said, Run.open(run).load_model()(flows(6))) <= 1e-5
    assert not report.streaming


def test_a_model_with_other_outputs_is_not_published(run, tmp_path, monkeypatch):
    def forgetful(model):
        model = inference_form(model)
        model.get_layer("app_head").set_weights([0 * part for part in model.get_layer("app_head").get_weights()])
        return model

    monkeypatch.setattr(exporting, "inference_form", forgetful)
    with pytest.raises(FlowloomError, match=r"got a difference of 0\.\d+; nothing was published"):
        export(ExportOptions(run, tmp_path / "deployed", "litert"))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_8_bits_that_change_probabilities_too_much_are_not_published(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "INT8_TOLERANCE", 1e-7)
    with pytest.raises(FlowloomError, match=r"to 1e-07, got .*; nothing was published, .* without --int8"):
        export(ExportOptions(run, tmp_path / "small", "litert", int8=True))
    assert list(tmp_path.iterdir()) == []


def test_impossible_exports_are_refused(run, tmp_path):
    with pytest.raises(
        FlowloomError,
        match="format must be one of savedmodel, litert, onnx, arrays, c, got 'litret'; did you mean 'litert'",
    ):
        ExportOptions(run, tmp_path / "out", "litret")
    with pytest.raises(FlowloomError, match="format must be litert for 8-bit weights"):
        ExportOptions(run, tmp_path / "out", int8=True)
    with pytest.raises(FlowloomError, match="exists already"):
        export(ExportOptions(run, tmp_path))
    with pytest.raises(FlowloomError, match=r"is not a run"):
        export(ExportOptions(tmp_path, tmp_path / "out"))
