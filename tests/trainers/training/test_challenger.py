"""Retraining: refused recipes, and the start of a challenger."""

import json

import numpy as np
import pytest

from flowloom.pipelines.retrain.continuity import check_recipe
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import REPORT, Run
from flowloom.trainers.training.challenger import compare, train_challenger
from flowloom.trainers.training.train import TrainOptions, train

SMALL = ("epochs=1", "k=6", "units=4", "experts=1", "tower=[4]", "batch_size=64")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("multa", ["paradigm=incremental"], "schedule.paradigm must be .*got incremental"),
        ("transfer-cnn", [], "schedule.paradigm must be .*got transfer"),
        ("multa", ["tasks=[app]"], "trains all tasks"),
        ("multa", ["mixed_precision=true"], "float32 weights"),
    ],
)
def test_recipes_that_cannot_continue_are_refused(name, words, message):
    with pytest.raises(FlowloomError, match=message):
        check_recipe(Recipe.named(name, words))


def test_isolated_latecomers_need_a_trained_model(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="needs a trained model of other tasks"):
        train(TrainOptions(synthetic(), tmp_path / "run", "multa", ("paradigm=isolated",)))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_a_challenger_starts_from_the_champion(synthetic, tmp_path, layout):
    recipe, dataset = Recipe.named("multa", SMALL), synthetic(layout=layout)
    part = tmp_path / "part"
    part.mkdir()
    card = json.loads((dataset / "dataset.json").read_text())
    card["tasks"] = card["tasks"][:2]
    kept = [task["name"] for task in card["tasks"]]
    card["shards"] = [shard for shard in card["shards"] if shard["task"] in (None, *kept)]
    for each in dataset.iterdir():
        if each.name != "dataset.json":
            (part / each.name).symlink_to(each)
    (part / "dataset.json").write_text(json.dumps(card))

    _, start, _ = train_challenger(recipe, part, tmp_path / "1", None, lambda _: None)
    assert start == "fresh"
    still = recipe.changed({"learning_rate": 1e-30, "scaling": "standard"})
    _, start, _ = train_challenger(still, part, tmp_path / "2", tmp_path / "1", lambda _: None)
    assert start == "warm"
    one, two = (Run.open(tmp_path / name).load_model() for name in ("1", "2"))
    for before, after in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)

    longer = recipe.changed({"epochs": 2})
    _, start, reason = train_challenger(longer, dataset, tmp_path / "3", tmp_path / "2", lambda _: None)
    assert (start, reason) == (
        "grown",
        "the model grew by the new tasks bulk; the other tasks stay the same to the bit",
    )
    train_challenger(longer, dataset, tmp_path / "3 again", tmp_path / "2", lambda _: None)
    three = Run.open(tmp_path / "3")
    again = Run.open(tmp_path / "3 again").load_model()
    for weights, repeated in zip(three.load_model().get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, repeated)
    assert [task.name for task in three.tasks] == ["app", "attack", "bulk"]
    found = compare(tmp_path / "2", tmp_path / "3", [dataset])
    for task in kept:
        assert found[task].champion == found[task].challenger
    assert found["bulk"].champion is None
    assert found["bulk"].challenger is not None

    assert set(evaluate(EvaluateOptions(tmp_path / "3"))["tasks"]) == {"app", "attack", "bulk"}
    report = (tmp_path / "3" / REPORT).read_text()
    assert "The smaller model that this model grew from had learned app, attack before" in report
    assert "<td>app</td><td>n/a</td>" in report

    other = recipe.changed({"units": 5})
    _, start, reason = train_challenger(other, dataset, tmp_path / "4", tmp_path / "3", lambda _: None)
    assert (start, reason) == ("fresh", "the recipe differs from the champion's in model.units")
