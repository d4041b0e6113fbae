"""Experiments of MULTA: functions of their settings, and the measurements after them."""

import dataclasses

import numpy as np
import pytest

from flowloom.pipelines.reproduce.multa import multa_experiments
from flowloom.pipelines.reproduce.multa.costs import hand_shapes, shared_shapes, single_shapes, streaming_figures
from flowloom.pipelines.reproduce.multa.multa_experiments import (
    MULTAExperiments,
    MULTASetting,
    examples,
    tuned_overrides,
)
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.deploy.export import ExportOptions, export
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.training.train import TrainOptions, train

TASKS = ("attack", "bulk")
ROWS = (300, 60, 80)


@pytest.fixture(scope="module")
def stripes(synthetic):
    return str(synthetic(layout="rainbow", rows=ROWS))


@pytest.fixture
def experiments(stripes, monkeypatch):
    """Experiments on flows of 8 packets in stripes; two stripes are binary."""
    monkeypatch.setattr(multa_experiments, "K", 8)
    for cached in (multa_experiments.examples, multa_experiments._trials):
        cached.cache_clear()
    yield MULTAExperiments({"made": stripes})
    for cached in (multa_experiments.examples, multa_experiments._trials):
        cached.cache_clear()


def settings_of(**others):
    fields = {"dataset": "made", "content": "hash", "method": "network", "tasks": TASKS, "seed": 7, "units": 4}
    return dataclasses.asdict(MULTASetting(**{**fields, **others}))


def test_an_experiment_is_a_function_of_its_settings(experiments):
    turns = settings_of(paradigm="rainbow", epochs=3)
    first = experiments(turns)
    other = experiments(settings_of(paradigm="rainbow", epochs=3, seed=8))
    assert experiments(turns) == first != other
    assert len(first["history"]) == 3
    assert set(first["test"]) == set(first["validation"]) == set(TASKS)
    best = max(first["history"], key=lambda record: sum(record["validation"].values()))
    assert sum(first["validation"].values()) == pytest.approx(sum(best["validation"].values()), abs=1e-4)
    assert first["validation"]["bulk"] > 0.8  # sizes reveal it at once


def test_stripes_alternate_until_each_has_passed_its_rows(experiments):
    setting = MULTASetting(**settings_of(paradigm="rainbow"))
    train = examples(experiments.datasets["made"])[0].only(TASKS, labelled=True)
    order = np.random.default_rng(1).permutation(len(train.length))
    batches = multa_experiments._trials(setting, experiments.datasets["made"])._turns(train, order)
    stripes = [stripe for stripe, _ in batches]
    assert stripes[: 2 * min(map(stripes.count, TASKS))] == list(TASKS) * min(map(stripes.count, TASKS))
    for task in TASKS:
        rows = np.concatenate([order[places] for stripe, places in batches if stripe == task])
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(train.labels[task] >= 0))


def test_updates_do_not_depend_on_the_number_of_rows(experiments):
    (train, *_) = examples(experiments.datasets["made"])
    assert sorted(train.labels) == sorted(task.name for task in Dataset.open(experiments.datasets["made"]).tasks)
    for tasks in (TASKS, ("bulk",)):
        steps = -(-len(train.only(tasks, labelled=True).length) // Recipe.named("multa").feed.batch_size)
        found = experiments(settings_of(tasks=tasks, updates=5))
        assert len(found["history"]) == -(-5 // steps)


def test_a_forest_is_a_reference(experiments):
    found = experiments(settings_of(method="forest"))
    assert set(found["test"]) == set(TASKS)
    assert min(found["test"].values()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("latecomer", "phases"), [("repair", 3), ("isolate", 2)])
def test_latecomers_are_watched_on_test_rows(experiments, latecomer, phases):
    found = experiments(settings_of(method="latecomers", latecomer=latecomer, epochs=1, repair_epochs=1))
    assert len(found["phases"]) == len(found["history"]) == phases
    assert found["unchanged"]["attack"] == (latecomer == "isolate")
    assert 0 <= found["history"][-1]["test"]["attack"] <= 1


def test_larger_splits_are_sampled(experiments, monkeypatch):
    whole = examples(experiments.datasets["made"])[0]
    examples.cache_clear()
    monkeypatch.setattr(multa_experiments, "MOST_ROWS", len(whole.length) // 2)
    some = [examples(experiments.datasets["made"])[0]]
    examples.cache_clear()
    some.append(examples(experiments.datasets["made"])[0])
    assert len(some[0].length) == pytest.approx(len(whole.length) / 2, abs=3)
    np.testing.assert_array_equal(some[0].sequence, some[1].sequence)


@pytest.mark.slow
def test_the_tuned_run_trains_like_the_experiment_and_streams_equal_scores(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(multa_experiments, "K", 8)
    examples.cache_clear()
    overrides = (*tuned_overrides(stripes, 2, 4, 3, 7), "tasks=[attack, bulk]")
    run = train(TrainOptions(stripes, tmp_path / "run", "multa", overrides)).run
    exported = tmp_path / "exported"
    export(ExportOptions(run, exported, "litert"))
    test = examples(stripes)[2]
    found = streaming_figures(run, exported, test.sequence, test.length)
    assert found["largest_error"] < 1e-5
    assert min(found["one_by_one"], found["batched"]) > 0
    examples.cache_clear()
    with pytest.raises(FlowloomError, match="holds a finished"):
        train(TrainOptions(stripes, run, "multa", overrides))


def test_shapes_are_of_the_networks_that_experiments_train():
    (tuned,), (hand,) = shared_shapes(3, 2, 6), hand_shapes(3, 16)
    assert [len(shape["tasks"]) for shape in single_shapes((2, 4, 6))] == [1, 1, 1]
    assert (tuned["experts"], tuned["units"], tuned["tower"]) == (2, 6, [4])
    assert (hand["experts"], hand["units"], hand["gate_input"]) == (2, 16, "flatten")
