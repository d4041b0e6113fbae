"""Checkpoints: the state of a training after an epoch, in one file that appears at once."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Checkpoints:
    """The checkpoints of a run, one per epoch kept; the stream needs no state, it is a function of the epoch.

    Args:
      root: their directory, made if missing.
      parts: what has `variables`, which are saved and restored in order, by name; an optimizer must be built.
    """

    def __init__(self, root: Path, parts: Mapping[str, Any]) -> None:
        self._root, self._parts = root, parts
        root.mkdir(exist_ok=True)

    def epochs(self) -> list[int]:
        """Return the epochs that have a checkpoint, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.npz", path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, epoch: int, keep: set[int]) -> None:
        """Write the state after an epoch, then delete those of all epochs but it and `keep`."""
        partial = self._root / ".partial.npz"
        np.savez(partial, **{name: variable.numpy() for name, variable in self._variables()})
        os.replace(partial, self._path(epoch))
        for other in set(self.epochs()) - keep - {epoch}:
            self._path(other).unlink()

    def restore(self, epoch: int) -> None:
        """Set every part to its state after an epoch."""
        with np.load(self._path(epoch)) as state:
            for name, variable in self._variables():
                variable.assign(state[name])

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for part, holder in self._parts.items():
            for n, variable in enumerate(holder.variables):
                yield f"{part}_{n}", variable

    def _path(self, epoch: int) -> Path:
        return self._root / f"epoch-{epoch:04d}.npz"
