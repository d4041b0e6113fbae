"""Sizes that reach an AUC, chosen by validation rows alone: MULTA by algorithm 1, three LSTMs by trying everything.

The grid holds every size, so that the search of algorithm 1 walks over trainings that are there, and what it finds can
be held against all of them.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

from flowloom.pipelines.reproduce.multa.multa_grid import (
    EXPERTS,
    MULTAOutcomes,
    TaskSet,
    hand_arm,
    shared_arm,
    single_arm,
)
from flowloom.trainers.tuning.search import Search, Trial, Tuning, tune

MAX_DROP = 0.005
"""How much less than the target is still equal."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What reaches the validation AUC of a MULTA that was sized by hand, all but `MAX_DROP`."""

    hand_units: int
    target: float
    """Its mean validation AUC over tasks and seeds."""
    tuning: Tuning
    """By algorithm 1: task by task."""
    smallest: tuple[int, int]
    """Experts and units of the LMMoE with the fewest parameters that does, of the whole grid: task by task."""
    singles: tuple[int, ...]
    """Units by task of the three LSTMs with the fewest parameters that do in the mean, or that come nearest."""
    singles_reach: bool
    """Whether they do."""

    @property
    def hand(self) -> list[str]:
        """The arm of the MULTA that was sized by hand."""
        return [hand_arm(self.hand_units)]

    @property
    def tuned(self) -> list[str]:
        """The arm that algorithm 1 found."""
        return [shared_arm(self.tuning.experts, self.tuning.units)]

    def single_arms(self, tasks: TaskSet) -> list[str]:
        """Return the arms of the three LSTMs."""
        return [single_arm(task, units) for task, units in zip(tasks.tasks, self.singles, strict=True)]

    def equal_arms(self, tasks: TaskSet) -> list[str]:
        """Return the arms of three LSTMs of the size of the tuned expert."""
        return [single_arm(task, self.tuning.units) for task in tasks.tasks]


def sizes(tasks: TaskSet, outcomes: MULTAOutcomes, hand_units: int) -> Sizes:
    """Find what reaches the AUC of one point of the curve that was sized by hand (figure 4)."""
    hand = outcomes.all_of(tasks, hand_arm(hand_units))
    reached = {task: statistics.mean(each["validation"][task] for each in hand) for task in tasks.tasks}
    equal = {task: value - MAX_DROP for task, value in reached.items()}
    search = Search(
        equal, 0.0, start_units=tasks.units[0], granularity=tasks.units[0],
        largest_units=tasks.units[-1], seeds=outcomes.seeds,
    )  # fmt: skip

    def oracle(trial: Trial) -> dict[str, float]:
        arm = shared_arm(trial.experts, trial.units)
        if len(trial.tasks) == 1:
            arm = single_arm(trial.tasks[0], trial.units)
        return outcomes.all_of(tasks, arm)[outcomes.seeds.index(trial.seed)]["validation"]

    singles_reach, singles = _cheapest_singles(tasks, outcomes, statistics.mean(equal.values()))
    tuning = tune(tasks.tasks, oracle, search)
    return Sizes(
        hand_units, statistics.mean(reached.values()), tuning, _smallest(tasks, outcomes, search, tuning), singles,
        singles_reach,
    )  # fmt: skip


def best_hand(tasks: TaskSet, outcomes: MULTAOutcomes) -> int:
    """Return the units of the hand-sized MULTA with the highest mean validation AUC, of several the smallest."""
    return max(
        outcomes.scale.hand, key=lambda units: (outcomes.mean(tasks, [hand_arm(units)], "validation").mean, -units)
    )


def within_a_step(found: Sizes, tasks: TaskSet) -> bool:
    """Say whether algorithm 1 came within one step of the grid of the smallest LMMoE that reaches the target."""
    experts, units = found.smallest
    return abs(found.tuning.experts - experts) <= 1 and abs(found.tuning.units - units) <= tasks.units[0]


def _cheapest_singles(tasks: TaskSet, outcomes: MULTAOutcomes, least: float) -> tuple[bool, tuple[int, ...]]:
    """Return whether three LSTMs reach a mean validation AUC, and the sizes of the cheapest ones, else the best."""

    def reached(chosen: Sequence[int]) -> float:
        arms = [single_arm(task, units) for task, units in zip(tasks.tasks, chosen, strict=True)]
        return outcomes.mean(tasks, arms, "validation").mean

    def parameters(chosen: Sequence[int]) -> int:
        return outcomes.parameters(tasks, [single_arm(tasks.tasks[0], units) for units in chosen])

    every = list(itertools.product(tasks.units, repeat=len(tasks.tasks)))
    enough = [chosen for chosen in every if reached(chosen) >= least]
    if enough:
        return True, min(enough, key=lambda chosen: (parameters(chosen), chosen))
    return False, max(every, key=lambda chosen: (reached(chosen), -parameters(chosen)))


def _smallest(tasks: TaskSet, outcomes: MULTAOutcomes, search: Search, tuning: Tuning) -> tuple[int, int]:
    """Return the LMMoE of the grid with the fewest parameters that does as algorithm 1 asks, else what it found."""
    wanted = {
        task: min(search.target(task), max(_median(outcomes, tasks, single_arm(task, units), task)
                                         for units in tasks.units)) - search.max_drop
        for task in tasks.tasks
    }  # fmt: skip
    enough = [
        (outcomes.parameters(tasks, [shared_arm(experts, units)]), experts, units)
        for experts in EXPERTS
        for units in tasks.units
        if all(_median(outcomes, tasks, shared_arm(experts, units), task) >= wanted[task] for task in tasks.tasks)
    ]
    return min(enough)[1:] if enough else (tuning.experts, tuning.units)


def _median(outcomes: MULTAOutcomes, tasks: TaskSet, arm: str, task: str) -> float:
    return statistics.median(result["validation"][task] for result in outcomes.all_of(tasks, arm))
