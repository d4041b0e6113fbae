"""Tasks that arrived one after another (MULTA, section IV-C): what cells of latecomers came to."""

import functools
from typing import Any

from flowloom.pipelines.reproduce.multa.multa_grid import MULTAOutcomes, TaskSet
from flowloom.trainers.evaluation.intervals import Mean, mean_of
from flowloom.trainers.training.latecomers import Arrivals, findings


def arrival_findings(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> list[dict[str, Any]]:
    """Return by seed what `latecomers.findings` says of the test AUCs of a mode.

    `sequential` is the training of `repair` up to its last phase.
    """
    planned = _arrivals(tasks, outcomes, latecomer)
    found = []
    for result in outcomes.all_of(tasks, _arm(latecomer)):
        history = [{"validation_auc": record["test"]} for record in result["history"][: planned.epochs]]
        found.append({**findings(planned, history), "split": "test"})
    return found


def arrival_lines(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> dict[str, list[Mean]]:
    """Return the mean AUC of every task after each epoch."""
    histories = [result["history"] for result in outcomes.all_of(tasks, _arm(latecomer))]
    return {
        task: [mean_of([record["test"][task] for record in records]) for records in zip(*histories, strict=True)]
        for task in tasks.tasks
    }


def phases_of(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> dict[str, int]:
    """Return what begins at which epoch."""
    planned = _arrivals(tasks, outcomes, latecomer).phases
    return {f"{phase.task}{', again' if phase.repair else ''}": phase.first_epoch for phase in planned}


def unchanged(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> bool:
    """Say whether no later arrival changed a bit of any task's scores, from any seed."""
    return all(all(result["unchanged"].values()) for result in outcomes.all_of(tasks, _arm(latecomer)))


def _arm(latecomer: str) -> str:
    return f"latecomers {'repair' if latecomer == 'sequential' else latecomer}"


@functools.cache
def _planned(tasks: tuple[str, ...], latecomer: Any, epochs: int, repair_epochs: int) -> Arrivals:
    return Arrivals(tasks, latecomer, epochs, repair_epochs)


def _arrivals(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> Arrivals:
    return _planned(tasks.tasks, latecomer, outcomes.scale.phase_epochs, outcomes.scale.repair_epochs)
