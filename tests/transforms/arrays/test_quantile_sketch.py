"""Order sketches are the same for any order of merging; cuts by time are ordered and of the right size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, Splits
from flowloom.schemas.dataset.card_parts import SplitRule
from flowloom.transforms.arrays import quantile_sketch
from flowloom.transforms.arrays.apportion import quotas
from flowloom.transforms.arrays.columns import column
from flowloom.transforms.arrays.quantile_sketch import OrderSketch, cut_by_shares, merge_sketches
from flowloom.transforms.splits.splits import SplitPlan, assign_splits, plan_splits, plan_time_splits, sketch_starts

SHARES = (0.64, 0.16, 0.20)


def flows_at(starts: list[int]):
    flows = synthetic_flows(len(starts))
    at = flows.schema.get_field_index("start")
    return flows.set_column(at, flows.schema.field(at), column(np.array(starts, np.int64), flows.schema.field(at).type))


def same(one: OrderSketch, other: OrderSketch) -> bool:
    arrays = zip((one.bins, one.counts), (other.bins, other.counts), strict=True)
    return one.shift == other.shift and all(np.array_equal(a, b) for a, b in arrays)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_any_cuts_and_order_merge_to_the_sketch_of_the_whole(starts, edges):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantile_sketch, "MOST_BINS", 7)
        whole = sketch_starts(flows_at(starts))
        parts = [sketch_starts(flows_at(list(part))) for part in np.split(np.array(starts), sorted(edges))]
        assert same(merge_sketches(parts), whole)
        assert same(merge_sketches(parts[::-1]), whole)
        assert same(merge_sketches([merge_sketches(parts[:2]), merge_sketches(parts[2:])]), whole)
        assert len(whole.bins) <= 7
        assert whole.counts.sum() == len(starts)
        assert whole.shift == 0 or len(np.unique(np.array(starts) >> (whole.shift - 1))) > 7


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 10**15), min_size=3, max_size=200, unique=True))
def test_distinct_starts_are_shared_out_by_quota_in_order(starts):
    flows = flows_at(starts)
    split_plan = plan_time_splits(plan_splits([], [], Splits(by="time")), sketch_starts(flows))
    split = np.array(assign_splits(flows, split_plan)[SPLIT_COLUMN].to_pylist())
    assert np.bincount(split, minlength=3).tolist() == quotas(len(starts), SHARES)
    assert (np.diff(split[np.argsort(starts)]) >= 0).all(), "train is before validation is before test"
    assert split_plan.rule.by == "time"
    assert split_plan.rule.reason == "chosen explicitly"


def test_flows_of_one_start_stay_together():
    cuts = cut_by_shares(sketch_starts(flows_at([5] * 90 + [9] * 10)), SHARES)
    assert cuts == (9, 9)
    assert cut_by_shares(sketch_starts(flows_at([5] * 10 + [9] * 90)), SHARES) == (10, 10)


def test_many_starts_are_cut_near_their_quotas():
    flows = synthetic_flows(100_000)
    sketch = sketch_starts(flows)
    assert sketch.shift > 0
    split_plan = plan_time_splits(plan_splits([], [], Splits(by="time")), sketch)
    counts = np.bincount(assign_splits(flows, split_plan)[SPLIT_COLUMN].to_pylist(), minlength=3)
    np.testing.assert_allclose(counts / 100_000, SHARES, atol=1e-4)


def test_a_share_of_nothing_gets_nothing():
    cuts = cut_by_shares(sketch_starts(flows_at(list(range(10)))), (0.5, 0.0, 0.5))
    assert cuts == (5, 5)
    assert cut_by_shares(OrderSketch(), SHARES) == (0, 0)


def test_rows_cannot_be_assigned_before_all_flows_were_seen():
    rule = SplitRule(by="time", reason="", seed=7, shares=SHARES)
    with pytest.raises(ValueError, match="needs cuts from plan_time_splits"):
        assign_splits(synthetic_flows(3), SplitPlan(rule, {}))
