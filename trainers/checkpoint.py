"""Checkpoints: the state of a training after an epoch, in one file that appears at once."""

import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np


class Checkpoints:
    """The checkpoints of a run, one per epoch kept; the stream needs no state, it is a function of the epoch.

    Args:
      root: their directory, made if missing.
      model: its variables are saved and restored, in order.
      optimizer: likewise; it must be built.
    """

    def __init__(self, root: Path, model: Any, optimizer: keras.optimizers.Optimizer) -> None:
        self._root, self._model, self._optimizer = root, model, optimizer
        root.mkdir(exist_ok=True)

    def epochs(self) -> list[int]:
        """Return the epochs that have a checkpoint, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.npz", path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, epoch: int, keep: set[int]) -> None:
        """Write the state after an epoch, then delete those of all epochs but it and `keep`."""
        partial = self._root / ".partial.npz"
        arrays = {f"model_{n}": variable.numpy() for n, variable in enumerate(self._model.variables)}
        arrays |= {f"optimizer_{n}": variable.numpy() for n, variable in enumerate(self._optimizer.variables)}
        np.savez(partial, **arrays)
        os.replace(partial, self._path(epoch))
        for other in set(self.epochs()) - keep - {epoch}:
            self._path(other).unlink()

    def restore(self, epoch: int) -> None:
        """Set the model and the optimizer to their state after an epoch."""
        with np.load(self._path(epoch)) as state:
            for n, variable in enumerate(self._model.variables):
                variable.assign(state[f"model_{n}"])
            for n, variable in enumerate(self._optimizer.variables):
                variable.assign(state[f"optimizer_{n}"])

    def _path(self, epoch: int) -> Path:
        return self._root / f"epoch-{epoch:04d}.npz"
