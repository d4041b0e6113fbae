"""Grids of cells: none runs twice, an interruption costs one cell, and what changes is computed again."""

import json

import pytest

from flowloom.pipelines.reproduce.engine.experiments import Cell, run_cells
from flowloom.schemas.errors import FlowloomError

CELLS = [Cell(f"cell-{number}", {"number": number}, "all" if number % 2 else "") for number in range(4)]


def square(settings):
    return {"square": settings["number"] ** 2}


def squares(results):
    return [result["square"] for result in results.by_name.values()]


def test_cells_that_are_there_are_not_computed_again(tmp_path):
    seen = []

    def compute(settings):
        seen.append(settings["number"])
        if len(seen) == 3:
            raise InterruptedError
        return square(settings)

    with pytest.raises(InterruptedError):
        run_cells(CELLS, compute, tmp_path)
    results = run_cells(CELLS, compute, tmp_path)
    assert (seen, results.computed) == ([0, 1, 2, 2, 3], 2)
    assert squares(results) == [0, 1, 4, 9]
    assert run_cells(CELLS, compute, tmp_path).computed == 0


def test_a_cell_of_other_settings_or_damaged_is_computed_again(tmp_path):
    run_cells(CELLS, square, tmp_path)
    (tmp_path / "cell-2.json").write_text("{")
    changed = [Cell("cell-0", {"number": 7}), *CELLS[1:]]
    results = run_cells(changed, square, tmp_path)
    assert (squares(results), results.computed) == ([49, 1, 4, 9], 2)
    assert json.loads((tmp_path / "cell-0.json").read_text())["settings"] == {"number": 7}


@pytest.mark.slow
def test_processes_give_the_same_in_the_same_order(tmp_path):
    seen = []
    here = run_cells(CELLS, dict, tmp_path / "a")
    there = run_cells(
        CELLS, dict, tmp_path / "b", workers=2, progress=lambda done, total, name: seen.append((done, total))
    )
    assert list(here.by_name.items()) == list(there.by_name.items())
    assert seen == [(number, 4) for number in range(1, 5)]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [f"cell-{number}.json" for number in range(4)]


def test_names_must_differ_and_be_file_names(tmp_path):
    with pytest.raises(FlowloomError, match="'cell-0' twice"):
        run_cells([CELLS[0], CELLS[0]], square, tmp_path)
    with pytest.raises(ValueError, match="must be a file name"):
        Cell("a/b", {})
