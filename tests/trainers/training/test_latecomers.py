"""Tasks that arrive one after another: phases, replays, forgetting and isolation."""

import collections
import itertools
import json

import keras
import numpy as np
import pytest
from training_progress import epoch_and_step

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.evaluation import cost
from flowloom.trainers.evaluation.evaluate import EvaluateOptions, evaluate
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.latecomers import Arrivals, LatecomerFeed, findings, replays
from flowloom.trainers.training.loop import Training
from flowloom.trainers.training.train import TrainOptions, train

ORDER = ("bulk", "app", "attack")
SMALL = ("k=6", "learning_rate=0.01", "batch_size=32", "paradigm=incremental", "arrivals=[bulk, app, attack]")
LSTMS = (*SMALL, "experts=1", "units=6", "tower=[4]", "phase_epochs=2")
ROWS = (240, 80, 20)
COST = {"parameters": 1, "macs": 2, "inference_us": 3.0, "inference_p10_us": 2.0, "inference_cpu_us": 3.0, "repeats": 4}


class PowerCutError(Exception):
    """Interrupts a training between two steps."""


def feed_of(path, arrivals):
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, 6, ("size", "gap"), "standard")
    feeds = {
        task.name: Feed(dataset.restricted([task.name]), "train", features, 32, seed=5, striped=True)
        for task in dataset.tasks
    }
    return LatecomerFeed(feeds, arrivals)


def test_phases_follow_each_other():
    arrivals = Arrivals(ORDER, "repair", phase_epochs=2, repair_epochs=3)
    assert [(phase.task, phase.first_epoch, phase.last_epoch) for phase in arrivals.phases] == [
        ("bulk", 1, 2), ("app", 3, 4), ("attack", 5, 6), ("bulk", 7, 9)
    ]  # fmt: skip
    assert arrivals.epochs == 9
    assert [arrivals.phase(epoch).task for epoch in (1, 4, 5, 9)] == ["bulk", "app", "attack", "bulk"]
    assert [phase.repair for phase in arrivals.phases] == [False, False, False, True]


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
@pytest.mark.parametrize("latecomer", ["sequential", "replay"])
def test_a_phase_trains_its_task(synthetic, layout, latecomer):
    """Under replay the requested share of steps is of earlier tasks, which take turns."""
    arrivals = Arrivals(ORDER, latecomer, phase_epochs=1, replay_share=0.4)
    feed = feed_of(synthetic(layout=layout, rows=ROWS), arrivals)
    for epoch, task in enumerate(ORDER):
        stripes = collections.Counter(feed.stripes(epoch))
        if latecomer == "sequential" or epoch == 0:
            assert set(stripes) == {task}
            continue
        others = sum(stripes[before] for before in ORDER[:epoch])
        assert set(stripes) == set(ORDER[: epoch + 1])
        assert others == round(stripes[task] * 0.4 / 0.6)
        counts = [stripes[before] for before in ORDER[:epoch]]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("latecomer", ["repair", "replay"])
def test_the_stream_is_a_function_of_the_step(synthetic, latecomer):
    """A batch has labels of the task that its step trains, and of no other task."""
    feed = feed_of(synthetic(layout="rainbow", rows=ROWS), Arrivals(ORDER, latecomer, phase_epochs=1))
    whole = list(feed.stream())
    epochs = 4 if latecomer == "repair" else 3
    stripes = list(itertools.chain.from_iterable(map(feed.stripes, range(epochs))))
    assert len(whole) == len(stripes)
    for stripe, (_, _, weights) in zip(stripes, whole, strict=True):
        assert {task for task, rows in weights.items() if rows.numpy().any()} == {stripe}
    for start in (1, len(whole) // 2, len(whole) - 1):
        inputs, labels, _ = next(feed.stream(start))
        np.testing.assert_array_equal(inputs["sequence"], whole[start][0]["sequence"])
        np.testing.assert_array_equal(labels["app"], whole[start][1]["app"])


def test_a_first_phase_sees_every_row_once_an_epoch(synthetic):
    path = synthetic(layout="rainbow", rows=ROWS)
    feed = feed_of(path, Arrivals(ORDER, phase_epochs=1))
    rows = collections.Counter()
    for task, (_, _, weights) in zip(itertools.chain(*map(feed.stripes, range(3))), feed.stream(), strict=True):
        rows[task] += int(weights[task].numpy().sum())
    counts = Dataset.open(path).card.splits["train"].classes
    assert rows == {task: sum(counts[task].values()) for task in ORDER}


@pytest.mark.parametrize(("steps", "share"), [(10, 0.2), (7, 0.5), (1, 0.01), (3, 0.75)])
def test_replays_are_spread_evenly(steps, share):
    spread = replays(steps, share)
    assert spread.count(False) == steps
    assert spread.count(True) == round(steps * share / (1 - share))
    runs = [len(list(group)) for old, group in itertools.groupby(spread) if not old]
    assert max(runs) - min(runs) <= max(2, max(runs) // 2 + 1)


def test_findings_follow_from_the_matrix():
    arrivals = Arrivals(("a", "b", "c"), "repair", phase_epochs=2, repair_epochs=2)
    aucs = [(0.8, 0.5, 0.5), (0.9, 0.5, 0.4), (0.7, 0.8, 0.5), (0.95, 0.9, 0.6), (0.6, 0.9, 0.8), (0.5, 0.85, 0.9)]
    aucs += [(0.88, 0.7, 0.8), (0.893, 0.7, 0.8)]
    history = [{"validation_auc": dict(zip("abc", row, strict=True))} for row in aucs]
    found = findings(arrivals, history)
    assert [tuple(row["auc"].values()) for row in found["phases"]] == [aucs[1], aucs[3], aucs[5], aucs[7]]
    assert found["forgetting"] == pytest.approx({"a": 0.95 - 0.5, "b": 0.9 - 0.85, "c": 0.0})
    assert found["epochs_to_repair"] == {"a": 2}
    history[-1]["validation_auc"]["a"] = 0.5
    assert findings(arrivals, history)["epochs_to_repair"] == {"a": None}
    history[5]["validation_auc"]["b"] = None
    assert findings(arrivals, history)["forgetting"]["b"] is None
    json.dumps(found, allow_nan=False)


def test_incremental_training_needs_two_tasks():
    with pytest.raises(FlowloomError, match="must name two tasks or more, got a"):
        Arrivals(("a",))


# the model for latecomers in isolation


def isolated(**changes):
    keras.utils.set_random_seed(2)
    tasks = {"b": 2, "a": 3, "c": 2}
    brought = {"experts": 3, "generations": [1, 1, 1], "sees": {"b": [0], "a": [0, 1], "c": [0, 1, 2]}}
    return LMMoE(**{"k": 4, "channels": 3, "tasks": tasks, "units": 3, **brought, **changes})


def inputs_of(rows=5):
    generator = np.random.default_rng(0)
    return {
        "sequence": generator.normal(size=(rows, 4, 3)).astype(np.float32),
        "length": generator.integers(1, 5, rows).astype(np.int32),
    }


@pytest.mark.parametrize("gate_input", ["flatten", "mean", "first_packet"])
def test_outputs_do_not_depend_on_later_tasks(gate_input):
    model, inputs = isolated(gate_input=gate_input), inputs_of()
    order = list(model.tasks)
    for n, task in enumerate(order):
        before = {name: output.numpy() for name, output in model(inputs).items()}
        for variable in model.task_variables(task):
            variable.assign(variable + 1)
        after = model(inputs)
        for earlier in order[:n]:
            np.testing.assert_array_equal(before[earlier], after[earlier].numpy())
        assert not np.array_equal(before[task], after[task].numpy())


def test_every_variable_belongs_to_one_task():
    model = isolated()
    own = [id(variable) for task in model.tasks for variable in model.task_variables(task)]
    assert sorted(own) == sorted(id(variable) for variable in model.trainable_variables)
    assert not model.shared_variables
    gates = model.gates(inputs_of())
    for task, seen in (("b", 1), ("a", 2), ("c", 3)):
        weights = gates[task].numpy()
        assert weights.shape == (5, 3)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
        assert not weights[:, seen:].any()


def test_the_model_survives_saving(tmp_path):
    model, inputs = isolated(), inputs_of()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert list(loaded.tasks) == ["b", "a", "c"]
    assert loaded.macs == model.macs
    for task, output in model(inputs).items():
        np.testing.assert_array_equal(loaded(inputs)[task].numpy(), output.numpy())


# whole trainings


def cut(epoch):
    def at(progress):
        if epoch_and_step(progress) == (epoch, 2):
            raise PowerCutError

    return at


@pytest.mark.parametrize(
    ("layout", "latecomer", "arrivals"),
    [
        ("aurora", "replay", ["bulk", "attack"]),
        pytest.param("rainbow", "repair", ["bulk", "app", "attack"], marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_ends_with_the_same_numbers(synthetic, tmp_path, layout, latecomer, arrivals):
    words = (*SMALL, f"latecomer={latecomer}", "phase_epochs=1", f"arrivals={arrivals}")
    path = synthetic(layout=layout, rows=ROWS)
    whole = train(TrainOptions(path, tmp_path / "whole", "multitask-cnn", words))
    with pytest.raises(PowerCutError):
        train(TrainOptions(path, tmp_path / "cut", "multitask-cnn", words), cut(len(arrivals)))
    train(TrainOptions(path, tmp_path / "cut", "multitask-cnn", words))
    assert Run.open(tmp_path / "cut").history == Run.open(whole.run).history
    assert whole.epochs == whole.best_epoch == len(arrivals) + (latecomer == "repair")
    found = json.loads((whole.run / "latecomers.json").read_text())
    assert [row["task"] for row in found["phases"]][: len(arrivals)] == arrivals
    assert found["phases"][-1]["auc"] == whole.validation_auc
    assert (tmp_path / "cut" / "latecomers.json").read_bytes() == (whole.run / "latecomers.json").read_bytes()


def training_of(path, *words):
    recipe, dataset = Recipe.named("multitask-cnn", (*SMALL, "phase_epochs=1", *words)), Dataset.open(path)
    return Training(
        recipe, dataset, FeatureSpec.of(dataset.card, recipe.feed.k, recipe.feed.channels, recipe.feed.scaling)
    )


def test_each_phase_begins_with_a_fresh_optimizer(synthetic):
    training = training_of(synthetic(layout="rainbow", rows=ROWS))
    for record in training.epochs([]):
        assert int(training.optimizer.iterations.numpy()) == record["steps"]
    assert float(training.optimizer.learning_rate.numpy()) == pytest.approx(0.01)


@pytest.mark.slow
def test_isolated_tasks_forget_nothing(synthetic, tmp_path, monkeypatch):
    """The measurements of a task stay the same to the bit after the end of its own phase."""
    words = (*LSTMS, "latecomer=isolate")
    run = Run.open(train(TrainOptions(synthetic(layout="rainbow", rows=ROWS), tmp_path / "run", "multa", words)).run)
    losses = [record["validation_loss"] for record in run.history]
    for n, task in enumerate(ORDER):
        for figure in ("validation_auc", "validation_loss"):
            assert len({record[figure][task] for record in run.history[2 * n + 1 :]}) == 1
        assert losses[2 * n + 1][task] < losses[0][task]
    assert json.loads((run.root / "latecomers.json").read_text())["forgetting"] == dict.fromkeys(ORDER, 0.0)
    assert run.load_model().generations == (1, *[1] * (len(ORDER) - 1))
    monkeypatch.setattr(cost, "measure", lambda runs: [COST])
    evaluate(EvaluateOptions(run.root, baselines=("majority",)))
    page = (run.root / "report.html").read_text()
    assert "Latecomer tasks" in page
    assert f"{run.history[-1]['validation_auc']['bulk']:.4f}" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["arrivals=[app]"], "latecomer need schedule.paradigm=incremental, got auto"),
        (["latecomer=replay"], "need schedule.paradigm=incremental"),
        (
            ["paradigm=incremental", "weighting=dwa"],
            "loss.weighting=dwa cannot be combined with schedule.paradigm=incremental",
        ),
        (["paradigm=incremental", "tasks=[a, b]", "arrivals=[a, c]"], r"must order .*feed.tasks \(a, b\), got a, c"),
        (["paradigm=incremental", "arrivals=[a, a]"], "arrivals must not repeat"),
        (["paradigm=incremental", "latecomer=isolate", "model=multitask_cnn"], "isolate adds experts"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message):
    with pytest.raises(FlowloomError, match=message):
        Recipe.named("multa", words)
