"""Splits: they depend on seed, ids and labels alone; classes with enough groups are in every split."""

import collections
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLITS, Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.splits.splits import assign_splits, plan_splits, quotas

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns", "chat"))
ATTACK = Task(name="attack", kind="binary")


def named(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


def labels_of(codes: list[tuple[int | None, ...]]) -> list[GroupLabels]:
    return [GroupLabels(named(at), code, (), True) for at, code in enumerate(codes)]


@given(st.integers(0, 500), st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any))
def test_quotas_add_up_and_come_near_the_shares(count, weights):
    shares = [weight / sum(weights) for weight in weights]
    parts = quotas(count, shares)
    assert sum(parts) == count
    wanted = [share for share in shares if share]
    for part, share in zip(parts, shares, strict=True):
        assert part or not share or count < len(wanted)
        assert not part or share
        assert abs(part - count * share) < len(shares)


def test_quotas_follow_the_largest_remainders():
    assert quotas(10, (0.64, 0.16, 0.20)) == [6, 2, 2]
    assert quotas(3, (0.64, 0.16, 0.20)) == [1, 1, 1]
    assert quotas(2, (0.64, 0.16, 0.20)) == [1, 0, 1]
    assert quotas(5, (0.8, 0.0, 0.2)) == [4, 0, 1]


@settings(deadline=None)
@given(st.lists(st.integers(3, 30), min_size=1, max_size=4), st.integers(0, 5))
def test_every_class_of_one_task_gets_its_quota(sizes, seed):
    codes = [(code,) for code, size in enumerate(sizes) for _ in range(size)]
    split_plan = plan_splits(labels_of(codes), [APP], Splits(seed=seed))
    assert split_plan.rule.by == "capture"
    for code, size in enumerate(sizes):
        counts = collections.Counter(split_plan.of_group[named(at)] for at, c in enumerate(codes) if c == (code,))
        assert [counts[at] for at in range(3)] == quotas(size, split_plan.rule.shares)


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(0, 1)), min_size=1, max_size=60))
def test_several_tasks_are_in_every_split_or_the_rule_gives_the_reason(codes):
    split_plan = plan_splits(labels_of(codes), [APP, ATTACK], Splits())
    classes = collections.defaultdict(set)
    counts = collections.Counter()
    for at, code in enumerate(codes):
        for key in [(task, value) for task, value in enumerate(code) if value is not None]:
            counts[key] += 1
            if split_plan.of_group:
                classes[key].add(split_plan.of_group[named(at)])
    if split_plan.rule.by == "capture":
        assert all(len(reached) == 3 for reached in classes.values())
    elif all(count >= 3 for count in counts.values()):
        assert "no split by capture" in split_plan.rule.reason
    else:
        assert "needs 3 capture groups" in split_plan.rule.reason


def test_the_seed_changes_splits_and_the_order_of_groups_does_not():
    labels = labels_of([(at % 4,) for at in range(80)])
    one = plan_splits(labels, [APP], Splits())
    assert plan_splits(labels[::-1], [APP], Splits()) == one
    assert plan_splits(labels, [APP], Splits(seed=8)).of_group != one.of_group


def test_few_groups_of_a_class_are_split_by_flow_with_the_reason():
    split_plan = plan_splits(labels_of([(0,)] * 5 + [(1,)] * 2), [APP], Splits())
    assert (split_plan.rule.by, split_plan.of_group) == ("flow", {})
    assert "app=ssh (2)" in split_plan.rule.reason
    assert "web" not in split_plan.rule.reason


def test_groups_without_records_do_not_count():
    labels = [*labels_of([(0,)] * 5), GroupLabels("f" * 16, (1,), (), has_records=False)]
    assert plan_splits(labels, [APP], Splits()).rule.by == "capture"


def test_the_manifest_can_force_a_split_by_capture():
    labels = labels_of([(0,)] * 5 + [(1,)] * 2)
    by_capture = plan_splits(labels, [APP], Splits(by="capture"))
    assert by_capture.rule.by == "capture"
    assert "not in every split: app=ssh (2)" in by_capture.rule.reason
    assert plan_splits(labels_of([(0,)] * 9), [APP], Splits(by="flow")).rule.by == "flow"


def test_rows_follow_their_group():
    split_plan = plan_splits(labels_of([(0,)] * 9), [APP], Splits())
    for group, split in split_plan.of_group.items():
        assert assign_splits(synthetic_flows(3, group=group), split_plan)["split"].to_pylist() == [split] * 3


@pytest.mark.parametrize("shares", [(0.64, 0.16, 0.20), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0)])
def test_flows_are_split_by_a_hash_of_their_id(shares):
    splits = Splits(by="flow", **dict(zip(SPLITS, shares, strict=True)))
    split_plan = plan_splits([], [APP], splits)
    flows = synthetic_flows(20_000)
    assigned = assign_splits(flows, split_plan)
    counts = np.bincount(assigned["split"].to_pylist(), minlength=3) / 20_000
    np.testing.assert_allclose(counts, shares, atol=0.02)
    assert assign_splits(flows.slice(7, 90), split_plan).equals(assigned.slice(7, 90))
    other = plan_splits([], [APP], splits.model_copy(update={"seed": 8}))
    assert max(shares) == 1 or not assign_splits(flows, other).equals(assigned)
