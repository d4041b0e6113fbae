"""Checkpoints: the state of a training after an epoch or inside an epoch, in one atomically written file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.atomic_files import replacing
from flowloom.trainers.training.epoch_loop import PartialEpoch


class Checkpoints:
    """The checkpoints of a run: one per kept epoch, and one inside the current epoch.

    The stream of batches has no state, as it is a function of the step.

    Args:
      root: their directory, made if missing.
      parts: objects with `variables` by name; an optimizer must be built. Variables are stored in their order.
    """

    def __init__(self, root: Path, parts: Mapping[str, Any]) -> None:
        self._root, self._parts = root, parts
        root.mkdir(exist_ok=True)

    def epochs(self) -> list[int]:
        """Returns the epochs that have a checkpoint, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.npz", path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, epoch: int, keep: set[int]) -> None:
        """Writes the state after an epoch and deletes all other checkpoints but those of the epochs in `keep`."""
        self._write(self._path(epoch), {})
        for other in set(self.epochs()) - keep - {epoch}:
            self._path(other).unlink()
        self._inside.unlink(missing_ok=True)

    def restore(self, epoch: int) -> None:
        """Sets every part to its state after an epoch."""
        self._read(self._path(epoch))

    def save_inside(self, begun: PartialEpoch) -> None:
        """Writes the state inside an epoch, over that of an earlier step."""
        facts = {"epoch": np.array(begun.epoch), "steps": np.array(begun.steps), "totals": begun.totals}
        self._write(self._inside, facts)

    def restore_inside(self, epoch: int) -> PartialEpoch | None:
        """Sets every part to its state inside an epoch and returns the trained part; None without such a checkpoint."""
        if not self._inside.exists():
            return None
        with np.load(self._inside) as state:
            begun = PartialEpoch(int(state["epoch"]), int(state["steps"]), state["totals"])
        if begun.epoch != epoch:  # left over from before the checkpoint after its epoch
            return None
        self._read(self._inside)
        return begun

    def _write(self, path: Path, facts: Mapping[str, np.ndarray]) -> None:
        state: dict[str, Any] = {**facts, **{name: variable.numpy() for name, variable in self._variables()}}
        with replacing(path, ".npz") as temporary:
            np.savez(temporary, **state)

    def _read(self, path: Path) -> None:
        with np.load(path) as state:
            for name, variable in self._variables():
                variable.assign(state[name])

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for part, holder in self._parts.items():
            for n, variable in enumerate(holder.variables):
                yield f"{part}_{n}", variable

    def _path(self, epoch: int) -> Path:
        return self._root / f"epoch-{epoch:04d}.npz"

    @property
    def _inside(self) -> Path:
        return self._root / "inside.npz"
