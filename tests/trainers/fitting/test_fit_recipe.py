"""Trees and linear models from a recipe to a run, its report, its exports and its scores."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.ensemble

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.deploy.deployed_model import DeployedModel
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.deploy.scorer import Scorer
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.evaluation.predictions import both_classes
from flowloom.trainers.feed.array_feed import ArrayFeed
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.fitting.fit_recipe import best_trees
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.train import TrainOptions, train
from flowloom.trainers.trees.estimators import FitSettings, fit
from flowloom.trainers.trees.labelled_rows import labelled_rows

SMALL = {
    "extra-trees": ("k=8", "trees=12"),
    "boosted-trees": ("k=8", "trees=30"),
    "logistic": ("k=8",),
}
COST = {"parameters": 1, "macs": 2, "inference_us": 3.0, "inference_p10_us": 2.0, "inference_cpu_us": 3.0, "repeats": 4}


@pytest.fixture(scope="module")
def runs(synthetic, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: train(TrainOptions(synthetic(), root / name, name, settings)).run for name, settings in SMALL.items()}


def test_runs_have_what_runs_of_networks_have(runs, synthetic):
    for name, root in runs.items():
        run = Run.open(root)
        assert run.recipe.name == name
        assert run.summary["parameters"] == run.load_model().count_params() > 0
        assert min(run.history[0]["validation_auc"].values()) > 0.8
        assert {"trees.npz", "profile.json"} <= set(run.summary["files"])
        assert run.history[0]["rows"]["app"] == sum(
            Dataset.open(synthetic()).card.splits["train"].classes["app"].values()
        )
        assert "keras" not in run.summary["versions"]


def test_a_forest_is_that_of_scikit_learn_on_the_rows_of_the_feed(runs, synthetic):
    run = Run.open(runs["extra-trees"])
    model = run.load_model()
    dataset = Dataset.open(synthetic())
    feed = ArrayFeed(dataset, "train", run.features, 1024, seed=run.recipe.seed)
    rows, labels = labelled_rows(feed, None, model.columns.matrix)["app"]
    forest = sklearn.ensemble.ExtraTreesClassifier(12, random_state=run.recipe.seed, n_jobs=1).fit(rows, labels)
    given, _ = labelled_rows(ArrayFeed(dataset, "test", run.features, 1024), None, model.columns.matrix)["app"]
    assert model.predict(given)["app"].tobytes() == forest.predict_proba(given).astype(np.float32).tobytes()


def test_the_same_seed_gives_the_same_file(runs, synthetic, tmp_path):
    again = train(TrainOptions(synthetic(), tmp_path / "again", "extra-trees", SMALL["extra-trees"])).run
    assert (again / "trees.npz").read_bytes() == (runs["extra-trees"] / "trees.npz").read_bytes()


def test_boosting_keeps_the_rounds_of_the_lowest_validation_loss(runs):
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    noise = np.random.default_rng(1).integers(0, 3, 300).astype(np.int32)
    found = fit(FitSettings("boosted_trees", trees=20), x[:150], noise[:150], 3)
    assert best_trees(found, 3, x[150:], noise[150:]) < 15, "noise is not learned for long"
    assert best_trees(found, 3, x[:150], noise[:150]) == 60, "the train rows fit better with each round"
    record = Run.open(runs["boosted-trees"]).history[0]
    assert all(0 < trees <= 30 * 3 for trees in record["trees"].values())


@pytest.mark.parametrize("name", SMALL)
def test_the_report_is_that_of_any_run(runs, name, monkeypatch):
    if name != "extra-trees":  # timing needs a process that loads TensorFlow
        monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    metrics = evaluate(EvaluateOptions(runs[name]))
    assert all(figures["auc"] > 0.8 for figures in metrics["tasks"].values())
    if name == "extra-trees":
        assert metrics["cost"]["runtime"] == "numba"
        assert metrics["cost"]["macs"] == Run.open(runs[name]).load_model().macs
    text = (runs[name] / "report.html").read_text()
    assert "An estimator for each task was fitted as a whole" in text
    assert "comparisons and additions per flow" in text
    assert "{{" not in text


def rows_of(dataset):
    paths = dict.fromkeys(group.path for group in Dataset.open(dataset).row_groups("test"))
    return pq.read_table(next(iter(paths)))


@pytest.mark.parametrize(
    ("name", "format"),
    [("extra-trees", "arrays"), ("extra-trees", "c"), ("boosted-trees", "c"), ("logistic", "c"),
     ("extra-trees", "onnx"), ("boosted-trees", "onnx"), ("logistic", "onnx")],
)  # fmt: skip
def test_exports_score_as_the_run(runs, synthetic, tmp_path, name, format, extra_library):
    if format == "c" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("needs a C compiler")
    if format == "onnx":
        extra_library("onnx")
    report = export(ExportOptions(runs[name], tmp_path / "out", format))
    assert report.largest_error <= (1e-5 if format == "onnx" else 0)
    assert not report.streaming
    rows = rows_of(synthetic())
    one, two = (Scorer(DeployedModel.open(root)) for root in (runs[name], tmp_path / "out"))
    assert one.model.engine == two.model.engine == "trees"
    assert one.score(rows).scores.equals(two.score(rows).scores)
    contract = json.loads((tmp_path / "out" / "features.json").read_text())
    model = Run.open(runs[name]).load_model()
    assert contract["trees"]["columns"] == list(model.columns.names)
    (tmp_path / "out" / "trees.npz").write_bytes(b"PK")
    with pytest.raises(FlowloomError, match=r"trees\.npz must have the SHA-256"):
        Scorer(DeployedModel.open(tmp_path / "out"))


def test_formats_of_networks_are_refused(runs, tmp_path):
    with pytest.raises(FlowloomError, match=r"got savedmodel; add --format arrays"):
        export(ExportOptions(runs["logistic"], tmp_path / "out"))


def test_scores_are_the_probabilities_of_the_model(runs, synthetic):
    run = Run.open(runs["boosted-trees"])
    rows = rows_of(synthetic()).combine_chunks().to_batches()[0]
    sequence, length = run.features.render(rows, np.arange(rows.num_rows))
    expected = run.load_model()({"sequence": sequence, "length": length})
    scores = Scorer(DeployedModel.open(run.root)).score(rows).scores
    for task in ("app", "attack"):
        found = np.stack(scores[f"probability_{task}"].to_numpy(zero_copy_only=False))
        np.testing.assert_array_equal(found, both_classes(expected[task]))


def test_few_rows_and_few_labels_are_chosen_by_the_recipe(synthetic, tmp_path):
    settings = ("k=4", "trees=3", "most_rows=50", "labels_per_class={app: 7}")
    run = Run.open(train(TrainOptions(synthetic(), tmp_path / "run", "forest", settings)).run)
    assert run.history[0]["rows"] == {"app": 21, "attack": 50, "bulk": 50}


def test_settings_that_trees_do_not_have_are_refused():
    with pytest.raises(FlowloomError, match=r"schedule\.epochs has no effect on model\.kind=extra_trees.*remove it"):
        Recipe.named("extra-trees", ["epochs=3"])
    with pytest.raises(FlowloomError, match=r"kind=logistic reads packets in units and needs feed\.scaling=none"):
        Recipe.named("logistic", ["scaling=fixed"])
    with pytest.raises(FlowloomError, match=r"feed\.source must be bytes or features for model\.kind=mtc"):
        Recipe.named("mtc", ["source=flows"])
    views = {source: Recipe.named("forest", [f"source={source}"]).view for source in ("flows", "bytes", "features")}
    assert views == {"flows": "flows", "bytes": "packets", "features": "tables"}
