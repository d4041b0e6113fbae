"""Experiments: a grid of functions from settings to small results, which are stored so that none runs twice."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowloom.schemas.atomic_files import write_json
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import sealed, unsealed
from flowloom.schemas.progress import Progress, ignore_progress

Settings = Mapping[str, Any]
Compute = Callable[[Settings], dict[str, Any]]
"""Returns the JSON-ready result of an experiment, which depends on its settings alone."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One point of a grid.

    Attributes:
      name: name of its file, unique in the grid.
      settings: JSON-ready values that determine the result.
      together: experiments with the same value share costly steps, and run one after another in one process.
    """

    name: str
    settings: Settings
    together: str = ""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"name must be a file name, got {self.name!r}")

    @property
    def key(self) -> str:
        """The hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a grid by the name of the experiment."""

    by_name: Mapping[str, dict[str, Any]]
    computed: int
    """Number of results that were not stored before."""


def run_experiments(
    experiments: Sequence[Experiment],
    compute: Compute,
    folder: Path,
    workers: int = 0,
    prepare: Callable[[], None] | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
    environment: Mapping[str, str] | None = None,
) -> Results:
    """Returns the result of every experiment; reads it if `folder` has one of equal settings.

    Each result is stored as `folder/<name>.json` when it is complete, so a grid can be interrupted at any time.

    Args:
      experiments: the grid.
      compute: a module's function, or an instance of a module's class, as it is sent to other processes.
      folder: made if missing.
      workers: number of processes; 0: the experiments run in this one.
      prepare: called first in each process.
      progress: called after each experiment.
      environment: variables of the processes, beside those of this one.

    Raises:
      FlowloomError: if two experiments have one name.
    """
    names = [experiment.name for experiment in experiments]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FlowloomError(f"experiments of a grid must have distinct names, got {twice!r} twice")
    folder.mkdir(parents=True, exist_ok=True)
    found = {each.name: result for each in experiments if (result := _stored(each, folder)) is not None}
    missing = [each for each in experiments if each.name not in found]
    computed = len(missing)
    runs = [list(run) for _, run in itertools.groupby(missing, key=lambda each: each.together or each.name)]

    def keep(results: Mapping[str, dict[str, Any]]) -> None:
        for name, result in results.items():
            found[name] = result
            done, total = len(found), len(experiments)
            progress(Progress(f"{done:,} of {total:,} experiments, latest {name}", done, total))

    if not workers:
        for experiment in missing:
            keep(_compute([experiment], compute, folder))
    elif runs:
        # spawned, not forked: TensorFlow's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        with (
            _environment(environment or {}),
            concurrent.futures.ProcessPoolExecutor(min(workers, len(runs)), context, prepare) as pool,
        ):
            pending = [pool.submit(_compute, run, compute, folder) for run in runs]
            try:
                for done in concurrent.futures.as_completed(pending):
                    keep(done.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return Results({name: found[name] for name in names}, computed)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block, which processes that begin there take over."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _compute(experiments: Sequence[Experiment], compute: Compute, folder: Path) -> dict[str, dict[str, Any]]:
    """Computes experiments and stores each result at once."""
    results = {}
    for each in experiments:
        results[each.name] = compute(each.settings)
        document = {"key": each.key, "settings": dict(each.settings), "result": results[each.name]}
        write_json(folder / f"{each.name}.json", sealed(document))
    return results


def _stored(experiment: Experiment, folder: Path) -> dict[str, Any] | None:
    """Returns the stored result of equal settings, None without one or with a damaged one."""
    try:
        path = folder / f"{experiment.name}.json"
        stored = unsealed(json.loads(path.read_bytes()), path, "compute it again")
    except (OSError, ValueError):
        return None
    return stored["result"] if isinstance(stored, dict) and stored.get("key") == experiment.key else None
