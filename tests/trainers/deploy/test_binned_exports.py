"""Exports of models of packets in units: SavedModel, LiteRT with and without 8 bits, and their scorers."""

import pytest
import tensorflow as tf
from binned_models import BINNED, K
from packets_in_units import units
from written_runs import furthest, seeded, write_run

from flowloom.trainers.conversion.litert import LiteRTModel
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run

RECIPES = {"flow net": "flow-net", "flow net, attention": "flow-net", "lstms": "multa-bins"}
"""Recipes by model; all others are of multa-pooled."""


def written(root, name):
    """Writes a model as a finished run."""
    write_run(root, seeded(BINNED[name]))
    (root / "recipe.json").write_text(Recipe.named(RECIPES.get(name, "multa-pooled")).model_dump_json())
    spec = FeatureSpec(k=K, channels=tuple(CHANNELS), scaling="none")
    (root / "features.json").write_text(spec.model_dump_json())
    return root


@pytest.mark.parametrize("name", ["flow net", pytest.param("pooled experts", marks=pytest.mark.slow)])
def test_litert_models_and_streams_keep_the_probabilities(tmp_path, name):
    run = written(tmp_path / "run", name)
    model, given = Run.open(run).load_model(), units(12, K)
    report = export(ExportOptions(run, tmp_path / "lite", "litert"))
    assert report.largest_error <= 1e-5
    assert report.streaming
    assert furthest(LiteRTModel((report.out / "model.tflite").read_bytes())(given), model(given)) <= 1e-5
    scorer = StreamingScorer.load(report.out, slots=1)
    last = {task: scores[-1:] for task, scores in scorer.update([0] * K, given["sequence"][K - 1]).items()}
    assert furthest(last, model({key: values[K - 1 : K] for key, values in given.items()})) <= 1e-5
    assert export(ExportOptions(run, tmp_path / "small", "litert", int8=True)).largest_error < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow net", "flow net, attention", "lstms", "pooled experts"])
def test_runs_and_saved_models_keep_the_probabilities(tmp_path, name):
    run = written(tmp_path / "run", name)
    model, given = Run.open(run).load_model(), units(30, K)
    report = export(ExportOptions(run, tmp_path / "saved"))
    assert report.largest_error <= 1e-5
    served = tf.saved_model.load(str(report.out / "saved_model")).signatures["serving_default"]
    assert furthest(served(**{key: tf.constant(values) for key, values in given.items()}), model(given)) <= 1e-5
    for folder in (run, report.out):
        deployed = DeployedModel.open(folder)
        assert deployed.engine == ("lanes" if name == "lstms" else "tensorflow")
        assert furthest(deployed.load()(given["sequence"], given["length"]), model(given)) <= 1e-5
