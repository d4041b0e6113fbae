"""Experiments: a grid of cells, each from settings to a small result, kept so that none runs twice."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.errors import FlowloomError

Settings = Mapping[str, Any]
Compute = Callable[[Settings], dict[str, Any]]
"""From the settings of a cell to its JSON-ready result, the same whatever ran before it in the process."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
      name: what its file is called; unique in the grid.
      settings: everything that its result depends on, as JSON-ready values.
      together: cells that share costly steps run one after another in one process.
    """

    name: str
    settings: Settings
    together: str = ""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"name must be a file name, got {self.name!r}")

    @property
    def key(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a grid by the name of the cell."""

    by_name: Mapping[str, dict[str, Any]]
    computed: int
    """How many of them were not there before."""


def run_cells(
    cells: Sequence[Cell],
    compute: Compute,
    folder: Path,
    workers: int = 0,
    prepare: Callable[[], None] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Results:
    """Return the result of every cell; one that `folder` has from equal settings is read instead of computed.

    A result appears in `folder/<name>.json` when it is complete, so that a grid can be interrupted at any time.

    Args:
      cells: the grid.
      compute: a module's function, or an instance of a module's class, as it goes to other processes.
      folder: made if missing.
      workers: processes; 0: the cells run in this one.
      prepare: called first in each of them.
      progress: called with cells done, all cells, and the latest one's name.

    Raises:
      FlowloomError: if two cells have one name.
    """
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FlowloomError(f"cells of an experiment must have names of their own, got {twice!r} twice")
    folder.mkdir(parents=True, exist_ok=True)
    found = {cell.name: result for cell in cells if (result := _stored(cell, folder)) is not None}
    missing = [cell for cell in cells if cell.name not in found]
    computed = len(missing)
    runs = [list(run) for _, run in itertools.groupby(missing, key=lambda cell: cell.together or cell.name)]

    def keep(results: Mapping[str, dict[str, Any]]) -> None:
        for name, result in results.items():
            found[name] = result
            progress(len(found), len(cells), name)

    if not workers:
        for cell in missing:
            keep(_compute([cell], compute, folder))
    elif runs:
        # not forked: TensorFlow's threads do not survive that
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(workers, len(runs)), context, prepare) as pool:
            pending = [pool.submit(_compute, run, compute, folder) for run in runs]
            try:
                for done in concurrent.futures.as_completed(pending):
                    keep(done.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return Results({name: found[name] for name in names}, computed)


def _compute(cells: Sequence[Cell], compute: Compute, folder: Path) -> dict[str, dict[str, Any]]:
    """Compute cells and store each as soon as it is there."""
    results = {}
    for cell in cells:
        results[cell.name] = compute(cell.settings)
        document = {"key": cell.key, "settings": dict(cell.settings), "result": results[cell.name]}
        write_json(folder / f"{cell.name}.json", document)
    return results


def _stored(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """Return the result of a cell that was computed from equal settings."""
    try:
        stored = json.loads((folder / f"{cell.name}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return stored["result"] if isinstance(stored, dict) and stored.get("key") == cell.key else None
