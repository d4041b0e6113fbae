"""Host pairs: all flows of two hosts are in one split, and each class has its quotas of pairs."""

import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, Splits
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.apportion import quotas
from flowloom.transforms.splits.host_pairs import merge_pairs, pair_classes, pair_hashes
from flowloom.transforms.splits.splits import assign_splits, plan_pair_splits, plan_splits

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns"))
ATTACK = Task(name="attack", kind="binary")
TASKS = (APP, ATTACK)
BY_PAIR = Splits(by="host_pair")

rows = st.tuples(st.integers(0, 5), st.integers(0, 5), st.none() | st.integers(0, 2), st.none() | st.integers(0, 1))


def flows_of(cells: list[tuple[int, int, int | None, int | None]]) -> pa.RecordBatch:
    flows = synthetic_flows(len(cells))
    for name, place in (("src_ip", 0), ("dst_ip", 1)):
        at = flows.schema.get_field_index(name)
        hosts = pa.array([bytes(15) + bytes([cell[place]]) for cell in cells], pa.binary(16))
        flows = flows.set_column(at, flows.schema.field(at), hosts)
    for task, place in ((APP, 2), (ATTACK, 3)):
        codes = pa.array([cell[place] for cell in cells], pa.int32())
        flows = flows.append_column(pa.field(f"label_{task.name}", pa.int32()), codes)
    return flows


def planned(flows: pa.RecordBatch, splits: Splits = BY_PAIR):
    return plan_pair_splits(plan_splits([], TASKS, splits), pair_classes(flows, TASKS, splits.seed), TASKS)


def assigned(flows: pa.RecordBatch, splits: Splits = BY_PAIR) -> list[int]:
    return assign_splits(flows, planned(flows, splits))[SPLIT_COLUMN].to_pylist()


@settings(deadline=None, max_examples=25)
@given(st.lists(rows, min_size=1, max_size=60))
def test_a_pair_is_in_one_split_in_either_direction(cells):
    found = collections.defaultdict(set)
    for cell, split in zip(cells, assigned(flows_of(cells)), strict=True):
        found[frozenset(cell[:2])].add(split)
    assert all(len(splits) == 1 for splits in found.values())


@settings(deadline=None, max_examples=25)
@given(st.lists(rows, min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_batches_and_their_order_do_not_change_the_splits(cells, edges):
    cuts = sorted({0, len(cells), *(min(edge, len(cells)) for edge in edges)})
    flows = flows_of(cells)
    parts = [flows.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    pairs = [pair_classes(part, TASKS, BY_PAIR.seed) for part in parts]
    merged = merge_pairs([merge_pairs(pairs[::-1]), merge_pairs([])])
    assert plan_pair_splits(plan_splits([], TASKS, BY_PAIR), merged, TASKS) == planned(flows)


@pytest.mark.parametrize("sizes", [(100, 40, 11), (3, 3, 3), (200, 2, 0)])
def test_each_class_gets_its_quotas_of_pairs(sizes):
    cells, host = [], 0
    for code, size in enumerate(sizes):
        for _ in range(size):
            cells += [(host % 250, 250 + host // 250, code, None)] * (1 + host % 3)
            host += 1
    found = collections.defaultdict(set)
    for cell, split in zip(cells, assigned(flows_of(cells)), strict=True):
        found[cell[2], split].add(cell[:2])
    for code, size in enumerate(sizes):
        assert [len(found[code, split]) for split in range(3)] == quotas(size, BY_PAIR.shares)


def test_a_class_with_too_few_pairs_is_in_the_reason():
    cells = [(1, 2, 1, None)] * 5 + [(host, 0, 0, None) for host in range(3, 30)]
    rule = planned(flows_of(cells)).rule
    assert rule.reason == "chosen explicitly; not in every split: app=ssh (1)"
    assert rule.by == "host_pair"


def test_the_seed_changes_the_splits():
    cells = [(host, 0, 0, None) for host in range(100)]
    assert assigned(flows_of(cells)) != assigned(flows_of(cells), Splits(by="host_pair", seed=8))


def test_hashes_are_equal_in_both_directions_and_few_collide():
    flows = synthetic_flows(5000)
    other_way = {"src_ip": "dst_ip", "dst_ip": "src_ip"}
    swapped = flows.rename_columns([other_way.get(name, name) for name in flows.schema.names])
    hashes = pair_hashes(flows, 7)
    assert np.array_equal(pair_hashes(swapped, 7), hashes)
    assert len(np.unique(hashes)) == 5000
