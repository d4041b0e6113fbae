"""Tasks that arrive one after another (MULTA, section IV-C): results of the experiments on latecomers."""

import functools
from typing import Any

from flowloom.pipelines.reproduce.multa.multa_grid import MULTAOutcomes, TaskSet
from flowloom.trainers.evaluation.intervals import Mean
from flowloom.trainers.training.latecomers import Arrivals, findings


def arrival_findings(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> list[dict[str, Any]]:
    """Returns the findings of a mode (`latecomers.findings`) on the test AUCs, by repeat.

    `sequential` is the training of `repair` without its last phase.
    """
    planned = _arrivals(tasks, outcomes, latecomer)
    found = []
    for result in outcomes.all_of(tasks, _arm(latecomer)):
        history = [{"validation_auc": record["test"]} for record in result["history"][: planned.epochs]]
        found.append({**findings(planned, history), "split": "test"})
    return found


def arrival_lines(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> dict[str, list[Mean]]:
    """Returns the mean AUC of every task after each epoch."""
    histories = [result["history"] for result in outcomes.all_of(tasks, _arm(latecomer))]
    return {
        task: [
            outcomes.mean_of(tasks, [record["test"][task] for record in records])
            for records in zip(*histories, strict=True)
        ]
        for task in tasks.tasks
    }


def lost_after_repair(tasks: TaskSet, outcomes: MULTAOutcomes) -> list[float]:
    """Returns how far the first task is below the AUC of its own phase after one epoch of repair."""
    planned, task = _arrivals(tasks, outcomes, "repair"), tasks.tasks[0]
    own, repair = planned.phases[0].last_epoch, planned.phases[-1].first_epoch
    histories = [result["history"] for result in outcomes.all_of(tasks, _arm("repair"))]
    return [history[own - 1]["test"][task] - history[repair - 1]["test"][task] for history in histories]


def phases_of(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> dict[str, int]:
    """Returns the first epoch of each phase."""
    planned = _arrivals(tasks, outcomes, latecomer).phases
    return {f"{phase.task}{', again' if phase.repair else ''}": phase.first_epoch for phase in planned}


def unchanged(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> bool:
    """Returns whether all scores of earlier tasks stay the same, to the bit, for every repeat."""
    return all(all(result["unchanged"].values()) for result in outcomes.all_of(tasks, _arm(latecomer)))


def _arm(latecomer: str) -> str:
    return f"latecomers {'repair' if latecomer == 'sequential' else latecomer}"


@functools.cache
def _planned(tasks: tuple[str, ...], latecomer: Any, epochs: int, repair_epochs: int) -> Arrivals:
    return Arrivals(tasks, latecomer, epochs, repair_epochs)


def _arrivals(tasks: TaskSet, outcomes: MULTAOutcomes, latecomer: str) -> Arrivals:
    return _planned(tasks.tasks, latecomer, outcomes.scale.phase_epochs, outcomes.scale.repair_epochs)
