"""Size search: the smallest expert, and then the fewest experts, that reach a ROC AUC (MULTA, algorithm 1, mended).

Four things differ from the published pseudo-code. A task that already meets its target at the size found so far costs
one training. The early stop is defined, and takes a second look at the largest size before it gives up, as a curve may
rise after a plateau. The largest number of experts is trained instead of assumed to suffice. Every decision uses the
median over seeds.
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
"""Trains a trial and returns the validation ROC AUC of each of its tasks."""


@dataclasses.dataclass(frozen=True)
class Search:
    """Target and bounds of a search.

    Raises:
      FlowloomError: if a bound is out of range, or a size is not a multiple of the granularity.
    """

    target_auc: float | Mapping[str, float]
    """Least ROC AUC on a single LSTM, of every task or by task."""
    max_drop: float
    """Largest loss of ROC AUC of a task on the LMMoE against its target."""
    start_units: int = 8
    granularity: int = 4
    """Divisor of all sizes."""
    largest_units: int = 64
    epsilon: float = 1e-3
    """Least rise of ROC AUC that counts as one."""
    patience: int = 2
    """Doublings without a rise after which doubling ends."""
    second_look: bool = True
    """Whether the largest size is trained when doubling ends, and the search goes on below it if it meets the target.
    Without it, a task whose curve is flat over `patience` doublings counts as out of reach."""
    seeds: tuple[int, ...] = (7,)
    """Seeds of each trial; their median ROC AUC decides."""

    def __post_init__(self) -> None:
        for target in self.target_auc.values() if isinstance(self.target_auc, Mapping) else [self.target_auc]:
            if not 0.5 < target <= 1:
                raise FlowloomError(f"target_auc must be > 0.5 and <= 1, got {target}")
        if not 0 <= self.max_drop < 0.5:
            raise FlowloomError(f"max_drop must be >= 0 and < 0.5, got {self.max_drop}")
        for name in ("start_units", "granularity", "largest_units", "patience"):
            if getattr(self, name) < 1:
                raise FlowloomError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("start_units", "largest_units"):
            if getattr(self, name) % self.granularity:
                raise FlowloomError(
                    f"{name} must be a multiple of granularity {self.granularity}, got {getattr(self, name)}"
                )
        if self.start_units > self.largest_units:
            raise FlowloomError(f"start_units must be <= largest_units {self.largest_units}, got {self.start_units}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise FlowloomError(f"seeds must be one or more distinct numbers, got {list(self.seeds)}")

    def target(self, task: str) -> float:
        """Returns the least ROC AUC of a task on a single LSTM."""
        return self.target_auc[task] if isinstance(self.target_auc, Mapping) else self.target_auc


@dataclasses.dataclass(frozen=True)
class SingleNetwork:
    """The smallest LSTM of one task."""

    units: int
    """Smallest size known to meet the target; sizes below that of an earlier task are not tried."""
    auc: float
    met: bool
    """Whether it meets the target; if not, the largest expert does not either, or was not tried (`second_look`)."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The size that was found, and the trials of the search."""

    units: int
    experts: int
    auc: dict[str, float]
    """ROC AUC of that LMMoE by task."""
    met: bool
    """Whether all tasks are within `max_drop` of their target, or of their best single LSTM where that is lower."""
    singles: dict[str, SingleNetwork]
    trials: tuple[Trial, ...]
    """All trials in the order of their training."""
    exhaustive: int
    """Trainings of a full grid: every size for each task, and every number of experts."""


def tune(tasks: Sequence[str], oracle: Oracle, search: Search) -> Tuning:
    """Finds the smallest expert that serves every task alone, then the fewest experts that serve all tasks together.

    The size is found by doubling and bisection task by task, the number by bisection. The result is right if ROC AUC
    never falls with size. No trial is trained twice. Tasks that need the largest experts should come first.

    Args:
      tasks: at least one, in the order of the search.
      oracle: trains a trial.
      search: target and bounds.
    """
    known: dict[tuple[int, int, tuple[str, ...]], dict[str, float]] = {}
    trained: list[Trial] = []

    def auc(experts: int, units: int, among: tuple[str, ...]) -> dict[str, float]:
        if (key := (experts, units, among)) not in known:
            trials = [Trial(experts, units, among, seed) for seed in search.seeds]
            found = [oracle(trial) for trial in trials]
            trained.extend(trials)
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
        trials=tuple(trained),
        exhaustive=len(search.seeds) * len(tasks) * (search.largest_units // search.granularity + 1),
    )


def _smallest(task: str, auc: Callable[[int], float], floor: int, search: Search) -> SingleNetwork:
    """Returns the smallest size that meets the target, and is not below the floor that an earlier task needs."""
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
        flat = stalled >= search.patience
        if high == search.largest_units or (flat and not search.second_look):
            smallest = min(units for units, found in tried.items() if found >= best - search.epsilon)
            return SingleNetwork(smallest, tried[smallest], met=False)
        low, high = high, search.largest_units if flat else min(2 * high, search.largest_units)
    while high - low > search.granularity:
        middle = (low + high) // 2 // search.granularity * search.granularity
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return SingleNetwork(high, tried[high], met=True)
