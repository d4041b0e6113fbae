"""Runs in Python: a training by its arguments, evaluation, export, and scores of rows."""

import json

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_flows
from written_runs import CLASSES, TASKS, K, write_run

import flowloom as fl
from flowloom.schemas.arrow.address_texts import with_text_addresses
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.recipes.run_directory import Run

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of a run that was never trained."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", fl.models.LMMoE(K, 3, CLASSES, units=4))


@pytest.fixture(scope="module")
def trained(synthetic, tmp_path_factory):
    """A run of a training in Python."""
    ds = fl.open_dataset(synthetic())
    settings = {"epochs": 2, "k": 5, "units": 4, "batch_size": 64, "tower": (4,), "loss.weights": {"app": 2.0}}
    return fl.train(ds, tmp_path_factory.mktemp("trained") / "run", recipe="multa", **settings)


def test_settings_are_those_of_the_recipe(trained):
    recipe = trained.recipe
    assert (recipe.schedule.epochs, recipe.feed.k, recipe.model.units, recipe.model.tower) == (2, 5, 4, (4,))
    assert recipe.loss.weights == {"app": 2.0}
    assert len(trained.history) == trained.summary["epochs"] == 2
    assert Run.open(trained.root).recipe == fl.open_run(trained.root).recipe == recipe


def test_unknown_settings_and_recipes_are_refused(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="epoch"):
        fl.train(synthetic(), tmp_path / "run", epoch=2)
    with pytest.raises(FlowloomError, match="did you mean 'multa'"):
        fl.train(synthetic(), tmp_path / "run", recipe="mutla")
    with pytest.raises(FlowloomError, match=r"is not a run, as run\.json is missing"):
        fl.open_run(tmp_path / "run")


def test_an_evaluation_writes_its_metrics(trained):
    metrics = trained.evaluate("validation", baselines=["majority"])
    assert metrics == json.loads((trained.root / "metrics.json").read_text())
    assert metrics["split"] == "validation"
    assert (trained.root / "report.html").is_file()


def test_an_export_scores_as_its_run(written, tmp_path):
    run = fl.open_run(written)
    report = run.export(tmp_path / "deployed")
    assert report.largest_error < 1e-5
    flows = synthetic_flows(50, k=K)
    of_run, of_export = (fl.load_model(path).score(flows) for path in (written, tmp_path / "deployed"))
    assert of_run.scores.num_rows + sum(of_run.rejected.values()) == 50
    assert of_run.scores.equals(of_export.scores)


def test_a_model_scores_batches_and_tables_alike_and_names_classes(written):
    scorer, flows = fl.load_model(written), synthetic_flows(50, k=K)
    of_batch = scorer.score(flows)
    of_table = scorer.score(pa.Table.from_batches([flows.slice(0, 20), flows.slice(20)]))
    assert of_batch.scores.equals(of_table.scores)
    for task in TASKS:
        chosen = of_batch.scores[f"class_{task.name}"].to_pylist()
        assert of_batch.scores[f"predicted_{task.name}"].to_pylist() == [task.vocabulary[at] for at in chosen]
    assert scorer.score(pa.Table.from_batches([flows.slice(0, 0)])).scores.num_rows == 0


def test_rows_that_a_model_cannot_read_are_refused(written):
    scorer, flows = fl.load_model(written), synthetic_flows(5, k=K)
    with pytest.raises(FlowloomError, match="rows must have the columns of the model, got none named pkt_size"):
        scorer.score(flows.drop_columns(["pkt_size"]))
    with pytest.raises(FlowloomError, match=r"column src_ip must be fixed_size_binary\[16\], got string"):
        scorer.score(with_text_addresses(flows))


def test_models_need_no_dataset():
    rows = {"sequence": np.zeros((3, 20, 6), "float32"), "length": np.array([1, 2, 20], "int32")}
    for make in (fl.models.LMMoE, fl.models.PLE, fl.models.MultitaskCNN, fl.models.CNNRNN2):
        outputs = make(k=20, channels=6, tasks={"app": 4, "attack": 2})(rows)
        assert {task: tuple(each.shape) for task, each in outputs.items()} == {"app": (3, 4), "attack": (3, 1)}
    packets = {"bytes": np.zeros((2, 50), "uint8")}
    for make in (fl.models.MTC, fl.models.ByteTransformer, fl.models.ByteCNN):
        outputs = make(length=50, tasks={"app": 4, "attack": 2})(packets)
        assert {task: each.shape[0] for task, each in outputs.items()} == {"app": 2, "attack": 2}
