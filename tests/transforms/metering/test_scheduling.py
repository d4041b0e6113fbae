"""Scheduling: work is dealt evenly to workers, and the same way every time."""

from hypothesis import given
from hypothesis import strategies as st

from flowloom.transforms.metering.scheduling import deal

costs = st.lists(st.floats(0, 1e9), max_size=40)


@given(costs, st.integers(1, 6))
def test_no_worker_gets_more_than_its_share_and_one_task(costs, workers):
    dealt = deal(costs, workers)
    assert len(dealt) == len(costs)
    loads = [sum(cost for cost, worker in zip(costs, dealt, strict=True) if worker == each) for each in range(workers)]
    assert set(dealt) <= set(range(workers))
    assert max(loads) <= sum(costs) / workers + max(costs, default=0) + 1e-3
    assert dealt == deal(costs, workers)


@given(costs)
def test_with_a_worker_for_each_task_no_worker_gets_two(costs):
    assert sorted(deal([cost + 1 for cost in costs], len(costs) or 1)) == list(range(len(costs)))
