"""Latecomers: tasks that arrive one after another (MULTA, section IV-C), and their effect on earlier tasks."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.feed import Batch, Feed

REPAIRED = 0.01
"""Largest loss of AUC against the end of a task's own phase at which the task counts as repaired."""

Latecomer = Literal["sequential", "repair", "replay", "isolate"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs that train one task; epochs count from 1."""

    task: str
    first_epoch: int
    epochs: int
    repair: bool = False

    @property
    def last_epoch(self) -> int:
        """The last epoch of the phase."""
        return self.first_epoch + self.epochs - 1


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """The order and length of the tasks' phases.

    Raises:
      FlowloomError: if there are fewer than two tasks.
    """

    tasks: tuple[str, ...]
    """Tasks in the order of their arrival."""
    latecomer: Latecomer = "sequential"
    phase_epochs: int = 5
    repair_epochs: int = 1
    replay_share: float = 0.2
    """Share of the batches that are of earlier tasks (`replay`)."""

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise FlowloomError(
                f"schedule.arrivals must name two tasks or more, got {', '.join(self.tasks)}; name more"
            )

    @functools.cached_property
    def phases(self) -> tuple[Phase, ...]:
        """One phase for each arrival, and under `repair` a second one for the first task."""
        phases = [Phase(task, n * self.phase_epochs + 1, self.phase_epochs) for n, task in enumerate(self.tasks)]
        if self.latecomer == "repair":
            phases.append(Phase(self.tasks[0], phases[-1].last_epoch + 1, self.repair_epochs, repair=True))
        return tuple(phases)

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.phases[-1].last_epoch

    def phase(self, epoch: int) -> Phase:
        """Returns the phase of an epoch."""
        return next(phase for phase in self.phases if phase.first_epoch <= epoch <= phase.last_epoch)


class LatecomerFeed:
    """Feed of an incremental training; like those of `Feed`, its batches are a pure function of the step.

    Args:
      feeds: striped feeds of the dataset restricted to one task, by task in the dataset's order.
      arrivals: arrivals of the same tasks.
    """

    def __init__(self, feeds: Mapping[str, Feed], arrivals: Arrivals) -> None:
        self._feeds, self._arrivals = feeds, arrivals

    @property
    def signature(self) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
        """The specs of a `Batch` of any size, with labels of all tasks."""
        signatures = [feed.signature for feed in self._feeds.values()]
        labels = {task: spec for _, labels, _ in signatures for task, spec in labels.items()}
        weights = {task: spec for _, _, weights in signatures for task, spec in weights.items()}
        return signatures[0][0], labels, weights

    def stripes(self, epoch: int) -> list[str]:
        """Returns the task of every step of an epoch; epochs count from 0."""
        phase = self._arrivals.phase(epoch + 1)
        own_epoch = epoch + 1 - phase.first_epoch + (self._arrivals.phase_epochs if phase.repair else 0)
        steps = len(self._feeds[phase.task].stripes(own_epoch))
        before = self._arrivals.tasks[: self._arrivals.tasks.index(phase.task)]
        if self._arrivals.latecomer != "replay" or not before:
            return [phase.task] * steps
        replayed = itertools.cycle(before)
        return [next(replayed) if old else phase.task for old in replays(steps, self._arrivals.replay_share)]

    def stream(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batches from a step to the end of the last phase."""
        streams: dict[str, Iterator[Batch]] = {}
        taken = collections.Counter[str]()
        steps = itertools.chain.from_iterable(map(self.stripes, range(self._arrivals.epochs)))
        for step, task in enumerate(steps):
            if step >= start_step:
                if task not in streams:
                    streams[task] = self._feeds[task].stream(taken[task], each=self._with_all_tasks)
                yield next(streams[task])
            taken[task] += 1

    @tf.autograph.experimental.do_not_convert
    def _with_all_tasks(self, inputs: Any, labels: Any, weights: Any) -> Batch:
        """Adds unknown labels of the other tasks to a batch of one task."""
        rows = tf.shape(next(iter(inputs.values())))[:1]
        unknown = {task: tf.zeros(rows, tf.int32) for task in self._feeds}
        return inputs, {**unknown, **labels}, {**{task: tf.zeros(rows) for task in self._feeds}, **weights}


def replays(steps: int, share: float) -> list[bool]:
    """Returns for every step of an epoch whether it replays an earlier task.

    Args:
      steps: number of steps that replay nothing.
      share: share of replayed steps of all steps; they are spread evenly.
    """
    repeated = round(steps * share / (1 - share))
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in (steps, repeated)])
    return (np.argsort(places, kind="stable") >= steps).tolist()


def findings(arrivals: Arrivals, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns forgetting and repair of each task in an incremental training, by its validation AUC after every epoch.

    Returns:
      JSON-ready values, None where undefined. `phases`: each with the AUC of all tasks after it (row i of the matrix
      R[i, j]). `forgetting`: by task, the best AUC after its own or a later arrival, less the AUC after the last
      arrival. `epochs_to_repair`: by task, the epochs until its AUC is within 0.01 of the AUC after its own arrival,
      None if it stays below.
    """
    rows = [{**dataclasses.asdict(phase), "auc": _auc(history, phase.last_epoch)} for phase in arrivals.phases]
    arrived = rows[: len(arrivals.tasks)]
    forgetting = {}
    for n, task in enumerate(arrivals.tasks):
        aucs = [row["auc"][task] for row in arrived[n:]]
        forgetting[task] = None if None in aucs else max(aucs) - aucs[-1]
    repaired = {phase.task: _epochs_to_repair(arrived, history, phase) for phase in arrivals.phases if phase.repair}
    return {
        "latecomer": arrivals.latecomer,
        "arrivals": list(arrivals.tasks),
        "split": "validation",
        "phases": rows,
        "forgetting": forgetting,
        "epochs_to_repair": repaired,
    }


def _auc(history: Sequence[Mapping[str, Any]], epoch: int) -> dict[str, float | None]:
    return history[epoch - 1]["validation_auc"]


def _epochs_to_repair(
    arrived: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], phase: Phase
) -> int | None:
    """Returns the number of epochs until a task is repaired."""
    before = next(row["auc"][phase.task] for row in arrived if row["task"] == phase.task)
    for epoch in range(phase.first_epoch, phase.last_epoch + 1):
        after = _auc(history, epoch)[phase.task]
        if before is not None and after is not None and after >= before - REPAIRED:
            return epoch - phase.first_epoch + 1
    return None
