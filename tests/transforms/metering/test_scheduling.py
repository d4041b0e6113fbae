"""Work is dealt so that no worker waits long for another, and the same way every time."""

from hypothesis import given
from hypothesis import strategies as st

from flowloom.transforms.metering.scheduling import deal

costs = st.lists(st.floats(0, 1e9), max_size=40)


@given(costs, st.integers(1, 6))
def test_no_lane_bears_more_than_its_share_and_one_task(costs, lanes):
    dealt = deal(costs, lanes)
    assert len(dealt) == len(costs)
    loads = [sum(cost for cost, lane in zip(costs, dealt, strict=True) if lane == each) for each in range(lanes)]
    assert set(dealt) <= set(range(lanes))
    assert max(loads) <= sum(costs) / lanes + max(costs, default=0) + 1e-3
    assert dealt == deal(costs, lanes)


@given(costs)
def test_with_a_lane_for_each_task_none_shares(costs):
    assert sorted(deal([cost + 1 for cost in costs], len(costs) or 1)) == list(range(len(costs)))
