"""The recipes of Rezaei and Liu from dataset to report, on one labelled and two automatic tasks."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.pipelines.cli import main as cli
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.models.cnn_rnn2 import CNNRNN2
from flowloom.trainers.models.multitask_cnn import MultitaskCNN
from flowloom.trainers.recipes.run_directory import METRICS, Run
from flowloom.trainers.training.paradigms import Aurora, Single, Transfer
from flowloom.trainers.training.train import TrainOptions, train
from flowloom.trainers.trees.labelled_rows import labelled_rows

SMALL = ("k=8", "epochs=3", "pretrain_epochs=2", "learning_rate=0.003", "labels_per_class={app: 20}")
ROWS = (256, 40, 60)
COST = {"parameters": 1, "macs": 2, "inference_us": 3.0, "inference_p10_us": 2.0, "inference_cpu_us": 3.0, "repeats": 4}


@pytest.fixture(scope="module")
def dataset(synthetic):
    return synthetic(automatic=True, rows=ROWS)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    recipes = ("multitask-cnn", "cnn-rnn2", "transfer-cnn")
    return {name: train(TrainOptions(dataset, root / name, name, SMALL)).run for name in recipes}


def weights(run):
    return Run.open(run).load_model().get_weights()


@pytest.mark.parametrize("recipe", ["multitask-cnn", "cnn-rnn2", "transfer-cnn"])
def test_a_recipe_learns(runs, recipe):
    history = Run.open(runs[recipe]).history
    assert len(history) == 3
    assert set(history[0]["loss"]) == ({"app"} if recipe == "transfer-cnn" else {"app", "bandwidth", "duration"})
    for task, loss in history[-1]["loss"].items():
        assert loss < history[0]["loss"][task]


def test_steps_are_of_the_rows_that_count(runs, dataset):
    """60 labels of the class task are one batch: the whole epoch of a transfer, one more with alternating networks."""
    assert Run.open(runs["transfer-cnn"]).history[0]["steps"] == 1
    counts = Dataset.open(dataset).card.splits["train"].classes
    labelled = {task: sum(counts[task].values()) for task in ("bandwidth", "duration")}
    single = Run.open(runs["cnn-rnn2"]).history[0]["steps"]
    assert single >= 1 + sum(-(-rows // 64) for rows in labelled.values())
    assert Run.open(runs["multitask-cnn"]).history[0]["steps"] == -(-ROWS[0] // 64)


def test_windows_are_trained_and_evaluated_from_the_command_line(dataset, tmp_path, monkeypatch, capsys):
    """Moments travel with the run and starts do not: what is evaluated begins at the first packet."""
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    path = str(tmp_path / "run")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    for command in (
        ["train", str(dataset), "--recipe", "multitask-cnn-windows", "-o", path, *settings],
        ["evaluate", path, "--baseline", "majority"],
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main(command)
        assert not exit_.value.code
    assert "duration" in capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    assert run.recipe.feed.furthest_start == 20
    assert (run.features.scaling, set(run.features.moments)) == ("standard", {"size", "gap"})
    assert run.history[-1]["loss"]["duration"] < run.history[0]["loss"]["duration"]
    assert json.loads((run.root / METRICS).read_bytes())["tasks"]["duration"]["auc"] > 0.5


def test_a_transfer_keeps_the_convolutions_and_answers_its_own_task_alone(runs):
    run = Run.open(runs["transfer-cnn"])
    first = Run.open(run.root / "pretrained")
    assert [task.name for task in first.tasks] == ["bandwidth", "duration"]
    assert [task.name for task in run.tasks] == ["app"]
    learned, model = first.load_model(), run.load_model()
    frozen = len(model.convolution_variables)
    for n, (before, after) in enumerate(zip(learned.shared_variables, model.shared_variables, strict=True)):
        assert np.array_equal(before, after) == (n < frozen)


def test_an_interrupted_transfer_ends_with_the_same_numbers(dataset, runs, tmp_path):
    options = TrainOptions(dataset, tmp_path / "run", "transfer-cnn", SMALL)
    seen = []

    def cut(progress):
        seen.append(progress.text.rpartition(" of ")[0])
        if seen[-1] in {"epoch 2 of 2, step 3", "epoch 2 of 3, step 1"} and seen.count(seen[-1]) == 1:
            raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            train(options, cut)
    train(options, cut)
    assert Run.open(options.run).history == Run.open(runs["transfer-cnn"]).history
    for one, other in zip(weights(options.run), weights(runs["transfer-cnn"]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_recipes_may_train_some_of_the_tasks(dataset, runs, tmp_path):
    alone = train(TrainOptions(dataset, tmp_path / "run", "multitask-cnn", (*SMALL, "tasks=[duration]", "epochs=1")))
    run = Run.open(alone.run)
    assert [task.name for task in run.tasks] == ["duration"]
    assert list(run.history[0]["loss"]) == ["duration"]
    assert alone.parameters < Run.open(runs["multitask-cnn"]).summary["parameters"]


@pytest.mark.parametrize("recipe", ["multitask-cnn", "cnn-rnn2", "transfer-cnn"])
def test_runs_are_evaluated_with_automatic_tasks_as_multiclass(runs, dataset, recipe, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    found = evaluate(EvaluateOptions(runs[recipe]))
    card = Dataset.open(dataset).card
    assert set(found["tasks"]) == ({"app"} if recipe == "transfer-cnn" else {"app", "bandwidth", "duration"})
    for task in card.tasks:
        if task.name in found["tasks"]:
            figures = found["tasks"][task.name]
            classes = card.splits["test"].classes[task.name]
            assert {word: said["support"] for word, said in figures["classes"].items()} == classes
            aucs = [said["auc"] for said in figures["classes"].values()]
            assert figures["auc"] == pytest.approx(np.mean(aucs))
            assert figures["baselines"]["best_classical"]["auc"] > 0.5
    report = (runs[recipe] / "report.html").read_text()
    assert report.count("ROC and precision-recall curve of each class against the rest") == len(found["tasks"])
    assert "Gate weights" not in report
    if recipe != "transfer-cnn":
        assert "10000 to 1e+06 bit/s" in report


def test_baselines_see_the_few_labels_of_the_model(runs, monkeypatch):
    seen = {}

    def remember(tasks, train, test, seed, names, validation):
        seen.update({task: len(labels) for task, (_, labels) in labelled_rows(train).items()})
        return {task.name: {} for task in tasks}

    monkeypatch.setattr("flowloom.trainers.evaluation.evaluate.baseline_predictions", remember)
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    evaluate(EvaluateOptions(runs["multitask-cnn"]))
    assert seen["app"] == 60
    assert seen["duration"] > 150


def test_the_inference_that_is_timed_runs(runs):
    run = Run.open(runs["transfer-cnn"])
    (said,) = cost.single_inference(run.load_model(), "tensorflow", seed=1)()
    assert said.shape == (1, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tasks=[apps]"], "feed.tasks must name tasks of dataset .*, got 'apps'; did you mean 'app'"),
        (["labels_per_class={web: 3}"], "feed.labels_per_class must name tasks of .*, got 'web'"),
        (["pretrain_tasks=[durations]"], "schedule.pretrain_tasks must name tasks of .*, got 'durations'"),
        (["tasks=[duration]", "pretrain_tasks=[duration]"], "must be disjoint, got duration in both"),
        (["pretrain_tasks=[app, duration, bandwidth]"], "must leave a task of dataset .* to train"),
        (["tasks=[duration, bandwidth]"], "has none of kind auto besides the trained ones"),
    ],
)
def test_tasks_that_cannot_be_transferred_are_refused(dataset, tmp_path, settings, message):
    with pytest.raises(FlowloomError, match=message):
        train(TrainOptions(dataset, tmp_path / "run", "transfer-cnn", (*SMALL, *settings)))
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_automatic_tasks_needs_names_to_learn_first(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="none of kind auto"):
        train(TrainOptions(synthetic(), tmp_path / "run", "transfer-cnn", SMALL))
    assert not list(tmp_path.iterdir())


TASKS = {"app": 3, "duration": 2}


def batch(known):
    generator = np.random.default_rng(0)
    inputs = {
        "sequence": tf.constant(generator.normal(size=(6, 8, 2)), tf.float32),
        "length": tf.fill(6, 8),
    }
    labels = {task: tf.constant(generator.integers(0, classes, 6), tf.int32) for task, classes in TASKS.items()}
    return inputs, labels, {task: tf.constant(row, tf.float32) for task, row in known.items()}


def paradigm_of(kind, model, synthetic_tasks, **loss_weights):
    keras_tasks = [task for task in synthetic_tasks if task.name in TASKS]
    signature = (
        {"sequence": tf.TensorSpec((None, 8, 2)), "length": tf.TensorSpec((None,), tf.int32)},
        {task: tf.TensorSpec((None,), tf.int32) for task in TASKS},
        {task: tf.TensorSpec((None,)) for task in TASKS},
    )
    return kind(model, keras.optimizers.Adam(0.01), keras_tasks, loss_weights, signature)


def changed(model, before):
    return {
        variable.path.split("/")[0]
        for variable, old in zip(model.weights, before, strict=True)
        if not np.array_equal(variable, old)
    }


def test_a_masked_label_changes_nothing_and_its_row_trains_the_other_task(dataset):
    tasks = Dataset.open(dataset).tasks
    inputs, labels, weights = batch({"app": [1, 1, 0, 0, 0, 0], "duration": [1] * 6})
    results = []
    for filler in (0, 2):
        keras.utils.set_random_seed(1)
        model = MultitaskCNN(8, 2, TASKS)
        filled = {**labels, "app": tf.where(weights["app"] > 0, labels["app"], filler)}
        sums = paradigm_of(Aurora, model, tasks, app=10.0).step(None, (inputs, filled, weights))
        assert sums[:, 1].numpy().tolist() == [2, 6]
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_transfer_updates_all_but_the_convolutions(dataset):
    model = MultitaskCNN(8, 2, TASKS)
    before = model.get_weights()
    paradigm_of(Transfer, model, Dataset.open(dataset).tasks).step(None, batch({task: [1] * 6 for task in TASKS}))
    assert changed(model, before) == {"dense_0", "dense_1", "app_head", "duration_head"}


def test_single_networks_leave_each_other_alone(dataset):
    """Weights, momentum, and the statistics of normalised batches."""
    model = CNNRNN2(8, 2, TASKS)
    single = paradigm_of(Single, model, Dataset.open(dataset).tasks)
    single.step("app", batch({"app": [1] * 6, "duration": [0] * 6}))
    before = model.get_weights()
    single.step("duration", batch({"app": [0] * 6, "duration": [1] * 6}))
    assert {name.split("_")[0] for name in changed(model, before)} == {"duration"}
