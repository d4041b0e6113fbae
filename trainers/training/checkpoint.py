"""Checkpoints: the state of a training after an epoch or inside an epoch, in one atomically written file."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowloom.schemas.atomic_files import replacing
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.conversion.weight_arrays import read_arrays
from flowloom.trainers.training.epoch_loop import PartialEpoch

_HISTORY = "history_sha256"
_AGAIN = "restore the run from a copy, or train in another directory"


class Checkpoints:
    """The checkpoints of a run: one per kept epoch, and one inside the current epoch.

    The stream of batches has no state, as it is a function of the step.

    Args:
      root: their directory, made if missing.
      parts: objects with `variables` by name; an optimizer must be built. Variables are stored in their order.
      stand_ins: by part, variables that checkpoints of 0.2 lack, each with the one whose value it takes, as positions.
    """

    def __init__(
        self, root: Path, parts: Mapping[str, Any], stand_ins: Mapping[str, Mapping[int, int]] | None = None
    ) -> None:
        self._root, self._parts = root, parts
        self._stand_ins = {
            _entry(part, lacking): _entry(part, other)
            for part, pairs in (stand_ins or {}).items()
            for lacking, other in pairs.items()
        }
        root.mkdir(exist_ok=True)

    def is_older(self) -> bool:
        """Returns whether 0.2 wrote one of the checkpoints."""
        paths = [*map(self._path, self.epochs()), *([self._inside] if self._inside.exists() else [])]
        return any(self._lacks(self._arrays(path)) for path in paths)

    def epochs(self) -> list[int]:
        """Returns the epochs that have a checkpoint, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.npz", path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, epoch: int, keep: set[int], history: Sequence[Any] = ()) -> None:
        """Writes the state after an epoch and deletes all other checkpoints but those of the epochs in `keep`.

        The file has a digest of the `history` up to the epoch.
        """
        self._write(self._path(epoch), {_HISTORY: _digest(history)})
        for other in set(self.epochs()) - keep - {epoch}:
            self._path(other).unlink()
        self._inside.unlink(missing_ok=True)

    def restore(self, epoch: int) -> None:
        """Sets every part to its state after an epoch.

        Raises:
          FlowloomError: if the file is damaged.
        """
        self._assign(self._path(epoch), self._arrays(self._path(epoch)))

    def check_history(self, epoch: int, history: Sequence[Any]) -> None:
        """Checks the history up to an epoch against the digest in its checkpoint, if it has one.

        Raises:
          FlowloomError: if the history or the checkpoint is damaged.
        """
        path = self._path(epoch)
        stored = self._arrays(path).get(_HISTORY)
        if stored is not None and not np.array_equal(stored, _digest(history)):
            raise FlowloomError(
                f"{path.parent.parent}: the history must be that of checkpoint {path.name}, got another one; {_AGAIN}"
            )

    def save_inside(self, begun: PartialEpoch) -> None:
        """Writes the state inside an epoch, over that of an earlier step."""
        facts = {"epoch": np.array(begun.epoch), "steps": np.array(begun.steps), "totals": begun.totals}
        self._write(self._inside, facts)

    def restore_inside(self, epoch: int) -> PartialEpoch | None:
        """Sets every part to its state inside an epoch and returns the trained part; None without such a checkpoint."""
        if not self._inside.exists():
            return None
        state = self._arrays(self._inside)
        try:
            begun = PartialEpoch(int(state["epoch"]), int(state["steps"]), state["totals"])
        except KeyError as error:
            raise FlowloomError(f"{self._inside} lacks {error}; {_AGAIN}") from None
        if begun.epoch != epoch:  # left over from before the checkpoint after its epoch
            return None
        self._assign(self._inside, state)
        return begun

    def _write(self, path: Path, facts: Mapping[str, np.ndarray]) -> None:
        state: dict[str, Any] = {**facts, **{name: variable.numpy() for name, variable in self._variables()}}
        with replacing(path, ".npz") as temporary:
            np.savez(temporary, **state)

    def _arrays(self, path: Path) -> Mapping[str, np.ndarray]:
        return read_arrays(path, _AGAIN)

    def _lacks(self, state: Mapping[str, np.ndarray]) -> bool:
        return bool(self._stand_ins) and not any(name in state for name in self._stand_ins)

    def _assign(self, path: Path, state: Mapping[str, np.ndarray]) -> None:
        if self._lacks(state):
            state = {**state, **{name: state[other] for name, other in self._stand_ins.items() if other in state}}
        for name, variable in self._variables():
            if name not in state or state[name].shape != tuple(variable.shape):
                found = f"shape {state[name].shape}" if name in state else "none"
                raise FlowloomError(f"{path} must have {name} of shape {tuple(variable.shape)}, got {found}; {_AGAIN}")
        for name, variable in self._variables():
            variable.assign(state[name])

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for part, holder in self._parts.items():
            for n, variable in enumerate(holder.variables):
                yield _entry(part, n), variable

    def _path(self, epoch: int) -> Path:
        return self._root / f"epoch-{epoch:04d}.npz"

    @property
    def _inside(self) -> Path:
        return self._root / "inside.npz"


def _entry(part: str, place: int) -> str:
    """Returns the name in a file of a part's variable."""
    return f"{part}_{place}"


def _digest(history: Sequence[Any]) -> np.ndarray:
    """Returns the SHA-256 of a history as JSON, uint8 [32]."""
    stored = json.loads(json.dumps(list(history)))  # with the keys that the file has
    return np.frombuffer(hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).digest(), np.uint8)
