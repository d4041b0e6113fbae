"""Whole trainings of small models: reproducible, resumable, and finished only when complete."""

import json

import numpy as np
import pytest
from training_progress import epoch_and_step

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.folder_lock import locked_folder
from flowloom.schemas.progress import Progress, ignore_progress
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.learning_rate import cosine_rate
from flowloom.trainers.training.train import TrainOptions, train, train_from

SMALL = ("k=8", "units=8", "tower=[4]", "learning_rate=0.01", "batch_size=64", "epochs=3")
RECIPES = {"aurora": "multa", "rainbow": "lstm"}


class PowerCutError(Exception):
    """Interrupts a training between two steps."""


def weights(run):
    return Run.open(run).load_model().get_weights()


@pytest.fixture(scope="module")
def trained(synthetic, tmp_path_factory):
    """Runs by layout, each trained once without interruption."""
    runs = {}
    for layout, recipe in RECIPES.items():
        root = tmp_path_factory.mktemp("runs") / layout
        runs[layout] = train(TrainOptions(synthetic(layout=layout), root, recipe, SMALL))
    return runs


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_a_training_learns(trained, layout):
    summary = trained[layout]
    assert summary.paradigm == layout
    history = Run.open(summary.run).history
    assert len(history) == summary.epochs == 3
    for task in ("app", "attack", "bulk"):
        assert history[-1]["loss"][task] < history[0]["loss"][task]
    assert summary.validation_auc["attack"] > 0.9


@pytest.mark.parametrize(("layout", "checkpoint_s", "first"), [("aurora", 300.0, (2, 1)), ("rainbow", 0.0, (2, 4))])
def test_an_interrupted_training_ends_with_the_same_numbers(synthetic, trained, layout, checkpoint_s, first, tmp_path):
    """It resumes from the checkpoint after the previous epoch, or from that inside the epoch."""
    options = TrainOptions(synthetic(layout=layout), tmp_path / "run", RECIPES[layout], SMALL, checkpoint_s)

    def cut(progress):
        if epoch_and_step(progress) == (2, 3):
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(options, cut)
    with pytest.raises(FlowloomError, match="is not finished; repeat the `flowloom train`"):
        Run.open(options.run)
    seen: list[Progress] = []
    train(options, seen.append)
    assert epoch_and_step(seen[0]) == first
    steps = [progress for progress in seen if not progress.stays]
    assert all(epoch_and_step(progress)[1] == progress.done <= progress.total for progress in steps)
    assert [epoch_and_step(progress) for progress in steps] == sorted(map(epoch_and_step, steps))
    last = Run.open(options.run).history[-1]
    scores = ", ".join(f"{task} {auc:.3f}" for task, auc in last["validation_auc"].items())
    text = f"epoch {last['epoch']} of {last['epoch']}: validation AUC: {scores}"
    assert (seen[-1].text, seen[-1].done, seen[-1].total) == (text, last["steps"], last["steps"])
    assert (seen[-1].stays, seen[-1].event) == (True, "epoch")
    assert Run.open(options.run).history == Run.open(trained[layout].run).history
    for one, other in zip(weights(options.run), weights(trained[layout].run), strict=True):
        np.testing.assert_array_equal(one, other)


def interrupted_as_0_2(options):
    """Leaves a run that is cut in epoch 2, with a checkpoint of 0.2, which has no counts of updates."""

    def cut(progress):
        if epoch_and_step(progress) == (2, 3):
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(options, cut)
    (path,) = (options.run / "checkpoints").iterdir()
    with np.load(path) as found:
        state = {name: found[name] for name in found.files}
    counted = [name for name in state if name.startswith("optimizer") and state[name].dtype == np.int64][1:]
    assert len(counted) == sum(name.startswith("optimizer") for name in state) // 3
    np.savez(path, **{name: values for name, values in state.items() if name not in counted})


def test_an_unfinished_run_of_0_2_ends_with_the_same_numbers(synthetic, trained, tmp_path):
    """Each step of Aurora updates every variable, so the count of steps is that of updates."""
    options = TrainOptions(synthetic(), tmp_path / "run", RECIPES["aurora"], SMALL)
    interrupted_as_0_2(options)
    train(options)
    for one, other in zip(weights(options.run), weights(trained["aurora"].run), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unfinished_run_of_0_2_with_another_clipping_is_refused(synthetic, tmp_path):
    options = TrainOptions(synthetic(), tmp_path / "run", RECIPES["aurora"], (*SMALL, "clip_norm=1"))
    interrupted_as_0_2(options)
    with pytest.raises(FlowloomError, match=r"run holds an unfinished run of version 0\.2, whose clip_norm limited"):
        train(options)


@pytest.mark.slow
def test_xla_trains_to_nearly_the_same_weights(synthetic, trained, tmp_path):
    train(TrainOptions(synthetic(layout="aurora"), tmp_path / "run", "multa", (*SMALL, "xla=true")))
    for one, other in zip(weights(tmp_path / "run"), weights(trained["aurora"].run), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


def test_seconds_are_not_negative(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="checkpoint_s must be >= 0, got -1"):
        TrainOptions(synthetic(), tmp_path, checkpoint_s=-1)


def test_another_seed_gives_other_numbers(synthetic, trained, tmp_path):
    settings = (*SMALL, "seed=8", "epochs=1")
    other = train(TrainOptions(synthetic(layout="rainbow"), tmp_path / "run", "lstm", settings))
    assert Run.open(other.run).history[0]["loss"] != Run.open(trained["rainbow"].run).history[0]["loss"]


def test_a_finished_run_is_not_overwritten(synthetic, trained):
    with pytest.raises(FlowloomError, match="holds a finished run; evaluate it, or choose another directory"):
        train(TrainOptions(synthetic(), trained["aurora"].run, "multa", SMALL))


def test_an_unfinished_run_of_another_training_is_not_overwritten(synthetic, tmp_path):
    def cut(progress):
        raise PowerCutError

    with pytest.raises(PowerCutError):
        train(TrainOptions(synthetic(), tmp_path / "run", "lstm", SMALL), cut)
    with pytest.raises(FlowloomError, match="an unfinished run with another recipe"):
        train(TrainOptions(synthetic(), tmp_path / "run", "lstm", (*SMALL, "seed=8")))
    with pytest.raises(FlowloomError, match="an unfinished run with another features"):
        train(TrainOptions(synthetic(seed=2), tmp_path / "run", "lstm", SMALL))


def test_two_trainings_do_not_share_a_run(synthetic, tmp_path):
    run = tmp_path / "run"
    with locked_folder(run), pytest.raises(FlowloomError, match=r"run is in use by process \d+ on .*; wait for it"):
        train(TrainOptions(synthetic(), run))
    assert not run.exists()


def test_a_directory_with_other_files_is_not_overwritten(synthetic, tmp_path):
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(FlowloomError, match="must be empty or hold a run"):
        train(TrainOptions(synthetic(), tmp_path, "multa", SMALL))
    with pytest.raises(FlowloomError, match="must not be a file"):
        train(TrainOptions(synthetic(), tmp_path / "letter.txt", "multa", SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_training_stops_early_and_keeps_the_best(synthetic, tmp_path):
    settings = (*SMALL, "epochs=40", "patience=2", "learning_rate=0.1", "monitor=loss")
    summary = train(TrainOptions(synthetic(rows=(200, 60, 30)), tmp_path / "run", "lstm", settings))
    history = Run.open(summary.run).history
    assert summary.epochs == summary.best_epoch + 2 < 40
    assert history[summary.best_epoch - 1]["score"] == max(record["score"] for record in history)
    assert all(record["score"] == -record["validation_total_loss"] for record in history)
    assert sorted(path.name for path in (summary.run / "checkpoints").iterdir()) == [
        f"epoch-{summary.best_epoch:04d}.npz",
        f"epoch-{summary.epochs:04d}.npz",
    ]
    with np.load(summary.run / "checkpoints" / f"epoch-{summary.best_epoch:04d}.npz") as best:
        for n, kept in enumerate(Run.open(summary.run).load_model().variables):
            if kept.trainable:  # the others are seeds of dropout
                np.testing.assert_array_equal(kept.numpy(), best[f"model_{n}"])


def test_the_learning_rate_follows_the_weighted_validation_loss(synthetic, tmp_path, monkeypatch):
    """At a rate of 0 from the second epoch on, two epochs equal one."""
    asked = []

    def rate(initial, losses, factor, patience):
        asked.append((initial, losses, factor, patience))
        return 0.0 if losses else initial

    monkeypatch.setattr("flowloom.trainers.training.loop.plateau_rate", rate)
    settings = (*SMALL, "plateau_factor=0.5", "plateau_patience=3", "loss_weights={app: 2}", "weight_decay=0.1")
    for epochs in (1, 2):
        words = (*settings, f"epochs={epochs}")
        train(TrainOptions(synthetic(rows=(100, 40, 20)), tmp_path / str(epochs), "lstm", words))
    for one, two in zip(weights(tmp_path / "1"), weights(tmp_path / "2"), strict=True):
        np.testing.assert_array_equal(one, two)
    record = Run.open(tmp_path / "2").history[0]
    first = record["validation_loss"]
    assert record["validation_total_loss"] == pytest.approx(sum(first.values()) + first["app"])
    assert asked[-1] == (0.01, [record["validation_total_loss"]], 0.5, 3)


UNITS = (
    "k=8", "width=8", "readout_width=8", "embedding=4", "first_packets=2", "layers=1", "batch_size=64", "epochs=3",
    "learning_rate=0.01",
)  # fmt: skip


def test_a_cosine_falls_with_each_step_to_the_last_weights(synthetic, tmp_path, monkeypatch):
    asked = []

    def rate(highest, update, updates):
        asked.append((highest, update, updates))
        return cosine_rate(highest, update, updates)

    monkeypatch.setattr("flowloom.trainers.training.loop.cosine_rate", rate)
    whole = train(TrainOptions(synthetic(), tmp_path / "whole", "flow-net", UNITS))
    assert whole.best_epoch == whole.epochs == 3
    assert asked == [(0.01, update, whole.steps) for update in range(1, whole.steps + 1)]

    options = TrainOptions(synthetic(), tmp_path / "cut", "flow-net", UNITS, 0.0)

    def cut(progress):
        if epoch_and_step(progress) == (2, 2):
            raise PowerCutError

    asked.clear()
    with pytest.raises(PowerCutError):
        train(options, cut)
    train(options)
    assert sorted(set(asked)) == [(0.01, update, whole.steps) for update in range(1, whole.steps + 1)]
    for one, two in zip(weights(tmp_path / "whole"), weights(tmp_path / "cut"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_each_phase_of_latecomers_has_its_cosine(synthetic, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "flowloom.trainers.training.loop.cosine_rate", lambda *given: asked.append(given) or cosine_rate(*given)
    )
    settings = (*UNITS, "paradigm=incremental", "phase_epochs=1", "tasks=[app, attack]", "latecomer=repair")
    summary = train(TrainOptions(synthetic(layout="rainbow"), tmp_path / "run", "flow-net", settings))
    steps = [record["steps"] for record in Run.open(summary.run).history]
    assert asked == [(0.01, update, each) for each in steps for update in range(1, each + 1)]


def test_without_validation_rows_the_last_epoch_is_kept(synthetic, tmp_path):
    dataset, recipe = Dataset.open(synthetic(rows=(100, 0, 20))), Recipe.named("lstm", (*SMALL, "epochs=2"))
    summary = train_from(recipe, dataset, tmp_path / "run", 300, ignore_progress)
    assert summary.best_epoch == 2
    assert summary.validation_auc == {"app": None, "attack": None, "bulk": None}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((100, 0, 20), "the validation split must have rows to train a model, got none; build the dataset with more"),
        ((1, 20, 20), "task 'app' must have rows of at least 2 classes in the train split, got only .*--set tasks="),
        ((100, 1, 20), "the validation split must have rows of at least 2 classes of a task, by which the best epoch"),
    ],
)
def test_a_dataset_without_a_usable_split_or_task_stops_at_once(synthetic, tmp_path, rows, words):
    with pytest.raises(FlowloomError, match=words):
        train(TrainOptions(synthetic(rows=rows), tmp_path / "run", "lstm", (*SMALL, "epochs=2")))
    assert not (tmp_path / "run").exists()


def test_a_training_reports_the_faults_of_its_dataset(synthetic, tmp_path):
    seen = []
    train(TrainOptions(synthetic(rows=(100, 20, 1)), tmp_path / "run", "lstm", (*SMALL, "epochs=1")), seen.append)
    warnings = [each.text for each in seen if each.event == "warning"]
    assert len(warnings) == 3, "one for each task of which a row has one class only"
    assert all("the test split has no row of" in text for text in warnings)


def test_paradigms_may_be_forced_on_the_other_layout(synthetic, tmp_path):
    for layout, paradigm in (("aurora", "rainbow"), ("rainbow", "aurora")):
        settings = (*SMALL, f"paradigm={paradigm}", "epochs=1")
        summary = train(TrainOptions(synthetic(layout=layout), tmp_path / layout, "lstm", settings))
        assert summary.paradigm == paradigm


def test_loss_weights_must_name_tasks(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match=r"loss.weights must name tasks .*got 'atack'; did you mean 'attack'"):
        train(TrainOptions(synthetic(), tmp_path / "run", "multa", (*SMALL, "loss_weights={atack: 2}")))


def test_balance_chooses_the_train_rows(synthetic, tmp_path):
    balance = ("balance={task: app, how: totals, totals: {chat: 64, voip: 64, web: 0}}", "epochs=1")
    summary = train(TrainOptions(synthetic(), tmp_path / "run", "lstm", (*SMALL, *balance)))
    assert summary.steps == 2
    with pytest.raises(FlowloomError, match=r"feed.balance must name tasks .*got 'ap'; did you mean 'app'"):
        train(TrainOptions(synthetic(), tmp_path / "other", "lstm", ("balance={task: ap, how: undersample}",)))


def test_a_run_holds_recipe_data_and_summary(synthetic, trained):
    run = Run.open(trained["aurora"].run)
    assert run.features.k == run.recipe.feed.k == 8
    assert run.source.path == str(synthetic().resolve())
    assert [task.name for task in run.tasks] == ["app", "attack", "bulk"]
    facts = json.loads((run.root / "run.json").read_text())
    assert facts["paradigm"] == "aurora"
    assert set(facts["versions"]) >= {"flowloom", "tensorflow", "keras"}
    assert not [path for path in run.root.rglob("*") if path.name.startswith(".")]
