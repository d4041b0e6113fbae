"""MTC and its baselines, from datasets of packets and tables to runs, metrics and exported models."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_views import store_views
from training_progress import epoch_and_step

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import label_column, labelled, packet_schema
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.litert import LiteRTModel
from flowloom.trainers.conversion.random_rows import random_rows
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.evaluation.predictions import compiled, predict
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.few_labels import kept_flows
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.train import TrainOptions, train

BYTES = 24
FEATURES = tuple(f"feature_{n}" for n in range(20))
ROWS = {"train": 320, "validation": 64, "test": 96}
TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("chat", "voip", "web")),
    Task(name="tunnel", kind="multiclass", vocabulary=("mail", "file", "vpn-mail", "vpn-file")),
    Task(name="traffic", kind="binary", vocabulary=("mail", "file")),
)
SUMS = "sums={traffic: {of: tunnel, words: {vpn-mail: mail, vpn-file: file}}}"
SMALL = ("learning_rate=0.01", "batch_size=64", "epochs=3", "window_rows=100")
CNN = (*SMALL, "source=features", SUMS)
TRANSFORMER = (*SMALL, "length=20", "encoders=1", "attention_heads=2", "batch_size=16", "learning_rate=0.003")
MTC = (*SMALL, "transformer_tasks=[app]", "repetitions=[0, 0, 1]", "stem=2", "epochs=2")
COST = {"parameters": 1, "macs": 2, "inference_us": 3.0, "inference_p10_us": 2.0, "inference_cpu_us": 3.0, "repeats": 4}


def table(view, split):
    """Rows whose first values determine their labels; a tenth of the labels is unknown."""
    rows, rng = ROWS[split], np.random.default_rng([ROWS[split], len(view)])
    app, tunnel = rng.integers(0, 3, rows), rng.integers(0, 4, rows)
    codes = {"app": app, "tunnel": tunnel, "traffic": tunnel % 2}
    if view == "packets":
        values = rng.integers(0, 40, (rows, BYTES))
        values[:, :6] += 80 * app[:, None]
        values[:, 6:12] += 50 * tunnel[:, None]
        schema, inputs = packet_schema(BYTES), {"bytes": [row.tobytes() for row in values.astype(np.uint8)]}
    else:
        values = rng.normal(size=(rows, len(FEATURES)))
        values[:, :6] += 3 * app[:, None]
        values[:, 6:12] += 3 * tunnel[:, None]
        schema, inputs = feature_schema(FEATURES), dict(zip(FEATURES, values.T, strict=True))
    columns = {
        "flow_id": [hashlib.sha256(f"{split} {n}".encode()).digest()[:16] for n in range(rows)],
        "group": ["a"] * rows,
        "time": np.arange(rows),
        "record": np.arange(rows, dtype=np.uint64),
        **inputs,
        **{
            label_column(task): pa.array(found, pa.int32(), mask=rng.random(rows) < 0.1)
            for task, found in codes.items()
        },
    }
    schema = labelled(schema, [task.name for task in TASKS])
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    """The directory of a dataset of packets and tables."""
    tables = {(view, split): table(view, split) for view in ("packets", "tables") for split in ROWS}
    changes = {"tasks": TASKS, "packet_bytes": BYTES, "features": FEATURES}
    return store_views(tmp_path_factory.mktemp("views"), read_card(synthetic()), tables, **changes)


@pytest.fixture(scope="module")
def packets(dataset, tmp_path_factory):
    """A run of the Transformer on packets."""
    return train(TrainOptions(dataset, tmp_path_factory.mktemp("runs") / "run", "mtc-transformer", TRANSFORMER)).run


@pytest.fixture(scope="module")
def tables(dataset, tmp_path_factory):
    """A run of the 1D-CNN on tables, whose third task is a sum over the classes of the second."""
    return train(TrainOptions(dataset, tmp_path_factory.mktemp("runs") / "run", "mtc-cnn", CNN)).run


def weights(run):
    return Run.open(run).load_model().get_weights()


@pytest.mark.parametrize(("name", "view"), [("packets", "packets"), ("tables", "tables")])
def test_a_training_learns(request, name, view):
    run = Run.open(request.getfixturevalue(name))
    assert run.recipe.view == run.features.view == view
    first, *_, last = run.history
    assert last["loss"]["app"] < first["loss"]["app"]
    assert run.summary["validation_auc"]["app"] > 0.7


def test_an_interrupted_training_ends_with_the_same_numbers(dataset, tables, tmp_path):
    """The checkpoint also holds the state of dropout and of batch norm."""
    options = TrainOptions(dataset, tmp_path / "run", "mtc-cnn", CNN, checkpoint_s=0)

    def cut(progress):
        if epoch_and_step(progress) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, cut)
    train(options)
    assert Run.open(options.run).history == Run.open(tables).history
    for one, other in zip(weights(options.run), weights(tables), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "options"),
    [("mtc", ()), ("mtc-lite", ()), ("mtc-lite", ("source=features", "table_scaling=quantile", "stem=null"))],
    ids=["mtc", "mtc-lite", "mtc-lite on tables"],
)
def test_mtc_learns_and_is_exported(dataset, tmp_path, recipe, options):
    run = train(TrainOptions(dataset, tmp_path / "run", recipe, (*MTC, *options))).run
    first, last = Run.open(run).history
    for task in TASKS:
        assert last["loss"][task.name] < first["loss"][task.name]
    assert export(ExportOptions(run, tmp_path / "lite", "litert")).largest_error <= 1e-5


@pytest.mark.parametrize(
    ("name", "unit", "sees"), [("packets", "packet", "its first 20 bytes"), ("tables", "row", "its 20 features")]
)
def test_metrics_and_report_name_the_rows(request, name, unit, sees, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    run = request.getfixturevalue(name)
    found = evaluate(EvaluateOptions(run))
    assert found["mean_auc"] > 0.7
    expected = table(name, "test")
    for task in TASKS:
        assert found["tasks"][task.name]["support"] == ROWS["test"] - expected[label_column(task.name)].null_count
        assert found["tasks"][task.name]["baselines"]["best_classical"]["auc"] > 0.9
        assert set(found["tasks"][task.name]["ceiling"]) == {"inputs"}
    page = (run / "report.html").read_text()
    assert f"for each {unit} from {sees}" in page
    assert f"multiply-accumulates per {unit}" in page
    assert " flow of" not in page
    assert " flows of" not in page


def test_a_summed_task_is_a_sum_of_classes(dataset, tables):
    run = Run.open(tables)
    feed = Feed(Dataset.open(dataset), "test", run.features, 32)
    features, _ = feed.tensors(0, 0)
    said = {task: answer.numpy() for task, answer in run.load_model()({"features": features}).items()}
    np.testing.assert_allclose(said["traffic"][:, 0], said["tunnel"][:, [1, 3]].sum(axis=1), rtol=1e-5)


def test_tables_are_selected_scaled_and_balanced_by_the_recipe(dataset, tmp_path):
    """The run stores the scaling, so that scored rows are scaled as the train rows were."""
    smote = "balance={task: app, how: smote, totals: {chat: 150, voip: 20}, neighbours: 3}"
    options = ("source=features", "epochs=1", "batch_size=300", "table_scaling=quantile", "most_features=20", smote)
    run = Run.open(train(TrainOptions(dataset, tmp_path / "run", "mtc-cnn", (*SMALL, *options))).run)
    made = pq.read_table(run.root / "made.parquet")
    counts = np.bincount(made["label_app"].to_numpy())
    assert counts[:2].tolist() == [150, 20]
    assert run.summary["steps"] == 1
    opened = Dataset.open(dataset)
    assert run.features == TableSpec.of(opened, scaling="quantile", most=20)
    features, _ = Feed(opened, "test", run.features, 32).tensors(0, 0)
    assert features.min() >= 0
    assert features.max() <= 1


def test_few_labels_are_of_flows_of_the_view(dataset, tables):
    run, opened = Run.open(tables), Dataset.open(dataset)
    kept = kept_flows(opened, {"app": 5}, 7, "tables")
    feed = Feed(opened, "train", run.features, 32, seed=7, kept=kept, only_labelled=True)
    labels = np.concatenate([feed.tensors(0, number)[-1] for number in range(len(feed.windows(0)))])
    assert np.bincount(labels[labels[:, 0] >= 0, 0]).tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("recipe", "options"), [("mtc-cnn", CNN), pytest.param("mtc-lite", MTC, marks=pytest.mark.slow)]
)
def test_a_model_trained_in_bfloat16_is_stored_in_float32(dataset, tmp_path, recipe, options):
    run = train(TrainOptions(dataset, tmp_path / "run", recipe, (*options, "epochs=1", "mixed_precision=true"))).run
    model = Run.open(run).load_model()
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    (record,) = Run.open(run).history
    assert np.isfinite([*record["loss"].values(), *record["validation_loss"].values()]).all()
    feed = Feed(Dataset.open(dataset), "validation", Run.open(run).features, 32)
    found = predict(compiled(model, feed), feed)["app"].loss
    assert found == pytest.approx(record["validation_loss"]["app"], rel=0.05)


def test_a_litert_model_predicts_the_same(packets, tables, tmp_path):
    for name, run in {"packets": packets, "tables": tables}.items():
        report = export(ExportOptions(run, tmp_path / name, "litert"))
        model = Run.open(run).load_model()
        rows = random_rows(model, 8, seed=1)
        said = LiteRTModel((report.out / "model.tflite").read_bytes())(rows)
        for task, expected in model(rows).items():
            np.testing.assert_allclose(said[task], expected, atol=1e-5)
        assert not report.streaming
        contract = json.loads((report.out / "features.json").read_text())
        ((source, shape),) = contract["inputs"].items()
        assert (contract["view"], source, shape) in [
            ("packets", "bytes", {"dtype": "uint8", "shape": ["batch", 20]}),
            ("tables", "features", {"dtype": "float32", "shape": ["batch", len(FEATURES)]}),
        ]
        assert contract["feature_names"] == list(FEATURES if source == "features" else ())


@pytest.mark.slow
def test_a_saved_model_predicts_the_same(packets, tmp_path):
    import tensorflow as tf

    report = export(ExportOptions(packets, tmp_path / "out"))
    model = Run.open(packets).load_model()
    served = tf.saved_model.load(str(report.out / "saved_model")).signatures["serving_default"]
    for count in (1, 9):
        rows = random_rows(model, count, seed=1)
        said = served(bytes=tf.constant(rows["bytes"]))
        for task, expected in model(rows).items():
            np.testing.assert_allclose(said[task], expected, atol=1e-5)


def test_one_row_is_scored_at_a_time_for_timing(packets, tables):
    for run in (packets, tables):
        app, tunnel, traffic = cost.single_inference(Run.open(run).load_model(), "tensorflow", seed=7)()
        assert (app.shape, tunnel.shape, traffic.shape) == ((1, 3), (1, 4), (1, 1))


def test_errors_name_settings_that_do_not_fit(dataset, packets, tables, tmp_path, synthetic):
    def changed(name, **changes):
        shutil.copytree(dataset, tmp_path / name)
        card = read_card(dataset).model_copy(update=changes)
        (tmp_path / name / "dataset.json").write_text(card.model_dump_json())
        return tmp_path / name

    def training(recipe, *settings, of=dataset):
        return lambda: train(TrainOptions(of, tmp_path / "run", recipe, (*SMALL, *settings)))

    for call, words in [
        (training("multa"), "has no flows view, only packets, tables"),
        (training("mtc", of=synthetic()), "has no packets view, only flows"),
        (training("mtc", "length=25"), "length must be from 1 to 24"),
        (training("mtc", "transformer_tasks=[ap]"), "model.transformer_tasks must name .*got 'ap'; did you mean 'app'"),
        (training("mtc", "stem=4"), r"stem must divide the 6 values of a token"),
        (training("mtc-cnn", "length=18"), "length must be >= 19"),
        (training("mtc", "sums={traffic: {of: tunel}}"), "model.sums must name .*got 'tunel'; did you mean 'tunnel'"),
        (
            training("mtc", "sums={traffic: {of: tunnel}}"),
            "model.sums.traffic.words must give label values of task 'traffic'.*got 'vpn-mail'",
        ),
        (
            training("mtc", SUMS.replace("vpn-mail", "vpnmail")),
            "keys of model.sums.traffic.words must be label values of task 'tunnel'.*got 'vpnmail'",
        ),
        (
            lambda: evaluate(EvaluateOptions(packets, dataset=changed("short", packet_bytes=19))),
            "must have 20 bytes per packet for the model of run .* got 19",
        ),
        (
            lambda: evaluate(EvaluateOptions(tables, dataset=changed("lacking", features=FEATURES[1:]))),
            "lacks the feature feature_0 of the model",
        ),
        (
            lambda: Recipe.named("multa", ["table_scaling=quantile"]),
            "table_scaling and feed.most_features need feed.source",
        ),
        (
            lambda: Recipe.named("mtc", ["balance={task: app, how: smote, totals: {chat: 9}}"]),
            "needs feed.source=features",
        ),
        (
            lambda: Recipe.named("mtc", ["microbatch=8", "xla=true"]),
            "schedule.microbatch must be null under schedule.xla=true",
        ),
        (
            lambda: Recipe.named("mtc", ["microbatch=8", "weighting=gradnorm"]),
            "loss.weighting=fixed or dwa, .*gradnorm",
        ),
        (
            lambda: Recipe.named("multa", [SUMS]),
            "sums needs a model.kind among mtc, byte_transformer, byte_cnn, byte_patches, got lmmoe",
        ),
    ]:
        with pytest.raises(FlowloomError, match=words):
            call()
