"""Sizes that reach an AUC on the validation rows: MULTA by algorithm 1, three LSTMs by exhaustive search.

The grid contains every size, so algorithm 1 searches finished trainings, and its result can be compared with all of
them.
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
"""Loss of AUC that still counts as equal to the target."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that reach the validation AUC of a MULTA sized by hand, less at most `MAX_DROP`."""

    hand_units: int
    target: float
    """Mean validation AUC of that MULTA over tasks and repeats."""
    tuning: Tuning
    """Result of algorithm 1, task by task."""
    smallest: tuple[int, int]
    """Experts and units of the LMMoE of the whole grid that reaches it, task by task, with the fewest parameters."""
    singles: tuple[int, ...]
    """Units by task of the three LSTMs that reach it in the mean with the fewest parameters, or else come nearest."""
    singles_reach: bool
    """Whether the three LSTMs reach it."""

    @property
    def hand(self) -> list[str]:
        """The arm of the MULTA sized by hand."""
        return [hand_arm(self.hand_units)]

    @property
    def tuned(self) -> list[str]:
        """The arm that algorithm 1 found."""
        return [shared_arm(self.tuning.experts, self.tuning.units)]

    def single_arms(self, tasks: TaskSet) -> list[str]:
        """Returns the arms of the three LSTMs."""
        return [single_arm(task, units) for task, units in zip(tasks.tasks, self.singles, strict=True)]

    def equal_arms(self, tasks: TaskSet) -> list[str]:
        """Returns the arms of three LSTMs as large as the tuned expert."""
        return [single_arm(task, self.tuning.units) for task in tasks.tasks]


def sizes(tasks: TaskSet, outcomes: MULTAOutcomes, hand_units: int) -> Sizes:
    """Finds the sizes that reach the AUC of one MULTA sized by hand (figure 4)."""
    hand = outcomes.all_of(tasks, hand_arm(hand_units))
    reached = {task: statistics.mean(each["validation"][task] for each in hand) for task in tasks.tasks}
    equal = {task: value - MAX_DROP for task, value in reached.items()}
    search = Search(
        equal, 0.0, start_units=tasks.units[0], granularity=tasks.units[0],
        largest_units=tasks.units[-1], seeds=tuple(range(len(outcomes.repeats))),
    )  # fmt: skip

    def oracle(trial: Trial) -> dict[str, float]:
        arm = shared_arm(trial.experts, trial.units)
        if len(trial.tasks) == 1:
            arm = single_arm(trial.tasks[0], trial.units)
        return outcomes.all_of(tasks, arm)[trial.seed]["validation"]  # the number of a repeat

    singles_reach, singles = _cheapest_singles(tasks, outcomes, statistics.mean(equal.values()))
    tuning = tune(tasks.tasks, oracle, search)
    return Sizes(
        hand_units, statistics.mean(reached.values()), tuning, _smallest(tasks, outcomes, search, tuning), singles,
        singles_reach,
    )  # fmt: skip


def best_hand(tasks: TaskSet, outcomes: MULTAOutcomes) -> int:
    """Returns the units of the MULTA sized by hand with the highest mean validation AUC; the smallest of equal ones."""
    return max(
        outcomes.scale.hand, key=lambda units: (outcomes.mean(tasks, [hand_arm(units)], "validation").mean, -units)
    )


def within_a_step(found: Sizes, tasks: TaskSet) -> bool:
    """Returns whether algorithm 1 found a size within one grid step of the smallest LMMoE that reaches the target."""
    experts, units = found.smallest
    return abs(found.tuning.experts - experts) <= 1 and abs(found.tuning.units - units) <= tasks.units[0]


def _cheapest_singles(tasks: TaskSet, outcomes: MULTAOutcomes, least: float) -> tuple[bool, tuple[int, ...]]:
    """Returns whether three LSTMs reach a mean validation AUC, and the sizes of the cheapest, or else of the best."""

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
    """Returns the LMMoE of the grid with the fewest parameters that meets algorithm 1's target, or else its result."""
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
