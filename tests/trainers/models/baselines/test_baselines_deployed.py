"""The field's networks saved, exported to both formats, and refused by the streaming scorer."""

import json

import keras
import numpy as np
import pytest
from written_runs import CLASSES, TASKS, write_run

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.packet_scorer import StreamingScorer
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.models.baselines.byte_patches import BytePatches
from flowloom.trainers.models.baselines.cesnet_cnn import CesnetCNN
from flowloom.trainers.models.baselines.flowpic_cnn import FlowPicCNN
from flowloom.trainers.recipes.recipe import Recipe

SMALL = {
    "cesnet-cnn": lambda: CesnetCNN(6, 3, CLASSES),
    "flowpic": lambda: FlowPicCNN(6, 3, CLASSES, pixels=16),
    "byte-patches": lambda: BytePatches(41, CLASSES, width=8, encoders=1, attention_heads=2),
}


@pytest.fixture(params=SMALL)
def model(request):
    keras.utils.set_random_seed(1)
    return SMALL[request.param]()


def test_a_saved_model_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    rows = random_rows(model, 8, seed=2)
    for task in model.tasks:
        np.testing.assert_array_equal(loaded(rows)[task], model(rows)[task])


def test_random_rows_of_models_in_units_are_packets():
    rows = random_rows(SMALL["flowpic"](), 64, seed=1)
    assert 1400 < rows["sequence"][..., 0].max() <= 1500
    assert rows["sequence"][..., 1].max() > 1e6
    assert set(np.unique(rows["sequence"][..., 2])) == {-1, 0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["savedmodel", "litert"])
def test_exports_give_the_models_probabilities(model, format, tmp_path):
    run = write_run(tmp_path / "run", model)
    if isinstance(model, BytePatches):
        (run / "recipe.json").write_text(Recipe.named("byte-patches").model_dump_json())
        (run / "features.json").write_text(ByteSpec(length=41).model_dump_json())
    report = export(ExportOptions(run, tmp_path / "out", format))
    assert report.largest_error <= 1e-5
    assert not report.streaming
    said = json.loads((report.out / "features.json").read_text())["streaming"]["reason"]
    assert said == f"{type(model).__name__} does not read packets one by one"
    with pytest.raises(FlowloomError, match=r"cannot be streamed: .* one by one; score whole flows"):
        StreamingScorer.load(report.out)
    assert len(TASKS) == len(model.tasks)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("cesnet-cnn", ["scaling=standard"], "needs feed.channels=.size, gap, direction. and feed.scaling=none, got"),
        ("flowpic", ["channels=[size, gap]"], "model.kind=flowpic needs feed.channels"),
        ("flowpic", ["pixels=8"], "model.pixels"),
        ("byte-patches", ["attention_heads=3"], "model.attention_heads must divide model.token_width=64, got 3"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(recipe, settings, message):
    with pytest.raises(FlowloomError, match=message):
        Recipe.named(recipe, settings)
