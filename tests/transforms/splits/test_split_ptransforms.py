"""PTransforms of splits, run eagerly: each gives the same results as the function of its name in memory."""

import pyarrow as pa
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, Splits
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.splits.leakage import count_leakage, spill_sightings
from flowloom.transforms.splits.split_ptransforms import (
    AssignSplits,
    AssignSplitsAndBins,
    CompleteSplitPlan,
    CountLeakage,
)
from flowloom.transforms.splits.splits import (
    assign_splits,
    assign_splits_and_bins,
    complete_split_plan,
    plan_splits,
)

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
LENGTH = Task(name="length", kind="auto", quantity="duration", dividers=Dividers(method="given", at=(0.05,)))


def labelled(seed: int) -> pa.RecordBatch:
    flows = synthetic_flows(50, seed=seed)
    return flows.append_column("label_app", pa.array([at % 2 for at in range(50)], pa.int32()))


BATCHES = [labelled(seed) for seed in range(3)]


@pytest.mark.parametrize("by", ["time", "host_pair"])
def test_plans_are_completed_from_all_flows(by):
    splits = Splits(by=by)
    draft = plan_splits([], [APP], splits)
    expected = complete_split_plan(draft, BATCHES, [APP], splits)
    assert expected != draft
    assert BATCHES | CompleteSplitPlan(draft, (APP,), splits) == [expected]


def test_flows_get_their_split():
    plan = plan_splits([], [APP], Splits(by="flow"))
    assert BATCHES | AssignSplits(plan) == [assign_splits(flows, plan) for flows in BATCHES]


@pytest.mark.parametrize("bins", [None, LabelBins((APP, LENGTH))])
@pytest.mark.parametrize("plan", [None, plan_splits([], [APP], Splits(by="flow"))])
def test_flows_get_their_split_and_measured_labels(plan, bins):
    finished = BATCHES | AssignSplitsAndBins(plan, bins)
    assert finished == [assign_splits_and_bins(flows, plan, bins) for flows in BATCHES]
    added = [*([SPLIT_COLUMN] if plan else []), *(["label_length"] if bins else [])]
    assert finished[0].schema.names == [*BATCHES[0].schema.names, *added]


def test_leakage_is_counted_over_all_splits(tmp_path):
    sighted = [
        each
        for split in ("train", "test")
        for each in spill_sightings([BATCHES[0], BATCHES[1]], split, ["app"], str(tmp_path))
    ]
    expected = count_leakage(sighted, ("app",))
    assert sorted(map(str, sighted | CountLeakage(("app",)))) == sorted(map(str, expected)) != []
