"""Final figures: other splits, one look at each configuration, and a log that tells of every look."""

import json
from pathlib import Path

import pytest

from flowloom.pipelines.reproduce import command
from flowloom.pipelines.reproduce.engine import run_grid as grids
from flowloom.pipelines.reproduce.engine.experiments import Experiment
from flowloom.pipelines.reproduce.engine.experiments import run_experiments as run_here
from flowloom.pipelines.reproduce.engine.final_log import FinalLog, configuration_hash
from flowloom.pipelines.reproduce.engine.options import DEVELOPMENT_SEED, FINAL_SEEDS, ReproduceOptions
from flowloom.pipelines.reproduce.engine.reproduction_page import Reproduction
from flowloom.schemas.errors import FlowloomError

GRID = [Experiment("a", {"units": 1}), Experiment("b", {"units": 2})]
CHANGED = [GRID[0], Experiment("b", {"units": 3})]


def options(out: Path, **others) -> ReproduceOptions:
    return ReproduceOptions("multa", out / "data", out, workers=1, **{"final": True, **others})


def test_final_splits_are_others_than_those_of_development(tmp_path):
    final, development = options(tmp_path), options(tmp_path, final=False)
    assert [repeat.seed for repeat in final.repeats(3)] == list(FINAL_SEEDS)
    assert [(repeat.seed, repeat.number) for repeat in development.repeats(2)] == [(7, 0), (7, 1)]
    assert not {repeat.training_seed for repeat in final.repeats(3)} & {
        repeat.training_seed for repeat in development.repeats(9)
    }
    assert len({repeat.name for repeat in (*final.repeats(3), *development.repeats(9))}) == 14
    assert (final.folder, development.folder) == (tmp_path / "final", tmp_path)
    assert final.command.endswith("--final")
    assert DEVELOPMENT_SEED not in FINAL_SEEDS


@pytest.mark.parametrize(
    ("others", "message"),
    [({"quick": True}, "whole grid, got --final with --quick"), ({"seed": 8}, "101, 102, .*, got --seed 8; remove it")],
)
def test_final_figures_have_one_form(tmp_path, others, message):
    with pytest.raises(FlowloomError, match=message):
        options(tmp_path, **others)


def test_the_hash_is_that_of_names_and_settings():
    assert configuration_hash("multa", GRID) == configuration_hash("multa", GRID[::-1])
    others = [
        configuration_hash("mtc", GRID),
        configuration_hash("multa", CHANGED),
        configuration_hash("multa", GRID[:1]),
    ]
    assert configuration_hash("multa", GRID) not in others


def test_an_interrupted_configuration_continues_and_a_shown_one_does_not(tmp_path):
    log = FinalLog(tmp_path)
    log.begin("multa", GRID, "command")
    log.begin("multa", GRID, "command")
    assert "No other final figures were shown" in log.standing("multa")
    log.shown("multa")
    with pytest.raises(
        FlowloomError, match=r"final\.jsonl: the final figures of configuration \w{16} of multa were shown"
    ):
        log.begin("multa", GRID, "command")
    log.begin("mtc", GRID, "command")
    log.begin("multa", CHANGED, "command")
    told = log.standing("multa")
    assert configuration_hash("multa", CHANGED) in told
    assert f"shown before ({configuration_hash('multa', GRID)} on 2" in told
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(line["event"], line["paper"]) for line in lines] == [
        ("begun", "multa"), ("begun", "multa"), ("shown", "multa"), ("begun", "mtc"), ("begun", "multa")
    ]  # fmt: skip
    assert (lines[0]["command"], lines[0]["experiments"]) == ("command", 2)


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "final.jsonl").write_text('{"event": "begun"\n')
    with pytest.raises(FlowloomError, match=r"final\.jsonl, line 1 must be a look at final figures"):
        FinalLog(tmp_path).begin("multa", GRID, "command")


def test_the_page_of_final_figures_is_written_once(tmp_path, monkeypatch):
    """By the mechanism that all papers share: a grid of repeats, and the command around it."""
    monkeypatch.setattr(
        grids, "run_experiments", lambda planned, compute, folder, *_: run_here(planned, compute, folder)
    )

    def paper(chosen, progress):
        planned = [Experiment(repeat.name, {"seed": repeat.seed}) for repeat in chosen.repeats(2)]
        results = grids.run_grid(planned, dict, chosen, progress).by_name
        return Reproduction("A paper", [], {"found": sorted(results)}, [], [])

    monkeypatch.setattr(command, "_REPRODUCTIONS", {"multa": paper})
    developed = command.reproduce(options(tmp_path, final=False))
    assert (developed["data"]["seeds"], developed["data"]["final"]) == ([DEVELOPMENT_SEED], False)
    assert "development run" in developed["data"]["lines"][-1]
    assert developed["data"]["machine"]["tensorflow"]
    assert not (tmp_path / "final.jsonl").exists()

    final = command.reproduce(options(tmp_path))
    assert final["data"]["seeds"] == list(FINAL_SEEDS)
    assert len(final["data"]["found"]) == len(FINAL_SEEDS)
    assert "These are final figures" in (tmp_path / "final" / "index.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == developed
    with pytest.raises(FlowloomError, match="nobody looks at them twice"):
        command.reproduce(options(tmp_path))
    assert command.reproduce(options(tmp_path, final=False)) == developed
