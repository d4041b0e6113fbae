"""Grids of experiments: none runs twice, an interruption costs one, and changed ones are computed again."""

import json
import os

import pytest
from process_environment import units_of_process

from flowloom.pipelines.reproduce.engine.experiments import Experiment, run_experiments
from flowloom.schemas.errors import FlowloomError

EXPERIMENTS = [Experiment(f"cell-{number}", {"number": number}, "all" if number % 2 else "") for number in range(4)]


def square(settings):
    return {"square": settings["number"] ** 2}


def squares(results):
    return [result["square"] for result in results.by_name.values()]


def test_stored_results_are_not_computed_again(tmp_path):
    seen = []

    def compute(settings):
        seen.append(settings["number"])
        if len(seen) == 3:
            raise InterruptedError
        return square(settings)

    with pytest.raises(InterruptedError):
        run_experiments(EXPERIMENTS, compute, tmp_path)
    results = run_experiments(EXPERIMENTS, compute, tmp_path)
    assert (seen, results.computed) == ([0, 1, 2, 2, 3], 2)
    assert squares(results) == [0, 1, 4, 9]
    assert run_experiments(EXPERIMENTS, compute, tmp_path).computed == 0


def test_a_result_of_other_settings_or_a_damaged_one_is_computed_again(tmp_path):
    run_experiments(EXPERIMENTS, square, tmp_path)
    (tmp_path / "cell-2.json").write_text("{")
    changed = [Experiment("cell-0", {"number": 7}), *EXPERIMENTS[1:]]
    results = run_experiments(changed, square, tmp_path)
    assert (squares(results), results.computed) == ([49, 1, 4, 9], 2)
    assert json.loads((tmp_path / "cell-0.json").read_text())["settings"] == {"number": 7}


@pytest.mark.slow
def test_processes_give_the_same_in_the_same_order(tmp_path):
    seen = []
    here = run_experiments(EXPERIMENTS, dict, tmp_path / "a")
    there = run_experiments(EXPERIMENTS, dict, tmp_path / "b", workers=2, progress=seen.append)
    assert list(here.by_name.items()) == list(there.by_name.items())
    assert [(each.done, each.total) for each in seen] == [(number, 4) for number in range(1, 5)]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [f"cell-{number}.json" for number in range(4)]


@pytest.mark.slow
def test_processes_have_the_given_environment_and_this_one_keeps_its_own(tmp_path):
    results = run_experiments(
        EXPERIMENTS, units_of_process, tmp_path, workers=1, environment={"FLOWLOOM_TEST_UNITS": "AVX2"}
    )
    assert {result["value"] for result in results.by_name.values()} == {"AVX2"}
    assert "FLOWLOOM_TEST_UNITS" not in os.environ


def test_names_must_differ_and_be_file_names(tmp_path):
    with pytest.raises(FlowloomError, match="'cell-0' twice"):
        run_experiments([EXPERIMENTS[0], EXPERIMENTS[0]], square, tmp_path)
    with pytest.raises(ValueError, match="must be a file name"):
        Experiment("a/b", {})
