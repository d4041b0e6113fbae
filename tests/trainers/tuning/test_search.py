"""The search for sizes against a full grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.tuning.search import Search, Trial, tune

SEARCH = Search(target_auc=0.9, max_drop=0.02, patience=99)
GRID = range(SEARCH.granularity, SEARCH.largest_units + 1, SEARCH.granularity)


def rising(draw, places):
    """A curve that never falls, with plateaus and jumps; its last value may be below the target."""
    steps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.3]), min_size=places, max_size=places))
    top = draw(st.sampled_from([0.85, 0.92, 0.99]))
    curve = 0.5 + np.cumsum(steps)
    return np.minimum(curve, top)


@st.composite
def worlds(draw, always_reached=False):
    """AUC of every single LSTM by (task, units), and of the LMMoE by (task, experts)."""
    tasks = [f"task{n}" for n in range(draw(st.integers(1, 5)))]
    single, mixed = {}, {}
    for task in tasks:
        curve = rising(draw, len(GRID))
        if always_reached:
            curve[-1] = 0.95
        single.update(((task, units), float(auc)) for units, auc in zip(GRID, curve, strict=True))
        mixed.update(((task, n), float(auc)) for n, auc in enumerate(rising(draw, len(tasks)), start=1))
    return tasks, single, mixed


class World:
    """An oracle that counts its trials."""

    def __init__(self, tasks, single, mixed):
        self.tasks, self.single, self.mixed, self.trials = tasks, single, mixed, []

    def __call__(self, trial):
        self.trials.append(trial)
        if len(trial.tasks) == 1:
            (task,) = trial.tasks
            return {task: self.single[task, trial.units]}
        return {task: self.mixed[task, trial.experts] for task in trial.tasks}


def exhaustive(world):
    """Returns (units, experts, met) of a full grid; a task that never meets the target takes its best size."""
    needed, wanted = {}, {}
    for task in world.tasks:
        curve = {units: world.single[task, units] for units in GRID}
        reaching = [units for units, auc in curve.items() if auc >= SEARCH.target_auc]
        needed[task] = min(reaching or [u for u, auc in curve.items() if auc >= max(curve.values()) - SEARCH.epsilon])
    units = max(needed.values())
    for task in world.tasks:
        wanted[task] = min(SEARCH.target_auc, world.single[task, units]) - SEARCH.max_drop
    if len(world.tasks) == 1:
        return units, 1, True
    counts = range(1, len(world.tasks) + 1)
    enough = [n for n in counts if all(world.mixed[task, n] >= wanted[task] for task in world.tasks)]
    return units, min(enough, default=len(world.tasks)), bool(enough)


@settings(max_examples=60, deadline=None)
@given(worlds(always_reached=True))
def test_the_best_size_is_found_by_at_most_half_of_the_trainings(world):
    world = World(*world)
    found = tune(world.tasks, world, SEARCH)
    assert (found.units, found.experts, found.met) == exhaustive(world)
    assert all(single.met for single in found.singles.values())
    assert 2 * len(found.trials) <= found.exhaustive == len(world.tasks) * (len(GRID) + 1)
    assert tuple(world.trials) == found.trials
    assert len(set(world.trials)) == len(world.trials)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_an_unmet_target_is_reported(world):
    """Doubling skips sizes: a task below the target may get a larger size than it needs, never a smaller one."""
    world = World(*world)
    found = tune(world.tasks, world, SEARCH)
    for task, single in found.singles.items():
        best = max(world.single[task, units] for units in GRID)
        assert single.met == (best >= SEARCH.target_auc)
        assert world.single[task, found.units] >= min(best, SEARCH.target_auc) - SEARCH.epsilon
    assert found.auc == world(Trial(found.experts, found.units, tuple(world.tasks), 7))
    assert 2 * len(found.trials) <= found.exhaustive


@pytest.mark.parametrize(
    ("second_look", "sizes"), [(False, [4, 8, 16, 32]), (True, [4, 8, 16, 32, 1024])], ids=["give up", "look again"]
)
def test_a_flat_curve_stops_early(second_look, sizes):
    tried = []

    def oracle(trial):
        tried.append(trial.units)
        return {"a": {4: 0.6, 8: 0.7}.get(trial.units, 0.7005)}

    bounds = {"start_units": 4, "largest_units": 1024, "patience": 2, "second_look": second_look}
    found = tune(["a"], oracle, Search(target_auc=0.9, max_drop=0.0, **bounds))
    assert tried == sizes
    assert found.singles["a"].units == found.units == 8
    assert not found.singles["a"].met


def step_like(generator):
    """Returns a curve over all sizes that rises in at most four steps, the last one above 0.9, anywhere."""
    units = np.arange(4, 65, 4)
    steps = np.sort(generator.choice(units, generator.integers(1, 5), replace=False))
    heights = np.sort(generator.uniform(0.5, 0.9, len(steps)))
    heights[-1] = generator.uniform(0.9, 1.0)
    return {int(size): float([0.5, *heights][np.searchsorted(steps, size, side="right")]) for size in units}


def test_step_like_curves_do_not_end_the_search_before_the_target():
    """All 1,000 curves reach the target; without a second look the search gives up on more than half of them."""
    generator = np.random.default_rng(0)
    curves = [step_like(generator) for _ in range(1000)]
    given_up, trainings = {}, {}
    for second_look in (False, True):
        search = Search(target_auc=0.9, max_drop=0.0, start_units=4, second_look=second_look)
        found = [tune(["a"], lambda trial, curve=curve: {"a": curve[trial.units]}, search) for curve in curves]
        given_up[second_look] = sum(not each.met or not each.singles["a"].met for each in found)
        trainings[second_look] = sum(len(each.trials) for each in found) / len(found)
        if second_look:
            least = [min(size for size, auc in curve.items() if auc >= 0.9) for curve in curves]
            assert [each.units for each in found] == least
    assert given_up[True] == 0
    assert given_up[False] > 500
    assert trainings[True] <= trainings[False] + 3.5


def test_the_median_over_seeds_decides():
    def oracle(trial):
        lucky = trial.seed == 1
        return {"a": 0.99 if lucky or trial.units >= 32 else 0.6}

    found = tune(["a"], oracle, Search(target_auc=0.9, max_drop=0.0, seeds=(1, 2, 3)))
    assert found.units == 32
    assert {trial.seed for trial in found.trials} == {1, 2, 3}


def test_hardest_first_is_cheapest():
    needs = {"easy": 8, "middle": 24, "hard": 60}

    def oracle(trial):
        return {task: 0.95 if trial.units >= needs[task] else 0.6 for task in trial.tasks}

    counts = {order: len(tune(order, oracle, SEARCH).trials) for order in itertools.permutations(needs)}
    assert counts["hard", "middle", "easy"] == min(counts.values()) == counts["hard", "easy", "middle"]
    assert all(tune(order, oracle, SEARCH).units == 60 for order in counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_auc": 0.5}, "target_auc must be > 0.5"),
        ({"max_drop": -0.1}, "max_drop must be >= 0"),
        ({"start_units": 6}, "start_units must be a multiple of granularity 4, got 6"),
        ({"start_units": 128}, "start_units must be <= largest_units 64"),
        ({"patience": 0}, "patience must be >= 1"),
        ({"seeds": ()}, "seeds must be one or more"),
    ],
)
def test_invalid_searches_are_refused(changes, message):
    with pytest.raises(FlowloomError, match=message):
        Search(**{"target_auc": 0.9, "max_drop": 0.02, **changes})
