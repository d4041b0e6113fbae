"""Size tuning: the smallest expert and the fewest of them that reach an AUC (MULTA, algorithm 1, mended).

What differs from the published pseudo-code: a task that the size found so far serves already costs one training, the
early stop is spelled out, the largest number of experts is tried and not taken for granted, and every decision takes
the median over seeds.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from flowloom.schemas.errors import FlowloomError


@dataclasses.dataclass(frozen=True, order=True)
class Trial:
    """One training: a single LSTM of one task, or an LMMoE of all of them."""

    experts: int
    units: int
    tasks: tuple[str, ...]
    seed: int


Oracle = Callable[[Trial], Mapping[str, float]]
"""Trains a trial and returns the validation AUC of each of its tasks."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What is looked for, and where.

    Raises:
      FlowloomError: if a bound is out of range, or a size is no multiple of the granularity.
    """

    target_auc: float | Mapping[str, float]
    """What every task must reach on a single LSTM; or by task."""
    max_drop: float
    """By how much every task may be below that on the LMMoE."""
    start_units: int = 8
    granularity: int = 4
    """Sizes are multiples of it."""
    largest_units: int = 64
    epsilon: float = 1e-3
    """An AUC that is not higher by so much has not risen."""
    patience: int = 2
    """Doublings without a rise after which a task is said not to reach the target."""
    seeds: tuple[int, ...] = (7,)
    """The median AUC over these decides."""

    def __post_init__(self) -> None:
        for target in self.target_auc.values() if isinstance(self.target_auc, Mapping) else [self.target_auc]:
            if not 0.5 < target <= 1:
                raise FlowloomError(f"target AUC must be > 0.5 and <= 1, got {target}")
        if not 0 <= self.max_drop < 0.5:
            raise FlowloomError(f"the drop must be >= 0 and < 0.5, got {self.max_drop}")
        for name in ("start_units", "granularity", "largest_units", "patience"):
            if getattr(self, name) < 1:
                raise FlowloomError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("start_units", "largest_units"):
            if getattr(self, name) % self.granularity:
                raise FlowloomError(
                    f"{name} must be a multiple of the granularity {self.granularity}, got {getattr(self, name)}"
                )
        if self.start_units > self.largest_units:
            raise FlowloomError(f"start_units must be <= {self.largest_units}, the largest, got {self.start_units}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise FlowloomError(f"seeds must be one or more different ones, got {list(self.seeds)}")

    def target(self, task: str) -> float:
        """Return what a task must reach on a single LSTM."""
        return self.target_auc[task] if isinstance(self.target_auc, Mapping) else self.target_auc


@dataclasses.dataclass(frozen=True)
class SingleNetwork:
    """What the search for the size of an expert found for one task."""

    units: int
    """The smallest size known to do; a task that an earlier one's size serves is not searched below that."""
    auc: float
    met: bool
    """Whether it reaches the target; if not, larger experts did not help either."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The size that was found, and the way there."""

    units: int
    experts: int
    auc: dict[str, float]
    """By task, of that LMMoE."""
    met: bool
    """Whether all tasks are within the drop of what was asked, or of their best single LSTM where that is less."""
    singles: dict[str, SingleNetwork]
    walked: tuple[Trial, ...]
    """All trainings in their order."""
    exhaustive: int
    """Trainings of a search over every size for each task, and every number of experts."""


def tune(tasks: Sequence[str], oracle: Oracle, search: Search) -> Tuning:
    """Find the smallest expert that serves every task alone, then the fewest of them that serve all together.

    The first is found by doubling and bisection task by task, the second by bisection. Right where AUC does not fall
    with size; no trial is trained twice. Tasks that need the largest experts are best put first.

    Args:
      tasks: at least one, in the order in which they are searched.
      oracle: what a training comes to.
      search: what is looked for.
    """
    known: dict[tuple[int, int, tuple[str, ...]], dict[str, float]] = {}
    walked: list[Trial] = []

    def auc(experts: int, units: int, among: tuple[str, ...]) -> dict[str, float]:
        if (key := (experts, units, among)) not in known:
            trials = [Trial(experts, units, among, seed) for seed in search.seeds]
            found = [oracle(trial) for trial in trials]
            walked.extend(trials)
            known[key] = {task: statistics.median(each[task] for each in found) for task in among}
        return known[key]

    singles: dict[str, SingleNetwork] = {}
    units = 0
    for task in tasks:
        singles[task] = _smallest(task, lambda size, task=task: auc(1, size, (task,))[task], units, search)  # type: ignore[misc]
        units = max(units, singles[task].units)

    everything = tuple(tasks)
    wanted = {task: min(search.target(task), single.auc) - search.max_drop for task, single in singles.items()}

    def suffices(experts: int) -> bool:
        return all(found >= wanted[task] for task, found in auc(experts, units, everything).items())

    low, high = 1, len(tasks)
    experts = max(1, len(tasks) // 2)
    while low < high:
        low, high = (low, experts) if suffices(experts) else (experts + 1, high)
        experts = (low + high) // 2
    return Tuning(
        units=units,
        experts=low,
        auc=auc(low, units, everything),
        met=suffices(low),
        singles=singles,
        walked=tuple(walked),
        exhaustive=len(search.seeds) * len(tasks) * (search.largest_units // search.granularity + 1),
    )


def _smallest(task: str, auc: Callable[[int], float], floor: int, search: Search) -> SingleNetwork:
    """Return the smallest size that reaches the target, not looking below a floor that an earlier task needs anyway."""
    tried: dict[int, float] = {}

    def reaches(units: int) -> bool:
        tried[units] = auc(units)
        return tried[units] >= search.target(task)

    if floor and reaches(floor):
        return SingleNetwork(floor, tried[floor], met=True)
    low, high = floor, min(max(search.start_units, 2 * floor), search.largest_units)
    best, stalled = tried.get(floor, 0.0), 0
    while not reaches(high):
        stalled = 0 if tried[high] > best + search.epsilon else stalled + 1
        best = max(tried.values())
        if stalled >= search.patience or high == search.largest_units:
            smallest = min(units for units, found in tried.items() if found >= best - search.epsilon)
            return SingleNetwork(smallest, tried[smallest], met=False)
        low, high = high, min(2 * high, search.largest_units)
    while high - low > search.granularity:
        middle = (low + high) // 2 // search.granularity * search.granularity
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return SingleNetwork(high, tried[high], met=True)
