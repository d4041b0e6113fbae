"""Tuning on a dataset: every trial is trained once, and result and report lie beside the run that was found."""

import json

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.tuning import tune
from flowloom.trainers.tuning.search import Trial
from flowloom.trainers.tuning.tune import StoredTrials, TuneOptions, frontier, tune_sizes

TASKS = ("app", "attack", "bulk")
NEEDED = {"app": 12, "attack": 4, "bulk": 8}
SMALL = ("k=4", "tower=[4]", "batch_size=64", "epochs=1")


class PowerCutError(Exception):
    """Ends a tuning between two trainings."""


class FakeTraining:
    """Has an AUC that depends on its size alone, without training."""

    seen: list = []  # noqa: RUF012

    def __init__(self, recipe, dataset, features):
        self.recipe, self.tasks, self.model = recipe, [task.name for task in dataset.tasks], self
        self.macs = 1000 * recipe.model.units * recipe.model.experts

    def epochs(self, history):
        self.seen.append((self.recipe.model.experts, self.recipe.model.units, tuple(self.tasks), self.recipe.seed))
        auc = {task: 0.95 if self.recipe.model.units >= NEEDED[task] else 0.7 for task in self.tasks}
        if len(self.tasks) == 3 and self.recipe.model.experts < 2:
            auc["bulk"] = 0.9
        history.append({"epoch": 1, "validation_auc": auc})
        yield history[-1]

    def kept_epoch(self, history):
        return 1

    def count_params(self):
        return 100 * self.recipe.model.units * self.recipe.model.experts


@pytest.fixture
def fake(monkeypatch):
    """Trainings without training; returns what was trained, in order."""
    trained = []
    FakeTraining.seen = []
    monkeypatch.setattr(tune, "Training", FakeTraining)
    monkeypatch.setattr(tune, "train", trained.append)
    return trained


def options_of(dataset, run, **changes):
    fields = {"target_auc": 0.92, "max_drop": 0.01, "overrides": SMALL, "largest_units": 16, **changes}
    return TuneOptions(dataset, run, **fields)


def test_a_size_is_found_and_trained(synthetic, tmp_path, fake):
    found = tune_sizes(options_of(synthetic(), tmp_path / "run"))
    assert (found["experts"], found["units"], found["met"]) == (2, 12, True)
    assert found["parameters"] == 2400
    assert {task: single["units"] for task, single in found["singles"].items()} == {"app": 12, "attack": 12, "bulk": 12}
    assert len(FakeTraining.seen) == len(set(FakeTraining.seen)) == found["trainings"]
    assert found["saved"] == 3 * (16 // 4 + 1) - found["trainings"]
    (final,) = fake
    assert final.run == tmp_path / "run"
    assert final.overrides == (*SMALL, "experts=2", "units=12")
    tuning = tmp_path / "run" / "tuning"
    assert json.loads((tuning / "tuning.json").read_text()) == json.loads(json.dumps(found))
    page = (tuning / "report.html").read_text()
    assert "2 experts of 12 units serve 3 tasks with 2,400 parameters" in page
    assert page.count("<svg") == 2
    assert "{{" not in page


@pytest.mark.parametrize("recipe", ["multa-bins", "multa-pooled"])
def test_mixtures_of_binned_packets_are_sized(synthetic, tmp_path, fake, recipe):
    found = tune_sizes(options_of(synthetic(), tmp_path / "run", recipe=recipe, overrides=("k=8", "epochs=1")))
    assert (found["experts"], found["units"], found["met"]) == (2, 12, True)
    assert fake[0].overrides == ("k=8", "epochs=1", "experts=2", "units=12")
    basis = json.loads((tmp_path / "run" / "tuning" / "basis.json").read_text())
    assert basis["recipe"]["feed"]["scaling"] == "none"


def test_an_interrupted_tuning_trains_nothing_twice(synthetic, tmp_path, fake):
    started = []

    def cut(progress):
        started.append(progress.done)
        if len(started) == 4:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        tune_sizes(options_of(synthetic(), tmp_path / "run"), cut)
    assert started == [0, 1, 2, 3]
    found = tune_sizes(options_of(synthetic(), tmp_path / "run"))
    assert len(FakeTraining.seen) == len(set(FakeTraining.seen)) == found["trainings"]
    assert found == tune_sizes(options_of(synthetic(), tmp_path / "other"))
    easier = tune_sizes(options_of(synthetic(), tmp_path / "run", target_auc=0.6))
    assert easier["units"] == 4


def test_an_unmet_target_is_reported(synthetic, tmp_path, fake):
    found = tune_sizes(options_of(synthetic(), tmp_path / "run", target_auc=0.99, repeats=2))
    assert not found["met"]
    assert found["seeds"] == [7, 8]
    assert (
        "No tried size brings app, attack, bulk to a ROC AUC of 0.99 alone"
        in (tmp_path / "run" / "tuning" / "report.html").read_text()
    )


def test_trials_of_another_recipe_or_dataset_are_not_reused(synthetic, tmp_path, fake):
    tune_sizes(options_of(synthetic(), tmp_path / "run"))
    with pytest.raises(FlowloomError, match="must hold trials of the same recipe and dataset, got others"):
        tune_sizes(options_of(synthetic(), tmp_path / "run", overrides=(*SMALL, "k=5")))
    with pytest.raises(FlowloomError, match="must hold trials of the same recipe and dataset, got others"):
        tune_sizes(options_of(synthetic(seed=2), tmp_path / "run"))


def test_invalid_tunings_are_refused(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="must not set units or experts, which tuning finds, got 'units=8'"):
        options_of(tmp_path, tmp_path, overrides=("units=8",))
    with pytest.raises(FlowloomError, match="repeats must be >= 1"):
        options_of(tmp_path, tmp_path, repeats=0)
    with pytest.raises(FlowloomError, match=r"needs model.kind=lmmoe .* got model.kind=multitask_cnn"):
        tune_sizes(options_of(synthetic(), tmp_path / "run", recipe="multitask-cnn", overrides=()))
    trials = StoredTrials(
        tmp_path / "t", Recipe.named("multa", SMALL), Dataset.open(synthetic(rows=(60, 0, 10))), print
    )
    with pytest.raises(FlowloomError, match="must hold flows of two classes of each task, got fewer of attack"):
        trials(Trial(1, 4, ("attack",), 7))


def test_models_on_the_frontier_beat_all_smaller_ones():
    models = [
        {"parameters": parameters, "worst_auc": auc}
        for parameters, auc in [(30, 0.9), (10, 0.7), (20, 0.65), (20, 0.8)]
    ]
    marked = frontier(models)
    assert [model["parameters"] for model in marked if model["frontier"]] == [10, 20, 30]
    assert [model["worst_auc"] for model in marked if not model["frontier"]] == [0.65]


@pytest.mark.slow
def test_a_tuning_with_real_trainings_leaves_a_run(synthetic, tmp_path):
    """The AUC of a trial is that of the run trained with the same settings."""
    path = synthetic(layout="rainbow", rows=(240, 80, 20))
    overrides = ("k=6", "tower=[4]", "batch_size=32", "epochs=2", "learning_rate=0.01", "tasks=[app, attack]")
    found = tune_sizes(options_of(path, tmp_path / "run", target_auc=0.6, max_drop=0.1, overrides=overrides))
    run = Run.open(tmp_path / "run")
    assert (run.recipe.model.experts, run.recipe.model.units) == (found["experts"], found["units"])
    assert run.summary["validation_auc"] == found["auc"]
    with pytest.raises(FlowloomError, match="holds a finished run; choose another directory"):
        tune_sizes(options_of(path, tmp_path / "run", overrides=overrides))
